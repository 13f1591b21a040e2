package rootfs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/fslog"
)

// option is a key, or key=value, of a file system.
type option = string

// newFS makes a detached mount of a new file system.
func newFS(fstype, source string, options []option, superFlags, attr uint64) (int, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err == unix.ENODEV {
		return -1, fmt.Errorf("%w (this kernel knows no file system of that name; see /proc/filesystems)", err)
	}
	if err != nil {
		return -1, err
	}
	defer unix.Close(fd)
	if err := configure(fd, source, options, superFlags); err != nil {
		return -1, err
	}
	if err := untilDone(func() error { return unix.FsconfigCreate(fd) }); err != nil {
		return -1, fslog.Explain(fd, err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, int(attr))
	if err != nil {
		return -1, fslog.Explain(fd, err)
	}
	return mount, nil
}

// reconfigure changes options of the file system that the mount root target is open on.
func reconfigure(target int, options []option, superFlags uint64) error {
	fd, err := unix.Fspick(target, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := configure(fd, "", options, superFlags); err != nil {
		return err
	}
	if err := untilDone(func() error { return unix.FsconfigReconfigure(fd) }); err != nil {
		return fslog.Explain(fd, err)
	}
	return nil
}

func configure(fd int, source string, options []option, superFlags uint64) error {
	if source != "" {
		if err := unix.FsconfigSetString(fd, "source", source); err != nil {
			return fmt.Errorf("source %q: %w", source, fslog.Explain(fd, err))
		}
	}
	for _, f := range [...]struct {
		flag uint64
		name string
	}{
		{unix.MS_RDONLY, "ro"}, {unix.MS_SYNCHRONOUS, "sync"}, {unix.MS_DIRSYNC, "dirsync"},
		{unix.MS_MANDLOCK, "mand"}, {unix.MS_LAZYTIME, "lazytime"},
	} {
		if superFlags&f.flag == 0 {
			continue
		}
		if err := unix.FsconfigSetFlag(fd, f.name); err != nil {
			return fmt.Errorf("option %q: %w", f.name, fslog.Explain(fd, err))
		}
	}
	for _, o := range options {
		key, value, has := strings.Cut(o, "=")
		var err error
		switch {
		case !has:
			err = unix.FsconfigSetFlag(fd, key)
		case len(value) > 255:
			return fmt.Errorf("option %q: its value is %d bytes, fsconfig takes 255", key, len(value))
		default:
			err = unix.FsconfigSetString(fd, key, value)
		}
		if err != nil {
			return fmt.Errorf("option %q: %w", o, fslog.Explain(fd, err))
		}
	}
	return nil
}

func untilDone(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
