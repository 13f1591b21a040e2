package bundle

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// resources checks the limits; at is "linux.resources", or "" in a file of their own.
func resources(at string, r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	in := func(name string) string { return Key(at, name) }
	for i := range r.Devices {
		if err := deviceRule(Index(in("devices"), i), &r.Devices[i]); err != nil {
			return err
		}
	}
	if err := memory(in("memory"), r.Memory); err != nil {
		return err
	}
	if err := cpu(in("cpu"), r.CPU); err != nil {
		return err
	}
	if err := blockIO(in("blockIO"), r.BlockIO); err != nil {
		return err
	}
	for i, h := range r.HugepageLimits {
		digits := strings.TrimRight(h.Pagesize, "KMGB")
		if n, err := strconv.ParseUint(digits, 10, 32); err != nil || n == 0 || !oneOf(h.Pagesize[len(digits):], "KB", "MB", "GB") {
			return Refuse(Index(in("hugepageLimits"), i)+".pageSize", Quote(h.Pagesize)+` is not a page size ("2MB", "1GB")`)
		}
	}
	if n := r.Network; n != nil {
		for i, p := range n.Priorities {
			if !interfaceName(p.Name) {
				return Refuse(Index(in("network")+".priorities", i)+".name", Quote(p.Name)+" is not the name of a network interface")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Rdma)) {
		if name == "" || strings.ContainsAny(name, " \t\n/") {
			return Refuse(Key(in("rdma"), name), "is not the name of an rdma device")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Unified)) {
		// The name is a file of the cgroup; with a slash it would be another cgroup's.
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\n") {
			return Refuse(Key(in("unified"), name), "is not the name of a cgroup file")
		}
	}
	return nil
}

func oneOf(s string, words ...string) bool {
	for _, w := range words {
		if s == w {
			return true
		}
	}
	return false
}

func deviceRule(at string, d *specs.LinuxDeviceCgroup) error {
	if !oneOf(d.Type, "", "a", "b", "c") {
		return Refuse(at+".type", Quote(d.Type)+" is not a device type (a, b, c)")
	}
	if d.Access == "" {
		return Refuse(at+".access", "is missing or empty")
	}
	if strings.Trim(d.Access, "rwm") != "" {
		return Refuse(at+".access", Quote(d.Access)+` is not made of "r", "w" and "m"`)
	}
	// -1 is how runc's users have always written "any".
	if d.Major != nil && (*d.Major < -1 || *d.Major >= 1<<12) {
		return Refuse(at+".major", strconv.FormatInt(*d.Major, 10)+" is not between 0 and 4095")
	}
	if d.Minor != nil && (*d.Minor < -1 || *d.Minor >= 1<<20) {
		return Refuse(at+".minor", strconv.FormatInt(*d.Minor, 10)+" is not between 0 and 1048575")
	}
	return nil
}

func memory(at string, m *specs.LinuxMemory) error {
	if m == nil {
		return nil
	}
	for _, f := range []struct {
		name  string
		value *int64
	}{{"limit", m.Limit}, {"reservation", m.Reservation}, {"swap", m.Swap}} {
		if f.value != nil && *f.value < -1 {
			return Refuse(Key(at, f.name), strconv.FormatInt(*f.value, 10)+" is not a number of bytes, or -1 for no limit")
		}
	}
	if m.Limit != nil && m.Swap != nil && *m.Swap > 0 && *m.Limit > 0 && *m.Swap < *m.Limit {
		return Refuse(at+".swap", strconv.FormatInt(*m.Swap, 10)+" is less than limit "+strconv.FormatInt(*m.Limit, 10)+"; it is memory and swap together")
	}
	if m.Limit != nil && m.Swap != nil && *m.Limit == -1 && *m.Swap > 0 {
		return Refuse(at+".swap", "cannot be limited while limit is -1; it is memory and swap together")
	}
	// Kernel memory cannot be limited: cgroup v2 never could, v1 has refused since Linux
	// 5.16. runc warns and goes on; a limit that does not limit is refused here, and
	// "no limit" is what they get.
	if m.Kernel != nil && *m.Kernel > 0 { //nolint:staticcheck // deprecated
		return Refuse(at+".kernel", "kernel memory can no longer be limited on its own; use limit")
	}
	if m.KernelTCP != nil && *m.KernelTCP > 0 {
		return Refuse(at+".kernelTCP", "TCP buffers are part of limit; an own limit exists in cgroup v1 only and is not supported")
	}
	if m.Swappiness != nil && *m.Swappiness > 100 {
		return Refuse(at+".swappiness", strconv.FormatUint(*m.Swappiness, 10)+" is not between 0 and 100")
	}
	if m.UseHierarchy != nil && !*m.UseHierarchy {
		return Refuse(at+".useHierarchy", "Linux accounts memory by hierarchy always since 5.11")
	}
	return nil
}

