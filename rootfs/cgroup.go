package rootfs

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroup2 decides how the unified hierarchy gets into the container. A new mount from the
// first cgroup namespace sets the options of the one super block there is: without any it
// would take nsdelegate and memory_recursiveprot from the host. The host's own mount is
// cloned there, which shows the same.
func (m *Mount) cgroup2() Mount {
	const firstNamespace = "cgroup:[4026531835]" // PROC_CGROUP_INIT_INO
	const hosts = "/sys/fs/cgroup"
	cgroup := *m
	cgroup.Type = "cgroup2"
	if cgroup.fromHost() {
		return cgroup
	}
	if ns, err := readlink(unix.AT_FDCWD, "/proc/self/ns/cgroup"); err != nil || ns != firstNamespace {
		return cgroup
	}
	var fs unix.Statfs_t
	if unix.Statfs(hosts, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		cgroup.Source, cgroup.Recursive = hosts, true
	}
	return cgroup
}

// cgroup1 shows the v1 hierarchies the way hosts do: a tmpfs with a directory for each
// and a link for each controller that shares one.
func (r *Root) cgroup1(m *Mount, files []*os.File) error {
	target, _, err := r.makeDir(m.Destination)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	at, err := fstat(target)
	if err != nil {
		return err
	}
	if err := r.guardProc(m, target, at); err != nil {
		return err
	}
	attr := m.Attr &^ m.AttrClear
	top, err := newFS("tmpfs", "cgroup", []option{"mode=755"}, 0, attr&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(top)
	if err := r.shape(top, m, false); err != nil {
		return err
	}
	readonly := attr&unix.MOUNT_ATTR_RDONLY != 0 || m.SuperFlags&unix.MS_RDONLY != 0
	// Attached first: before Linux 6.15 nothing can be mounted on a detached tree.
	if err := r.place(m, top, target, readonly); err != nil {
		return err
	}
	for i := range m.Cgroup1 {
		if err := r.hierarchy(m, &m.Cgroup1[i], top, files); err != nil {
			return fmt.Errorf("hierarchy %q: %w", m.Cgroup1[i].Name, err)
		}
	}
	return nil
}

func (r *Root) hierarchy(m *Mount, h *Cgroup1, top int, files []*os.File) error {
	if err := unix.Mkdirat(top, h.Name, 0o755); err != nil {
		return err
	}
	for _, link := range h.Links {
		if err := unix.Symlinkat(h.Name, top, link); err != nil {
			return fmt.Errorf("link %q: %w", link, err)
		}
	}
	place, err := below(top, h.Name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	var mount int
	if h.File >= 0 {
		bound := Mount{Kind: KindBind, File: h.File, Recursive: true, Attr: m.Attr, AttrClear: m.AttrClear}
		if mount, err = bound.tree(files); err == nil {
			err = r.shape(mount, &bound, true)
		}
	} else {
		// An existing hierarchy is found by exactly the options it was made with.
		mount, err = newFS("cgroup", "cgroup", strings.Split(h.Options, ","), 0, m.Attr&^m.AttrClear)
		if err == nil {
			defer unix.Close(mount)
		}
	}
	if err != nil {
		return err
	}
	return moveOnto(mount, place)
}
