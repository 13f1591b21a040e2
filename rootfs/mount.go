package rootfs

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount makes the mounts in the order of the configuration. files are the descriptors
// that Mount.File and Cgroup1.File count.
func (r *Root) Mount(files []*os.File) error {
	for _, dir := range r.cfg.Dirs {
		if err := r.MakeDir(dir); err != nil {
			return fmt.Errorf("make %q, a volume of the image: %w", dir, err)
		}
	}
	if r.cfg.Localhost {
		if err := r.writeHosts(); err != nil {
			return fmt.Errorf("write localhost to the container's /etc/hosts: %w", err)
		}
	}
	defer unix.Umask(unix.Umask(0))
	for i := range r.cfg.Mounts {
		m := &r.cfg.Mounts[i]
		if err := r.mount(m, files); err != nil {
			return fmt.Errorf("%q on %q: %w", m.what(), m.Destination, explain(m, err))
		}
	}
	return nil
}

// MakeDir makes a directory of the container, with those above it, where it is missing.
// It cannot lead out of the root: an image names it (CVE-2024-21626).
func (r *Root) MakeDir(path string) error {
	defer unix.Umask(unix.Umask(0))
	fd, _, err := r.makeDir(path)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// writeHosts leaves alone what says something, and what is no file.
func (r *Root) writeHosts() error {
	const path = "/etc/hosts"
	defer unix.Umask(unix.Umask(0))
	place, err := r.makeFile(path)
	if err != nil {
		return err
	}
	defer unix.Close(place)
	if st, err := fstat(place); err != nil || st.Size > 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return err
	}
	fd, err := r.open(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), path)
	_, err = f.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	return errors.Join(err, f.Close())
}

func (m *Mount) what() string {
	switch {
	case m.Kind == KindRemount:
		return "remount"
	case m.Kind == KindBind || m.Type == "" || m.Type == "bind":
		return m.Source
	}
	return m.Type
}

func (r *Root) mount(m *Mount, files []*os.File) error {
	switch m.Kind {
	case KindFS:
		return r.fileSystem(m)
	case KindBind:
		return r.bind(m, files)
	case KindRemount:
		return r.remount(m)
	case KindCgroup1:
		return r.cgroup1(m, files)
	case KindCgroup2:
		cgroup := m.cgroup2()
		if cgroup.fromHost() {
			return r.bind(&cgroup, files)
		}
		return r.fileSystem(&cgroup)
	}
	return fmt.Errorf("BUG: mount of kind %q", m.Kind)
}

func (r *Root) fileSystem(m *Mount) error {
	target, made, err := r.fsTarget(m)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	st, err := fstat(target)
	if err != nil {
		return err
	}
	if err := r.guardProc(m, target, st); err != nil {
		return err
	}
	fs, readonly := *m, false
	options := r.labelled(m)
	if m.Type == "tmpfs" {
		// Something may have to be made in it yet: mount points, nodes in /dev.
		fs.Attr, fs.RecAttr = m.Attr&^unix.MOUNT_ATTR_RDONLY, m.RecAttr&^unix.MOUNT_ATTR_RDONLY
		fs.SuperFlags = m.SuperFlags &^ unix.MS_RDONLY
		readonly = fs.Attr != m.Attr || fs.RecAttr != m.RecAttr || fs.SuperFlags != m.SuperFlags
		// A tmpfs keeps the mode of the directory it covers, which is what makes a /tmp
		// of an image 1777 and its /run 0755; runc's callers count on it.
		if !made && !hasOption(options, "mode") {
			options = append(options, fmt.Sprintf("mode=%04o", st.Mode&0o7777))
		}
	}
	mount, err := newFS(m.Type, cmp.Or(m.Source, m.Type), options, fs.SuperFlags, fs.Attr&^fs.AttrClear)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	if err := r.shape(mount, &fs, false); err != nil {
		return err
	}
	if m.Type == "mqueue" && r.cfg.MountLabel != "" {
		if err := labelRoot(mount, r.cfg.MountLabel); err != nil {
			return err
		}
	}
	if m.TmpCopyUp && !made {
		if err := copyUp(target, mount, options); err != nil {
			return fmt.Errorf("tmpcopyup: %w", err)
		}
	}
	return r.place(m, mount, target, readonly)
}

// place attaches a finished mount, and remembers it if it has a part in what follows.
func (r *Root) place(m *Mount, mount, target int, readonlyLater bool) error {
	if err := moveOnto(mount, target); err != nil {
		return err
	}
	if readonlyLater {
		fd, err := unix.FcntlInt(uintptr(mount), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return err
		}
		r.late = append(r.late, fd)
	}
	switch path.Clean(m.Destination) {
	case "/":
		return r.replace(mount)
	case "/proc":
		return r.trustProc(mount)
	}
	return nil
}

// fsTarget is the directory for a new file system.
func (r *Root) fsTarget(m *Mount) (fd int, made bool, err error) {
	if m.Type != "proc" && m.Type != "sysfs" && !m.DestNoFollow {
		return r.makeDir(m.Destination)
	}
	// Masks, labels and sysctls are about these two. If the image makes /proc a link,
	// they would land elsewhere (CVE-2019-19921, CVE-2023-27561).
	fd, err = r.makeNoFollow(m.Destination, unix.S_IFDIR)
	if err != nil {
		return -1, false, err
	}
	st, err := fstat(fd)
	if err == nil && !isDir(st) {
		err = fmt.Errorf("%w (%s must be mounted on an ordinary directory, not on a symlink or file of the image)", unix.ENOTDIR, m.Type)
	}
	if err != nil {
		unix.Close(fd)
		return -1, false, err
	}
	return fd, false, nil
}

