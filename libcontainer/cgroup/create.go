package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	fs1 "github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/cgroups/fscommon"
	"golang.org/x/sys/unix"
)

// Create makes the cgroup and sets its limits while nobody is in it. One that exists is
// taken if it is empty and thawed: some managers make it themselves. What a failed
// Create made, it takes away again; directories above the container's stay.
func (c *Cgroup) Create() (err error) {
	var made []string
	defer func() {
		for _, dir := range slices.Backward(made) {
			if err != nil {
				_ = unix.Rmdir(dir)
			}
		}
	}()
	for _, dir := range c.dirs() {
		isNew, err := c.mkdir(dir)
		switch {
		case err != nil && c.tolerates(err):
			c.forget(dir)
		case err != nil:
			return err
		case isNew:
			made = append(made, dir)
		default:
			c.existed = true
			if err := c.checkUnused(dir); err != nil {
				return err
			}
		}
	}
	if c.cfg.Resources != nil {
		if err := c.set(c.cfg.Resources); err != nil {
			return err
		}
	}
	return c.delegate()
}

// mkdir makes one directory and those above it.
func (c *Cgroup) mkdir(dir string) (isNew bool, err error) {
	if dir == c.paths[""] {
		if err := c.mkdirParents2(dir); err != nil {
			return false, err
		}
	} else if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return false, fmt.Errorf("cgroup: %w", err)
	}
	err = unix.Mkdir(dir, 0o755)
	isNew = err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("cgroup: mkdir %s: %w", dir, err)
	}
	if dir == c.paths[""] {
		err = checkDomain(dir)
	} else {
		err = c.prepare1(dir)
	}
	if err != nil && isNew {
		_ = unix.Rmdir(dir)
		isNew = false
	}
	return isNew, err
}

// mkdirParents2 makes the directories above dir and passes the controllers down to it:
// a controller is in a cgroup2 when each one above has it in cgroup.subtree_control.
// One that cannot be passed on is missed only when a limit needs it; see explain.
func (c *Cgroup) mkdirParents2(dir string) error {
	rel := strings.TrimPrefix(filepath.Dir(dir), c.host.Unified)
	at := c.host.Unified
	// In a hybrid cgroup2 has no controllers to speak of, and is not ours to configure
	// unless a limit needs it.
	pass := c.host.V2 || c.cfg.Resources != nil && len(c.cfg.Resources.HugetlbLimit) > 0 && c.paths["hugetlb"] == ""
	if pass {
		if err := enable(at); err != nil {
			return err
		}
	}
	for name := range strings.SplitSeq(strings.Trim(rel, "/"), "/") {
		if name == "" {
			break
		}
		at += "/" + name
		if err := unix.Mkdir(at, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cgroup: mkdir %s: %w", at, err)
		}
		if pass {
			if err := enable(at); err != nil {
				return err
			}
		}
	}
	return nil
}

// enable writes only what is not enabled yet: a needless write takes the cgroup lock and
// waits for cgroups that are being removed.
func enable(dir string) error {
	have, err := read(dir + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("cgroup: %s: %w", dir, err)
	}
	passed, err := read(dir + "/cgroup.subtree_control")
	if err != nil {
		return fmt.Errorf("cgroup: %s: %w", dir, err)
	}
	on := strings.Fields(passed)
	for name := range strings.FieldsSeq(have) {
		if !slices.Contains(on, name) {
			// One by one: together, one that is refused would take the others along.
			_ = write(dir+"/cgroup.subtree_control", "+"+name)
		}
	}
	return nil
}

// checkDomain refuses a cgroup that could hold only threads of others' processes.
func checkDomain(dir string) error {
	kind, err := read(dir + "/cgroup.type")
	if err != nil {
		return fmt.Errorf("cgroup: %s: %w", dir, err)
	}
	if kind = strings.TrimSpace(kind); kind != "domain" {
		return fmt.Errorf("cgroup: %s is %q: a cgroup above it holds processes or threads itself; choose another linux.cgroupsPath", dir, kind)
	}
	return nil
}

