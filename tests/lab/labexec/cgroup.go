package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	cgroupSafe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
)

// mountCgroups mounts the machine's hierarchies as systemd would.
func mountCgroups(mode string) error {
	if mode == "v2" {
		if err := unix.Mount(mark, cgroupRoot, "cgroup2", cgroupSafe, "nsdelegate"); err != nil {
			return err
		}
		return enableControllers(cgroupRoot)
	}
	if err := unix.Mount(mark, cgroupRoot, "tmpfs", cgroupSafe, "mode=0755"); err != nil {
		return err
	}
	known, err := controllers()
	if err != nil {
		return err
	}
	for _, group := range []string{"cpuset", "cpu,cpuacct", "memory", "devices", "freezer", "net_cls,net_prio", "blkio", "perf_event", "hugetlb", "pids", "rdma", "misc"} {
		names := slices.DeleteFunc(strings.Split(group, ","), func(c string) bool { return !slices.Contains(known, c) })
		if len(names) == 0 {
			continue
		}
		if err := mountCgroup("cgroup", strings.Join(names, ","), strings.Join(names, ",")); err != nil {
			return err
		}
		for _, name := range names[:len(names)-len(names)%2] { // a pair has a link for each
			if err := os.Symlink(strings.Join(names, ","), filepath.Join(cgroupRoot, name)); err != nil {
				return err
			}
		}
	}
	if err := mountCgroup("cgroup", "systemd", "none,name=systemd"); err != nil || mode == "v1" {
		return err
	}
	return mountCgroup("cgroup2", "unified", "nsdelegate")
}

func mountCgroup(fstype, name, data string) error {
	dir := filepath.Join(cgroupRoot, name)
	if err := os.Mkdir(dir, 0755); err != nil {
		return err
	}
	if err := unix.Mount(mark, dir, fstype, cgroupSafe, data); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// controllers lists those of the kernel that v1 can mount.
func controllers() (names []string, err error) {
	b, err := os.ReadFile("/proc/cgroups")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 4 && f[3] == "1" {
			names = append(names, f[0])
		}
	}
	return names, err
}

func enableControllers(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(b)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return err
		}
	}
	return nil
}

// Hierarchy is one that the host has and in which the box got a cgroup.
type Hierarchy struct {
	Mount string // where the host has it
	Type  string // cgroup, cgroup2
	Data  string // mount options that select it
}

// admit lets processes into a new cgroup: cpuset of v1 starts with no processor and no
// memory, and takes nobody.
func admit(h Hierarchy, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(h.Mount, file))
		if err != nil || h.Type != "cgroup" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0); err != nil {
			return err
		}
	}
	return nil
}

// mountedHierarchies reads proc_pid_mountinfo(5).
func mountedHierarchies() (list []Hierarchy, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	known, err := controllers()
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		left, right, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if len(f) < 5 || len(g) < 3 || !strings.HasPrefix(f[4], cgroupRoot) {
			continue
		}
		h := Hierarchy{Mount: f[4], Type: g[0]}
		switch h.Type {
		case "cgroup2":
		case "cgroup":
			var data []string
			for opt := range strings.SplitSeq(g[2], ",") {
				if strings.HasPrefix(opt, "name=") {
					data = append(data, "none", opt)
				} else if slices.Contains(known, opt) {
					data = append(data, opt)
				}
			}
			h.Data = strings.Join(data, ",")
		default:
			continue
		}
		list = append(list, h)
	}
	return list, nil
}

// removeCgroups removes a tree of cgroups, the deepest first. Those that still have
// processes stay, and so do those above.
func removeCgroups(top string) {
	var dirs []string
	filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		unix.Rmdir(dir)
	}
}

// thawBox lets frozen processes of v1 die: SIGKILL alone does not reach them.
func thawBox(job *Job) {
	for _, h := range job.Cgroups {
		filepath.WalkDir(filepath.Join(h.Mount, job.Box), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "freezer.state" {
				os.WriteFile(path, []byte("THAWED"), 0)
			}
			return nil
		})
	}
}

// joinBoxCgroup moves the stage into its cgroups and makes them the roots of all it sees.
func joinBoxCgroup(job *Job) error {
	for _, h := range job.Cgroups {
		if err := os.WriteFile(filepath.Join(h.Mount, job.Box, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	return unix.Unshare(unix.CLONE_NEWCGROUP)
}

// mountBoxCgroups covers the host's hierarchies by the box's view of the same.
func mountBoxCgroups(job *Job) error {
	if len(job.Cgroups) == 0 {
		return nil
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", cgroupSafe, ""); err != nil {
		return err
	}
	if job.Cgroups[0].Mount != cgroupRoot {
		if err := unix.Mount(mark, cgroupRoot, "tmpfs", cgroupSafe, "mode=0755"); err != nil {
			return err
		}
	}
	for _, h := range job.Cgroups {
		if err := os.MkdirAll(h.Mount, 0755); err != nil {
			return err
		}
		if err := unix.Mount(mark, h.Mount, h.Type, cgroupSafe, h.Data); err != nil {
			return fmt.Errorf("%s: %w", h.Mount, err)
		}
		if h.Type != "cgroup2" {
			continue
		}
		// A cgroup of v2 has processes or children with controllers, not both: the
		// stage and the command live in a leaf beside those that tests make.
		leaf := filepath.Join(h.Mount, "box")
		if err := os.Mkdir(leaf, 0755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
		if err := enableControllers(h.Mount); err != nil {
			return err
		}
	}
	return linkControllers()
}

// linkControllers gives each controller of a shared v1 hierarchy its own name, if the
// host's mount points have shared names.
func linkControllers() error {
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !bytes.ContainsRune([]byte(e.Name()), ',') {
			continue
		}
		for name := range strings.SplitSeq(e.Name(), ",") {
			if err := os.Symlink(e.Name(), filepath.Join(cgroupRoot, name)); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
	}
	return nil
}