func cpu(at string, c *specs.LinuxCPU) error {
	if c == nil {
		return nil
	}
	// 1 and 0 are what old Docker clients send; the kernel makes 2 of them.
	if c.Shares != nil && *c.Shares > 262144 {
		return Refuse(at+".shares", strconv.FormatUint(*c.Shares, 10)+" is not between 2 and 262144")
	}
	if c.Quota != nil && *c.Quota < -1 {
		return Refuse(at+".quota", strconv.FormatInt(*c.Quota, 10)+" is not a number of microseconds, or -1 for no limit")
	}
	if c.Idle != nil && *c.Idle != 0 && *c.Idle != 1 {
		return Refuse(at+".idle", strconv.FormatInt(*c.Idle, 10)+" is neither 0 nor 1")
	}
	if _, err := ParseList(c.Cpus); err != nil {
		return Refuse(at+".cpus", err.Error())
	}
	if _, err := ParseList(c.Mems); err != nil {
		return Refuse(at+".mems", err.Error())
	}
	return nil
}

func blockIO(at string, b *specs.LinuxBlockIO) error {
	if b == nil {
		return nil
	}
	weight := func(at string, w *uint16) error {
		if w != nil && *w != 0 && (*w < 10 || *w > 1000) {
			return Refuse(at, strconv.Itoa(int(*w))+" is not between 10 and 1000")
		}
		return nil
	}
	number := func(at string, d specs.LinuxBlockIODevice) error {
		if d.Major < 0 || d.Major >= 1<<12 {
			return Refuse(at+".major", strconv.FormatInt(d.Major, 10)+" is not between 0 and 4095")
		}
		if d.Minor < 0 || d.Minor >= 1<<20 {
			return Refuse(at+".minor", strconv.FormatInt(d.Minor, 10)+" is not between 0 and 1048575")
		}
		return nil
	}
	if err := weight(at+".weight", b.Weight); err != nil {
		return err
	}
	if err := weight(at+".leafWeight", b.LeafWeight); err != nil {
		return err
	}
	for i := range b.WeightDevice {
		d, here := &b.WeightDevice[i], Index(at+".weightDevice", i)
		if err := number(here, d.LinuxBlockIODevice); err != nil {
			return err
		}
		if d.Weight == nil && d.LeafWeight == nil {
			return Refuse(here, "has neither weight nor leafWeight")
		}
		if err := weight(here+".weight", d.Weight); err != nil {
			return err
		}
		if err := weight(here+".leafWeight", d.LeafWeight); err != nil {
			return err
		}
	}
	for _, t := range []struct {
		name string
		list []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", b.ThrottleReadBpsDevice}, {"throttleWriteBpsDevice", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", b.ThrottleReadIOPSDevice}, {"throttleWriteIOPSDevice", b.ThrottleWriteIOPSDevice},
	} {
		for i := range t.list {
			if err := number(Index(Key(at, t.name), i), t.list[i].LinuxBlockIODevice); err != nil {
				return err
			}
		}
	}
	return nil
}