func (r *Root) remount(m *Mount) error {
	target, err := r.open(m.Destination, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	if err := r.shape(target, m, true); err != nil {
		return err
	}
	if len(m.Options) == 0 && m.SuperFlags == 0 {
		return nil
	}
	return reconfigure(target, m.Options, m.SuperFlags)
}

// shape sets a mount's flags and propagation. A new file system has its flags from
// fsmount already.
func (r *Root) shape(mount int, m *Mount, flags bool) error {
	var top unix.MountAttr
	if flags {
		top = unix.MountAttr{Attr_set: m.Attr, Attr_clr: m.AttrClear}
	}
	tree := unix.MountAttr{Attr_set: m.RecAttr, Attr_clr: m.RecAttrClear}
	steps := m.Propagation
	if base := r.propagation(); base != 0 && m.fromHost() && !overridden(steps) {
		steps = append([]uint64{base | unix.MS_REC}, steps...)
	}
	// mount_setattr takes one propagation at a time; a mount alone is its whole tree, and
	// then one call does everything.
	alone := !m.Recursive && m.Kind != KindRemount
	if len(steps) > 0 && (alone || steps[0]&unix.MS_REC != 0) {
		tree.Propagation = steps[0] &^ unix.MS_REC
		steps = steps[1:]
	}
	if alone {
		if (tree.Attr_set|tree.Attr_clr)&unix.MOUNT_ATTR__ATIME != 0 {
			tree.Attr_clr |= unix.MOUNT_ATTR__ATIME
		}
		// The words for the tree come after those for the mount, as in runc.
		set := top.Attr_set&^tree.Attr_clr | tree.Attr_set
		tree.Attr_clr |= top.Attr_clr &^ tree.Attr_set
		tree.Attr_set, top = set, unix.MountAttr{}
	}
	if err := setattr(mount, false, top); err != nil {
		return err
	}
	if err := setattr(mount, true, tree); err != nil {
		return err
	}
	for _, p := range steps {
		if err := setattr(mount, p&unix.MS_REC != 0, unix.MountAttr{Propagation: p &^ unix.MS_REC}); err != nil {
			return err
		}
	}
	return nil
}

// fromHost: the mount is a clone of one that the host has.
func (m *Mount) fromHost() bool {
	return m.Kind == KindBind || m.Kind == KindCgroup2 && (m.File >= 0 || m.Recursive)
}

// overridden tells whether the first propagation of a mount decides alone. MS_SHARED
// does not: it would leave the host's peer the host's peer.
func overridden(steps []uint64) bool {
	return len(steps) > 0 && steps[0]&unix.MS_REC != 0 && steps[0]&unix.MS_SHARED == 0
}

func (r *Root) labelled(m *Mount) []option {
	options := slices.Clip(m.Options)
	switch m.Type {
	case "proc", "sysfs", "mqueue", "cgroup", "cgroup2":
		return options
	}
	if r.cfg.MountLabel == "" || hasOption(options, "context") {
		return options
	}
	return append(options, "context="+r.cfg.MountLabel)
}

// labelRoot labels the root directory of a file system that takes no context option.
func labelRoot(mount int, label string) error {
	fd, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fsetxattr(fd, "security.selinux", append([]byte(label), 0), 0); err != nil {
		return fmt.Errorf("label %q: %w", label, err)
	}
	return nil
}

func hasOption(list []option, key string) bool {
	for _, o := range list {
		if k, _, _ := strings.Cut(o, "="); k == key {
			return true
		}
	}
	return false
}

// explain says what to do where the errno alone does not.
func explain(m *Mount, err error) error {
	why := ""
	switch {
	case errors.Is(err, unix.EROFS):
		why = "the destination does not exist and the file system there is read-only; make it in the image"
	case errors.Is(err, unix.ELOOP):
		why = "a loop, or a magic link of procfs, on the way to the destination"
	case m.Kind == KindBind || m.Kind == KindRemount:
		if m.Kind == KindRemount && errors.Is(err, unix.EINVAL) {
			why = "nothing is mounted there, or the option is not one of that file system"
		}
	case errors.Is(err, unix.EPERM) && m.Type == "proc":
		why = "a new proc needs its own pid namespace; see linux.namespaces"
	case errors.Is(err, unix.EPERM) && m.Type == "sysfs":
		why = "in a user namespace a new sysfs needs its own network namespace; or bind the host's: type bind, source /sys, options rbind,ro"
	case errors.Is(err, unix.EBUSY) && m.Type == "sysfs":
		why = "a sysfs of this network namespace is mounted with other options"
	case errors.Is(err, unix.EPERM) && m.Type == "mqueue":
		why = "in a user namespace a new mqueue needs its own ipc namespace; see linux.namespaces"
	case errors.Is(err, unix.EPERM) && (m.Kind == KindCgroup1 || m.Kind == KindCgroup2):
		why = "in a user namespace cgroupfs needs its own cgroup namespace; see linux.namespaces"
	case errors.Is(err, unix.EPERM):
		why = "file system " + m.Type + " may not be mounted in a user namespace, or CAP_SYS_ADMIN is missing"
	case errors.Is(err, unix.EINVAL) && m.Type == "devpts" && hasOption(m.Options, "gid"):
		why = "is the gid of the option mapped into the user namespace?"
	}
	if why == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, why)
}
