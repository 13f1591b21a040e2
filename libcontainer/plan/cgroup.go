package plan

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/cgroup"
	"thinrun/nsenter"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

type manager int

const (
	managerFS manager = iota
	managerSystemd
	managerNone
)

func (p *planner) manager() manager {
	switch p.opt.CgroupManager {
	case "disabled":
		return managerNone
	case "systemd":
		return managerSystemd
	case "cgroupfs":
		return managerFS
	}
	if p.opt.SystemdCgroup {
		return managerSystemd
	}
	return managerFS
}

// cgroup decides where the container's cgroup is and what it may use.
func (p *planner) cgroup() error {
	switch p.opt.CgroupManager {
	case "", "cgroupfs", "systemd", "disabled":
	default:
		return errors.New("cgroup manager " + bundle.Quote(p.opt.CgroupManager) + " is not cgroupfs, systemd or disabled")
	}
	c := &p.Cgroup
	c.Rootless = p.rootless() || p.facts.InUserNS
	switch p.manager() {
	case managerNone:
		c.Disabled = true
		return nil
	case managerSystemd:
		c.Systemd = true
		var err error
		if c.Path, err = p.systemdPath(); err != nil {
			return err
		}
	default:
		c.Path = p.cgroupfsPath()
	}
	var err error
	c.Resources, err = Resources(p.linux.Resources, p.facts)
	if err != nil {
		return err
	}
	c.Resources.Devices = append(c.Resources.Devices, defaultRules()...)
	c.OwnerUID = p.cgroupOwner()
	return nil
}

// cgroupfsPath is the cgroup's path below the root of each hierarchy. A relative one is
// relative to a place that the runtime chooses (config-linux.md): the root for root, the
// parent of the own cgroup for others, which is what systemd has delegated to them; the
// own one has processes in it, so it cannot have children with controllers.
func (p *planner) cgroupfsPath() string {
	name := p.linux.CgroupsPath
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	if name == "" {
		name = p.ID
	}
	base := "/"
	if p.rootless() && p.facts.OwnCgroup != "" {
		base = path.Dir(path.Clean("/" + p.facts.OwnCgroup))
	}
	return path.Join(base, path.Clean("/"+name))
}

func (p *planner) systemdPath() (string, error) {
	name := p.linux.CgroupsPath
	if name == "" {
		slice := "system.slice"
		if p.rootless() {
			slice = "user.slice"
		}
		return slice + ":thinrun:" + p.ID, nil
	}
	parts := strings.Split(name, ":")
	if len(parts) != 3 || parts[2] == "" || strings.ContainsAny(name, "/\n") {
		return "", bundle.Refuse("linux.cgroupsPath", bundle.Quote(name)+` is not of the form "slice:prefix:name", which systemd wants`)
	}
	return name, nil
}

// cgroupOwner is who may make cgroups below the container's: its user, when it has the
// v2 tree for itself (own namespace) and mounted writable (config-linux.md, Cgroup
// ownership).
func (p *planner) cgroupOwner() *int {
	if !p.facts.CgroupV2 || p.newNS&nsenter.Cgroup == 0 {
		return nil
	}
	writable := false
	for _, m := range p.Init.Rootfs.Mounts {
		if m.Type == "cgroup2" && m.Destination == "/sys/fs/cgroup" {
			writable = (m.Attr|m.RecAttr)&unix.MOUNT_ATTR_RDONLY == 0
		}
	}
	id := p.spec.Process.User.UID
	if p.has(nsenter.User) {
		var ok bool
		if id, ok = hostID(p.uidMap, id); !ok {
			return nil
		}
	}
	if !writable || id == 0 {
		return nil
	}
	owner := int(id)
	return &owner
}

// rule is a device cgroup rule; -1 stands for any number.
func rule(kind devices.Type, major, minor int64, access devices.Permissions) *devices.Rule {
	return &devices.Rule{Type: kind, Major: major, Minor: minor, Permissions: access, Allow: true}
}

