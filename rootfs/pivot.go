package rootfs

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"thinrun/libcontainer/mountinfo"

	"golang.org/x/sys/unix"
)

// Pivot makes the container's root "/". After it the host's tree cannot be reached by
// any path or descriptor of ours; what is still needed of it is taken along first.
func (r *Root) Pivot() error {
	if err := r.takeAlong(); err != nil {
		return err
	}
	if r.cfg.NoPivot {
		return r.moveToRoot()
	}
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(old)
	if err := unix.Fchdir(r.fd); err != nil {
		return err
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one
	// at the same place, so no directory for it has to exist.
	if err := unix.PivotRoot(".", "."); err != nil {
		if err == unix.EINVAL {
			return fmt.Errorf("%w (is \"/\" an initramfs? --no-pivot is for that)", err)
		}
		return err
	}
	// By descriptor, for "." would be a guess at which of the two is on top. The tree is
	// a slave since Attach: taking it down does not take down anything of the host's.
	if err := unix.Fchdir(old); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's tree: %w", err)
	}
	return unix.Chdir("/")
}

// takeAlong opens what later steps need and only the host's tree has.
func (r *Root) takeAlong() (err error) {
	if len(r.cfg.MaskedPaths) > 0 {
		if r.null, err = nullDevice(); err != nil {
			return fmt.Errorf("null device for masked paths: %w", err)
		}
	}
	if len(r.cfg.Sysctl) > 0 && r.proc < 0 {
		if r.proc, err = openProc(); err != nil {
			return fmt.Errorf("procfs for sysctls: %w", err)
		}
	}
	return nil
}

// nullDevice clones the host's null device, never the image's: CVE-2025-31133. The clone
// is read-only, which a device does not mind, so its mode and owner cannot be changed
// through it.
func nullDevice() (int, error) {
	fd, err := openSource("/dev/null", false, false)
	if err != nil {
		return -1, err
	}
	st, err := fstat(fd)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3)) {
		err = fmt.Errorf("the host's /dev/null is not the device 1:3")
	}
	if err == nil {
		err = setattr(fd, false, unix.MountAttr{
			Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC,
			Propagation: unix.MS_PRIVATE,
		})
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// moveToRoot is for a "/" that pivot_root cannot move, an initramfs: the root is moved
// over it and entered by chroot. The host's tree stays mounted beneath, so it is a
// weaker wall: CAP_SYS_CHROOT with a descriptor from outside gets through it.
func (r *Root) moveToRoot() error {
	if err := coverProcAndSys(r.cfg.AttachAt); err != nil {
		return err
	}
	if err := unix.Fchdir(r.fd); err != nil {
		return err
	}
	if !r.onRoot {
		if err := unix.MoveMount(r.fd, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("move the root over \"/\": %w", err)
		}
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return unix.Chdir("/")
}

// coverProcAndSys takes the host's procfs and sysfs out of our copy of its tree. They
// would stay mounted beneath the root, and a user namespace may mount a new, unmasked
// one as long as such a one is visible in its mount table (mount_too_revealing).
func coverProcAndSys(attachAt string) error {
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("/proc/self/mountinfo: %w", err)
	}
	file := os.NewFile(uintptr(fd), "/proc/self/mountinfo")
	defer file.Close()
	table, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mountinfo.Parse(string(table))) { // what was mounted last goes first
		point := m.Point
		if m.Type != "proc" && m.Type != "sysfs" || point == attachAt || strings.HasPrefix(point, attachAt+"/") {
			continue
		}
		if err := unix.Unmount(point, unix.MNT_DETACH); err == nil {
			continue
		}
		// A user namespace may not unmount what it inherited, but it may cover it.
		if err := unix.Mount("none", point, "tmpfs", unix.MS_RDONLY, "size=1"); err != nil && err != unix.ENOENT {
			return fmt.Errorf("cover the host's %q: %w", point, err)
		}
	}
	return nil
}
