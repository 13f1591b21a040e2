package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine is what the numbers depend on.
type Machine struct {
	Kernel, Processor, Load string
	CPUs                    int
	MemoryMiB               uint64
	Cgroups                 string
	Nice                    int // of the benchmark and all that it starts
}

// thisMachine asks the kernel.
func thisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), Processor: "unknown"}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for _, line := range strings.Split(string(info), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.Processor = strings.TrimSpace(value)
			break
		}
	}
	// The system call answers 20 minus the nice value, so that it is never negative.
	if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
		m.Nice = 20 - p
	}
	var s unix.Sysinfo_t
	if unix.Sysinfo(&s) == nil {
		m.MemoryMiB = s.Totalram * uint64(s.Unit) >> 20
		m.Load = fmt.Sprintf("%.1f", float64(s.Loads[0])/65536)
	}
	return m
}

// private makes the place that all three share: one cgroup2 tree, because crun refuses
// hybrid hierarchies, and a tmpfs on /run as every host has one. The mount namespace is
// ours alone; the controllers stay where the host has them.
func private(m *Machine) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	m.Cgroups = "v2"
	var fs unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &fs); err != nil {
		return fmt.Errorf("/sys/fs/cgroup: %w", err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		// Only one cgroup2 tree exists, whatever it is mounted on.
		if err := unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount cgroup2: %w", err)
		}
		m.Cgroups = "one cgroup2 mount over the host's hybrid tree"
	}
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return err
	}
	m.Cgroups += ", controllers: " + strings.TrimSpace(string(controllers))
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs on /run: %w", err)
	}
	return nil
}

// Preload says whether crun needed help to run at all.
type Preload struct {
	Used   bool
	Reason string
	CostMS float64 // processor time of one invocation, measured with --version
}

// preloadSource answers RLIMIT_MEMLOCK with success. crun insists on raising it before it
// loads its device program, which wants CAP_SYS_RESOURCE and since Linux 5.11 (BPF memory
// is charged to the cgroup) has no effect.
const preloadSource = `
#define _GNU_SOURCE
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
int setrlimit(__rlimit_resource_t r, const struct rlimit *l)
{
	return r == RLIMIT_MEMLOCK ? 0 : syscall(SYS_prlimit64, 0, r, l, 0);
}
`

// preload compiles it when this process may not raise the limit; "" when nobody needs it.
func preload(dir string) (path, reason string, err error) {
	want := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	var had unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &had); err != nil {
		return "", "", err
	}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &want) == nil {
		return "", "", unix.Setrlimit(unix.RLIMIT_MEMLOCK, &had)
	}
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		return "", "this machine gives no CAP_SYS_RESOURCE, which crun wants, and there is no gcc to build a preload", nil
	}
	path = filepath.Join(dir, "memlock.so")
	cmd := exec.Command(gcc, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", path)
	cmd.Stdin = strings.NewReader(preloadSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	return path, "this machine gives no CAP_SYS_RESOURCE, which crun wants", nil
}