// defaultRules come after the config's, so they cannot be taken away: runc's list, which
// every image relies on. Making nodes is harmless where opening them is not allowed.
func defaultRules() []*devices.Rule {
	const c, b, any = devices.CharDevice, devices.BlockDevice, devices.Wildcard
	return []*devices.Rule{
		rule(c, any, any, "m"),
		rule(b, any, any, "m"),
		rule(c, 1, 3, "rwm"),     // null
		rule(c, 1, 5, "rwm"),     // zero
		rule(c, 1, 7, "rwm"),     // full
		rule(c, 1, 8, "rwm"),     // random
		rule(c, 1, 9, "rwm"),     // urandom
		rule(c, 5, 0, "rwm"),     // tty
		rule(c, 5, 1, "rwm"),     // console
		rule(c, 5, 2, "rwm"),     // ptmx
		rule(c, 136, any, "rwm"), // pts
		rule(c, 10, 200, "rwm"),  // net/tun
	}
}

// Resources takes the limits out of the OCI types: for create, and for update. Where the
// cgroup library would leave a limit out in silence because the host's cgroup version has
// none like it, this refuses.
func Resources(r *specs.LinuxResources, facts Facts) (*cgroup.Resources, error) {
	out := &cgroup.Resources{}
	if r == nil {
		return out, nil
	}
	for i := range r.Devices {
		out.Devices = append(out.Devices, deviceRule(&r.Devices[i]))
	}
	if err := memoryLimits(out, r.Memory, facts); err != nil {
		return nil, err
	}
	if err := cpuLimits(out, r.CPU, facts); err != nil {
		return nil, err
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		// 0 is a limit since runtime-spec 1.3, and less than 0 is none.
		limit := max(*r.Pids.Limit, -1)
		out.PidsLimit = &limit
	}
	if err := ioLimits(out, r.BlockIO, facts); err != nil {
		return nil, err
	}
	for _, h := range r.HugepageLimits {
		out.HugetlbLimit = append(out.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	if err := networkLimits(out, r.Network, facts); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(r.Rdma)) {
		if out.Rdma == nil {
			out.Rdma = map[string]cgroups.LinuxRdma{}
		}
		out.Rdma[name] = cgroups.LinuxRdma{HcaHandles: r.Rdma[name].HcaHandles, HcaObjects: r.Rdma[name].HcaObjects}
	}
	if len(r.Unified) > 0 && !facts.CgroupV2 {
		return nil, bundle.Refuse("linux.resources.unified", "needs cgroup v2; this host has v1")
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		out.Unified[name] = r.Unified[name]
	}
	return out, nil
}

func deviceRule(d *specs.LinuxDeviceCgroup) *devices.Rule {
	out := &devices.Rule{
		Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard,
		Permissions: devices.Permissions(d.Access), Allow: d.Allow,
	}
	if d.Type != "" {
		out.Type = devices.Type(d.Type[0])
	}
	if d.Major != nil {
		out.Major = *d.Major
	}
	if d.Minor != nil {
		out.Minor = *d.Minor
	}
	return out
}

func memoryLimits(out *cgroup.Resources, m *specs.LinuxMemory, facts Facts) error {
	if m == nil {
		return nil
	}
	const at = "linux.resources.memory"
	value(&out.Memory, m.Limit)
	value(&out.MemoryReservation, m.Reservation)
	value(&out.MemorySwap, m.Swap)
	value(&out.OomKillDisable, m.DisableOOMKiller)
	value(&out.MemoryCheckBeforeUpdate, m.CheckBeforeUpdate)
	out.MemorySwappiness = m.Swappiness
	if !facts.CgroupV2 { // checkBeforeUpdate is what v1's kernel does anyway
		return nil
	}
	switch {
	case m.Swappiness != nil:
		return bundle.Refuse(at+".swappiness", "needs cgroup v1; v2 has one value for the host")
	case out.OomKillDisable:
		return bundle.Refuse(at+".disableOOMKiller", "needs cgroup v1")
	case out.MemorySwap > 0 && out.Memory == 0:
		// v2 limits swap alone, so the sum cannot be taken apart.
		return bundle.Refuse(at+".swap", "needs memory.limit too; it is memory and swap together")
	}
	return nil
}

func cpuLimits(out *cgroup.Resources, c *specs.LinuxCPU, facts Facts) error {
	if c == nil {
		return nil
	}
	const at = "linux.resources.cpu"
	value(&out.CpuShares, c.Shares)
	if out.CpuShares != 0 {
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(out.CpuShares)
	}
	value(&out.CpuQuota, c.Quota)
	value(&out.CpuPeriod, c.Period)
	value(&out.CpuRtRuntime, c.RealtimeRuntime)
	value(&out.CpuRtPeriod, c.RealtimePeriod)
	out.CpuBurst, out.CPUIdle = c.Burst, c.Idle
	out.CpusetCpus, out.CpusetMems = c.Cpus, c.Mems
	if facts.CgroupV2 && out.CpuRtRuntime != 0 {
		return bundle.Refuse(at+".realtimeRuntime", "needs cgroup v1; v2 does not control realtime scheduling")
	}
	if facts.CgroupV2 && out.CpuRtPeriod != 0 {
		return bundle.Refuse(at+".realtimePeriod", "needs cgroup v1; v2 does not control realtime scheduling")
	}
	return nil
}

func ioLimits(out *cgroup.Resources, b *specs.LinuxBlockIO, facts Facts) error {
	if b == nil {
		return nil
	}
	const at = "linux.resources.blockIO"
	value(&out.BlkioWeight, b.Weight)
	value(&out.BlkioLeafWeight, b.LeafWeight)
	if facts.CgroupV2 && out.BlkioLeafWeight != 0 {
		return bundle.Refuse(at+".leafWeight", "needs cgroup v1 and the CFQ scheduler")
	}
	for i, d := range b.WeightDevice {
		var weight, leaf uint16
		value(&weight, d.Weight)
		value(&leaf, d.LeafWeight)
		if facts.CgroupV2 && leaf != 0 {
			return bundle.Refuse(bundle.Index(at+".weightDevice", i)+".leafWeight", "needs cgroup v1 and the CFQ scheduler")
		}
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, cgroups.NewWeightDevice(d.Major, d.Minor, weight, leaf))
	}
	throttle := func(list []specs.LinuxThrottleDevice) (out []*cgroups.ThrottleDevice) {
		for _, d := range list {
			out = append(out, cgroups.NewThrottleDevice(d.Major, d.Minor, d.Rate))
		}
		return out
	}
	out.BlkioThrottleReadBpsDevice = throttle(b.ThrottleReadBpsDevice)
	out.BlkioThrottleWriteBpsDevice = throttle(b.ThrottleWriteBpsDevice)
	out.BlkioThrottleReadIOPSDevice = throttle(b.ThrottleReadIOPSDevice)
	out.BlkioThrottleWriteIOPSDevice = throttle(b.ThrottleWriteIOPSDevice)
	return nil
}

func networkLimits(out *cgroup.Resources, n *specs.LinuxNetwork, facts Facts) error {
	if n == nil {
		return nil
	}
	const at = "linux.resources.network"
	value(&out.NetClsClassid, n.ClassID)
	if facts.CgroupV2 && out.NetClsClassid != 0 {
		return bundle.Refuse(at+".classID", "needs cgroup v1 (net_cls)")
	}
	if facts.CgroupV2 && len(n.Priorities) > 0 {
		return bundle.Refuse(at+".priorities", "needs cgroup v1 (net_prio)")
	}
	for _, p := range n.Priorities {
		out.NetPrioIfpriomap = append(out.NetPrioIfpriomap, &cgroups.IfPrioMap{Interface: p.Name, Priority: int64(p.Priority)})
	}
	return nil
}

// value copies what is there.
func value[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// plainErrno leaves the path out that a PathError would repeat.
func plainErrno(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
