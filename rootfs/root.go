package rootfs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Root is a container's root while it is being set up. All its descriptors are
// O_CLOEXEC; none of them leads to the host's tree once Pivot has returned.
type Root struct {
	cfg *Config
	// fd is the directory on top of the root: O_PATH, on the mount that will be "/".
	fd int
	// proc is the procfs that we mounted on /proc, -1 without one; procDev tells its
	// inodes from those of every other file system.
	proc    int
	procDev uint64
	// dev is the container's /dev while Dev, Console and Seal need it.
	dev int
	// null is a detached, read-only clone of the null device.
	null int
	// late are mounts that become read-only in Seal, after everything below them is made.
	late []int
	// onRoot: the root is attached on top of "/" and not at AttachAt.
	onRoot bool
}

// Attach puts the root, a detached mount, into init's mount table, which must not be the
// host's: a mount namespace of its own. From here to Pivot both trees are reachable, the
// host's from "/" and the container's from AttachAt.
//
// It first cuts the inherited tree off: as a slave of the host's it still loses what
// the host unmounts, so nothing is kept busy, but nothing we do can reach the host.
func Attach(cfg *Config, root *os.File) (*Root, error) {
	r := &Root{cfg: cfg, fd: -1, proc: -1, dev: -1, null: -1}
	err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE})
	if err != nil {
		if err == unix.EINVAL {
			return nil, fmt.Errorf("make \"/\" private: %w (\"/\" is not a mount point; thinrun cannot start inside a chroot)", err)
		}
		return nil, fmt.Errorf("make \"/\" private: %w", err)
	}
	if root == nil {
		r.fd, err = openSource(cfg.Source, true, false)
	} else {
		r.fd, err = unix.FcntlInt(root.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	}
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if err := r.attach(); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Inside is the root of a running container that the calling process has joined, for
// the terminal of exec.
func Inside() (*Root, error) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	return &Root{cfg: new(Config), fd: fd, proc: -1, dev: -1, null: -1}, nil
}

func (r *Root) attach() error {
	// pivot_root refuses a shared root, and a clone of a bundle's directory is a peer of
	// the host's mount: what the container mounts would appear there.
	base := r.propagation()
	if base == 0 {
		base = unix.MS_PRIVATE
	}
	if err := setattr(r.fd, true, unix.MountAttr{Propagation: base}); err != nil {
		return fmt.Errorf("root: make it private: %w", err)
	}
	at := r.cfg.AttachAt
	err := unix.MoveMount(r.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	if err == unix.EACCES {
		// A user namespace may not see into the directories above the bundle. The root
		// does not need a place of its own: path walks start below what covers "/".
		at, r.onRoot = "/", true
		err = unix.MoveMount(r.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	switch {
	case err == nil:
		return nil
	case err == unix.ENOTDIR:
		return fmt.Errorf("attach the root at %q: %w (root and place must both be directories)", at, err)
	case err == unix.EINVAL:
		return fmt.Errorf("attach the root at %q: %w (the root must be a detached mount, made by open_tree or fsmount)", at, err)
	}
	return fmt.Errorf("attach the root at %q: %w", at, err)
}

// propagation is what a tree of the host becomes before anything else is said about it,
// without MS_REC; 0 leaves it the host's peer, if it was one.
func (r *Root) propagation() uint64 {
	switch kind := r.cfg.Propagation &^ unix.MS_REC; {
	case kind == 0, kind == unix.MS_SLAVE:
		return unix.MS_SLAVE
	case kind == unix.MS_SHARED && r.cfg.UserNS:
		// What a user namespace mounts may not appear on the host.
		return unix.MS_SLAVE
	case kind == unix.MS_SHARED:
		return 0
	}
	// An unbindable tree could not be masked; the root becomes unbindable in Seal.
	return unix.MS_PRIVATE
}

// replace makes a mount that was put on "/" the root; the old one stays beneath and
// goes with the host's tree.
func (r *Root) replace(mount int) error {
	fd, err := unix.FcntlInt(uintptr(mount), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	closeAll(r.fd, r.proc)
	r.fd, r.proc, r.procDev = fd, -1, 0
	return nil
}

// Close gives the descriptors back. Seal does it too.
func (r *Root) Close() {
	closeAll(r.fd, r.proc, r.dev, r.null)
	closeAll(r.late...)
	r.fd, r.proc, r.dev, r.null, r.late = -1, -1, -1, -1, nil
}

func closeAll(fds ...int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// setattr is mount_setattr(2) on the mount that fd is the root of.
func setattr(fd int, recursive bool, attr unix.MountAttr) error {
	if attr == (unix.MountAttr{}) {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	// The three atime modes are one number, not three bits: to set one, all must be cleared.
	if (attr.Attr_set|attr.Attr_clr)&unix.MOUNT_ATTR__ATIME != 0 {
		attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
	}
	err := unix.MountSetattr(fd, "", flags, &attr)
	if err == unix.EPERM && attr.Attr_clr != 0 {
		return fmt.Errorf("%w (ro, nosuid, nodev, noexec and the atime mode of a mount that a user namespace inherited are locked)", err)
	}
	return err
}

// moveOnto attaches a detached mount on the place that target is open on.
func moveOnto(mount, target int) error {
	return unix.MoveMount(mount, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