// prepare1 does what must come before the first process: a cpuset without cpus or mems
// takes none, and real-time tasks need their share.
func (c *Cgroup) prepare1(dir string) error {
	r := c.cfg.Resources
	if r == nil {
		r = new(Resources)
	}
	if dir == c.paths["cpuset"] {
		if err := (&fs1.CpusetGroup{}).ApplyDir(dir, r, -1); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	if dir == c.paths["cpu"] {
		if err := (&fs1.CpuGroup{}).SetRtSched(dir, r); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// checkUnused refuses a cgroup in which somebody lives, or nobody could: runc's rule.
func (c *Cgroup) checkUnused(dir string) error {
	pids, err := procs(dir)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d process(es) found in %s; choose another linux.cgroupsPath", len(pids), dir)
	}
	frozen, err := isFrozen(dir, dir == c.paths[""])
	if err != nil {
		return err
	}
	if frozen {
		return fmt.Errorf("container's cgroup unexpectedly frozen: %s; thaw it or choose another linux.cgroupsPath", dir)
	}
	return nil
}

// forget drops a directory that a rootless caller may not make.
func (c *Cgroup) forget(dir string) {
	for key, d := range c.paths {
		if d == dir {
			delete(c.paths, key)
		}
	}
}

// Set changes the limits of a living container. Device rules stay as they are.
func (c *Cgroup) Set(r *Resources) error {
	changed := *r
	changed.SkipDevices = true
	return c.set(&changed)
}

func (c *Cgroup) set(r *Resources) error {
	if !r.SkipDevices {
		if err := c.setDevices(r.Devices); err != nil && !c.tolerates(err) {
			return err
		}
	}
	// The library's own device code is not linked in: it brings debug/elf and go/printer
	// along and asks the kernel more than a new cgroup needs.
	limits := *r
	limits.Devices, limits.SkipDevices = nil, true
	if len(limits.Unified) == 0 {
		limits.Unified = nil // to the library an empty map is a wish for cgroup2
	}
	if err := c.checkControllers(&limits); err != nil || len(c.paths) == 0 {
		return err
	}
	if c.host.V2 {
		m, err := fs2.NewManager(&cgroups.Cgroup{Rootless: c.cfg.Rootless, Path: c.cfg.Path, Resources: &Resources{}}, c.paths[""])
		if err == nil {
			err = m.Set(&limits)
		}
		return c.explain(err)
	}
	// In a hybrid, a controller is in one place: what no v1 hierarchy has, such as
	// hugetlb, cgroup2 may.
	if c.paths["hugetlb"] == "" && c.paths[""] != "" && len(limits.HugetlbLimit) > 0 {
		m, err := fs2.NewManager(&cgroups.Cgroup{Resources: &Resources{}}, c.paths[""])
		if err == nil {
			err = m.Set(&Resources{HugetlbLimit: limits.HugetlbLimit, SkipDevices: true})
		}
		if err != nil {
			return c.explain(err)
		}
		limits.HugetlbLimit = nil
	}
	m, err := fs1.NewManager(&cgroups.Cgroup{Rootless: c.cfg.Rootless, Path: c.cfg.Path, Resources: &Resources{}}, c.paths)
	if err == nil {
		err = m.Set(&limits)
	}
	return c.explain(err)
}

// checkControllers says which limit cannot be set because a v1 host, or a rootless
// caller, has no cgroup for it. On cgroup2 the missing file tells: explain.
func (c *Cgroup) checkControllers(r *Resources) error {
	if c.host.V2 && c.paths[""] != "" {
		return nil
	}
	for _, limit := range []struct {
		controller, field string
		wanted            bool
	}{
		{"memory", "memory", r.Memory != 0 || r.MemoryReservation != 0 || r.MemorySwap != 0 || r.OomKillDisable || r.MemorySwappiness != nil},
		{"cpu", "cpu", r.CpuShares != 0 || r.CpuQuota != 0 || r.CpuPeriod != 0 || r.CpuBurst != nil || r.CPUIdle != nil || r.CpuRtRuntime != 0 || r.CpuRtPeriod != 0},
		{"cpuset", "cpu", r.CpusetCpus != "" || r.CpusetMems != ""},
		{"pids", "pids", r.PidsLimit != nil},
		{"blkio", "blockIO", r.BlkioWeight != 0 || r.BlkioLeafWeight != 0 || len(r.BlkioWeightDevice) > 0 ||
			len(r.BlkioThrottleReadBpsDevice) > 0 || len(r.BlkioThrottleWriteBpsDevice) > 0 ||
			len(r.BlkioThrottleReadIOPSDevice) > 0 || len(r.BlkioThrottleWriteIOPSDevice) > 0},
		{"hugetlb", "hugepageLimits", len(r.HugetlbLimit) > 0 && c.paths[""] == ""}, // see set
		{"net_cls", "network.classID", r.NetClsClassid != 0},
		{"net_prio", "network.priorities", len(r.NetPrioIfpriomap) > 0},
		{"rdma", "rdma", len(r.Rdma) > 0},
		{"", "unified", len(r.Unified) > 0},
	} {
		if limit.wanted && (limit.controller == "" || c.paths[limit.controller] == "") {
			why := "this host has no cgroup hierarchy for it"
			if c.cfg.Rootless {
				why = "the caller may not make a cgroup for it; run as root or drop the limit"
			}
			return fmt.Errorf("linux.resources.%s cannot be applied: %s", limit.field, why)
		}
	}
	return nil
}

// explain turns a missing control file into the missing controller. The words "no such
// file or directory" must not come out: to docker they say that the user's program is
// missing, exit 127.
func (c *Cgroup) explain(err error) error {
	if err == nil {
		return nil
	}
	var path *fs.PathError
	if !errors.As(err, &path) || !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cgroup: %w", err)
	}
	file := filepath.Base(path.Path)
	controller, _, _ := strings.Cut(file, ".")
	if c.host.V2 {
		up := filepath.Dir(filepath.Dir(path.Path))
		return fmt.Errorf("cgroup: %s cannot be set: the controller %q is not in %s/cgroup.subtree_control, or this kernel has no such limit", file, controller, up)
	}
	return fmt.Errorf("cgroup: %s cannot be set: this kernel's controller %q has no such limit", file, controller)
}

// delegate gives the cgroup2 to the container's root: the directory and the files that
// the kernel lists for it. Never the limits.
func (c *Cgroup) delegate() error {
	dir := c.paths[""]
	if c.cfg.OwnerUID == nil || dir == "" {
		return nil
	}
	names, err := read("/sys/kernel/cgroup/delegate") // Linux 4.15
	if err != nil {
		return fmt.Errorf("/sys/kernel/cgroup/delegate: %w", err)
	}
	if err := unix.Chown(dir, *c.cfg.OwnerUID, -1); err != nil {
		return fmt.Errorf("cgroup: chown %s: %w", dir, err)
	}
	for name := range strings.FieldsSeq(names) {
		// The kernel lists what it could have; memory.oom.group is there with memory only.
		if err := unix.Chown(filepath.Join(dir, name), *c.cfg.OwnerUID, -1); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cgroup: chown %s/%s: %w", dir, name, err)
		}
	}
	return nil
}

