package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"thinrun/libcontainer/mountinfo"

	"golang.org/x/sys/unix"
)

// Root is where the hierarchies are, on every distribution.
const Root = "/sys/fs/cgroup"

// Host is what the host has, and where in it we are ourselves.
type Host struct {
	// V2: cgroup2 alone. Otherwise Hierarchies are v1, and Unified may be there beside
	// them (hybrid).
	V2          bool
	Unified     string // mount point of cgroup2; "": none
	Hierarchies []Hierarchy
	Own         string // our own cgroup in Unified: "/user.slice/..."; "" without one
}

// Hierarchy is a mounted v1 hierarchy.
type Hierarchy struct {
	Name  string // controllers as the kernel lists them, "cpu,cpuacct", or "name=systemd"
	Mount string
	Own   string // our own cgroup in it
}

// Controllers are the keys under which the hierarchy is in Paths.
func (h Hierarchy) Controllers() []string { return strings.Split(h.Name, ",") }

// Detect looks: one statfs where there is cgroup2 alone, one per hierarchy otherwise,
// and mountinfo, which is long on a busy host, only for hierarchies in unusual places.
func Detect() (Host, error) {
	lines, err := read("/proc/self/cgroup")
	if errors.Is(err, unix.ENOENT) { // a kernel without cgroups
		return Host{}, nil
	}
	if err != nil {
		return Host{}, fmt.Errorf("/proc/self/cgroup: %w", err)
	}
	var h Host
	if magic(Root) == unix.CGROUP2_SUPER_MAGIC {
		h.V2, h.Unified = true, Root
	} else if dir := Root + "/unified"; magic(dir) == unix.CGROUP2_SUPER_MAGIC {
		h.Unified = dir
	}
	var mounts []mount
	for line := range strings.Lines(lines) { // hierarchy:controllers:path, cgroups(7)
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		name, own, ok := strings.Cut(rest, ":")
		switch {
		case !ok:
			return Host{}, fmt.Errorf("/proc/self/cgroup: BUG: cannot read the line %q", line)
		case name == "":
			if h.Unified != "" {
				h.Own = own
			}
		case !h.V2: // a v1 hierarchy beside a cgroup2 on Root is some other program's
			dir := filepath.Join(Root, strings.TrimPrefix(name, "name="))
			if magic(dir) != unix.CGROUP_SUPER_MAGIC {
				if mounts == nil {
					if mounts, err = cgroup1Mounts(); err != nil {
						return Host{}, err
					}
				}
				dir = findMount(mounts, name)
			}
			if dir != "" { // else the kernel has it and nobody mounted it
				h.Hierarchies = append(h.Hierarchies, Hierarchy{name, dir, own})
			}
		}
	}
	return h, nil
}

// magic is the type of the file system at path; 0 when there is nothing.
func magic(path string) int64 {
	var st unix.Statfs_t
	for {
		switch err := unix.Statfs(path, &st); err {
		case unix.EINTR:
		case nil:
			return int64(st.Type)
		default:
			return 0
		}
	}
}

type mount struct {
	point   string
	options []string
}

func findMount(mounts []mount, name string) string {
	for _, m := range mounts {
		all := true
		for _, c := range strings.Split(name, ",") {
			all = all && slices.Contains(m.options, c)
		}
		if all {
			return m.point
		}
	}
	return ""
}

func cgroup1Mounts() ([]mount, error) {
	info, err := read("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("/proc/self/mountinfo: %w", err)
	}
	return parseCgroup1Mounts(info), nil
}

func parseCgroup1Mounts(info string) []mount {
	mounts := []mount{}
	for _, m := range mountinfo.Parse(info) {
		if m.Type == "cgroup" {
			mounts = append(mounts, mount{m.Point, strings.Split(m.Options, ",")})
		}
	}
	return mounts
}

func read(name string) (string, error) { return readAt(unix.AT_FDCWD, name) }

func readAt(at int, name string) (string, error) {
	fd, err := openIn(at, name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	data, err := io.ReadAll(f)
	return string(data), err
}

func open(name string, flags int) (int, error) { return openIn(unix.AT_FDCWD, name, flags) }

func openIn(at int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// write writes a control file: one system call, as the kernel wants it.
func write(name, text string) error { return writeAt(unix.AT_FDCWD, name, text) }

func writeAt(at int, name, text string) error {
	fd, err := openIn(at, name, unix.O_WRONLY)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	for {
		_, err := unix.Write(fd, []byte(text))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write %q to %s: %w", text, name, err)
		}
		return nil
	}
}
