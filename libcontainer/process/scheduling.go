package process

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Scheduling sets what the scheduler, the block layer and the allocator know of the
// calling thread. It needs CAP_SYS_NICE for most, so it comes before Become.
func (c *Config) Scheduling() error {
	if err := c.affinity(); err != nil {
		return err
	}
	if s := c.Scheduler; s != nil {
		attr := unix.SchedAttr{
			Policy: s.Policy, Flags: s.Flags, Nice: s.Nice, Priority: s.Priority,
			Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
		}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			return fmt.Errorf("scheduler: sched_setattr policy %d, nice %d, priority %d: %w", s.Policy, s.Nice, s.Priority, err)
		}
	}
	if p := c.IOPriority; p != nil {
		const whoProcess, classShift = 1, 13 // <linux/ioprio.h>
		if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, uintptr(p.Class<<classShift|p.Priority)); errno != 0 {
			return fmt.Errorf("ioPriority: ioprio_set class %d, priority %d: %w", p.Class, p.Priority, errno)
		}
	}
	if p := c.Personality; p != nil {
		if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(*p), 0, 0); errno != 0 {
			return fmt.Errorf("personality %#x: %w", *p, errno)
		}
	}
	return c.memoryPolicy()
}

// maxCPU is more than NR_CPUS of any kernel (8192 on amd64 and arm64).
const maxCPU = 8192

// affinity undoes the caller's pinning: a manager pinned to its housekeeping CPUs does
// not mean its containers. The kernel cuts "all" down to what the cgroup's cpuset
// allows, which is why this runs after the cgroup is joined. A refusal is no reason not
// to start: the container runs then where the caller does, as it always could.
func (c *Config) affinity() error {
	all := unix.NewCPUSet(maxCPU)
	all.Fill()
	_ = unix.SchedSetaffinityDynamic(0, all)
	return setAffinity("final", c.CPUAffinityFinal)
}

// InitialAffinity pins the calling thread to execCPUAffinity.initial. The parent calls
// it on the thread that forks: the child inherits it and is born in the cgroup, so this
// is the only moment "before the cgroup". The thread is spoiled for other uses.
func (c *Config) InitialAffinity() error {
	return setAffinity("initial", c.CPUAffinityInitial)
}

func setAffinity(which string, cpus []int) error {
	if len(cpus) == 0 {
		return nil
	}
	set := unix.NewCPUSet(maxCPU)
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinityDynamic(0, set); err != nil {
		return fmt.Errorf("execCPUAffinity.%s: sched_setaffinity to CPUs %v: %w (none of them is online and in the container's cpuset)", which, cpus, err)
	}
	return nil
}

func (c *Config) memoryPolicy() error {
	m := c.MemoryPolicy
	if m == nil {
		return nil
	}
	const bits = 8 * int(unsafe.Sizeof(uintptr(0)))
	highest := -1
	for _, n := range m.Nodes {
		highest = max(highest, n)
	}
	mask := make([]uintptr, highest/bits+1)
	for _, n := range m.Nodes {
		if n < 0 {
			return fmt.Errorf("memoryPolicy: there is no node %d", n)
		}
		mask[n/bits] |= 1 << (n % bits)
	}
	// No nodes is a null pointer: MPOL_DEFAULT and MPOL_LOCAL refuse even an empty mask
	// of some length. Otherwise the kernel takes one bit off maxnode (BUGS in
	// set_mempolicy(2)), hence the one more.
	var pointer unsafe.Pointer
	var length uintptr
	if highest >= 0 {
		pointer, length = unsafe.Pointer(&mask[0]), uintptr(len(mask)*bits+1)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SET_MEMPOLICY, uintptr(m.Mode|m.Flags), uintptr(pointer), length)
	if errno != 0 {
		return fmt.Errorf("memoryPolicy: %w", os.NewSyscallError(fmt.Sprintf("set_mempolicy mode %d, flags %#x, nodes %v", m.Mode, m.Flags, m.Nodes), errno))
	}
	return nil
}