// Stats reads the counters.
func (c *Cgroup) Stats() (*Stats, error) {
	cg := &cgroups.Cgroup{Rootless: c.cfg.Rootless, Path: c.cfg.Path, Resources: &Resources{}}
	var m cgroups.Manager
	var err error
	if c.host.V2 {
		m, err = fs2.NewManager(cg, c.paths[""])
	} else {
		m, err = fs1.NewManager(cg, c.paths)
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup: %w", err)
	}
	return m.GetStats()
}

// OOMKills is how many processes the kernel killed because of the memory limit.
func (c *Cgroup) OOMKills() (uint64, error) {
	if c.host.V2 {
		return fs2.OOMKillCount(c.paths[""])
	}
	if c.paths["memory"] == "" {
		return 0, nil
	}
	return fs1.OOMKillCount(c.paths["memory"])
}

// ForksRefused is how many processes and threads the pids limit has refused.
func (c *Cgroup) ForksRefused() (uint64, error) {
	dir := c.pidsDir()
	if dir == "" {
		return 0, nil
	}
	return fscommon.GetValueByKey(dir, "pids.events", "max") // Linux 4.8, v1 too
}

// PidsRoom is how many more processes and threads the pids limit allows, and the limit;
// 0 where there is none.
func (c *Cgroup) PidsRoom() (room, limit uint64, err error) {
	dir := c.pidsDir()
	if dir == "" {
		return 0, 0, nil
	}
	limit, err = fscommon.GetCgroupParamUint(dir, "pids.max")
	if errors.Is(err, fs.ErrNotExist) || err == nil && limit == math.MaxUint64 {
		return 0, 0, nil // "max", or a cgroup2 without the controller
	}
	if err != nil {
		return 0, 0, err
	}
	now, err := fscommon.GetCgroupParamUint(dir, "pids.current")
	return limit - min(now, limit), limit, err // who is moved in from outside is not refused
}

func (c *Cgroup) pidsDir() string {
	if c.host.V2 {
		return c.paths[""]
	}
	return c.paths["pids"]
}
