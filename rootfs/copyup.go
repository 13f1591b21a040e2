package rootfs

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// copyUp fills a new tmpfs with what the directory it will cover holds: types, modes,
// owners, times and extended attributes. Everything goes by descriptor and no symlink
// is followed, so a tree that changes meanwhile gives an odd copy and nothing else.
func copyUp(covered, mount int, options []option) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	from, err := unix.Openat(covered, ".", flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := unix.Openat(mount, ".", flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	st, err := fstat(from)
	if err != nil {
		return err
	}
	if err := copyDir(from, to); err != nil {
		return err
	}
	if !hasOption(options, "uid") && !hasOption(options, "gid") {
		return unix.Fchown(to, int(st.Uid), int(st.Gid))
	}
	return nil
}

// copyDir copies what from holds into to.
func copyDir(from, to int) error {
	// ReadDir wants an *os.File that owns its descriptor.
	list, err := unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(list), "directory")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := copyEntry(from, to, name); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
	return nil
}

func copyEntry(from, to int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil // nobody listens on a copy
	case unix.S_IFLNK:
		var text string
		if text, err = readlink(from, name); err == nil {
			err = unix.Symlinkat(text, to, name)
		}
	case unix.S_IFDIR:
		if err = unix.Mkdirat(to, name, 0o700); err == nil {
			err = copyOpened(from, to, name, unix.O_RDONLY|unix.O_DIRECTORY, copyDir)
		}
	case unix.S_IFREG:
		if err = unix.Mknodat(to, name, unix.S_IFREG|0o600, 0); err == nil {
			// O_NONBLOCK: should it have become a fifo, do not wait for its writer.
			err = copyOpened(from, to, name, unix.O_RDONLY|unix.O_NONBLOCK, copyData)
		}
	default:
		err = unix.Mknodat(to, name, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return copyMeta(to, name, st)
}

// copyOpened opens name on both sides and copies contents and extended attributes.
func copyOpened(from, to int, name string, flags int, contents func(src, dst int) error) error {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	src, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	if flags&unix.O_DIRECTORY == 0 {
		flags = flags&^unix.O_NONBLOCK | unix.O_WRONLY
	}
	dst, err := unix.Openat(to, name, flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := contents(src, dst); err != nil {
		return err
	}
	return copyXattrs(src, dst)
}

func copyData(src, dst int) error {
	for {
		n, err := unix.Sendfile(dst, src, nil, 1<<30)
		if err == unix.EINTR || err == nil && n > 0 {
			continue
		}
		if err == nil || err == io.EOF {
			return nil
		}
		return err
	}
}

func copyXattrs(src, dst int) error {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(src, list)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for list = list[:n]; len(list) > 0; {
		name := unix.ByteSliceToString(list)
		list = list[len(name)+1:]
		n, err := unix.Fgetxattr(src, name, value)
		if err == nil {
			err = unix.Fsetxattr(dst, name, value[:n], 0)
		}
		switch err {
		case nil, unix.ENODATA, unix.EOPNOTSUPP, unix.EPERM:
			// tmpfs keeps user.* since Linux 6.6 only, and a user namespace may not set
			// security.* or trusted.*: the file is worth more than its label.
		default:
			return fmt.Errorf("attribute %s: %w", name, err)
		}
	}
	return nil
}

// copyMeta comes after the contents, whose writing changes times and drops setuid.
func copyMeta(dir int, name string, st unix.Stat_t) error {
	if err := unix.Fchownat(dir, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(dir, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}
