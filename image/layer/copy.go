package layer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// copier copies a directory as it is: owners, modes, times, extended attributes, hard
// links, nodes, holes. It stays on the mount that the directory is on, as
// tar --one-file-system: /proc and the like are made, empty.
type copier struct {
	t     *tree
	mount uint64
	skip  inode            // our own storage
	seen  map[inode]string // files with more than one name
}

type inode struct{ dev, ino uint64 }

// Copy copies what is in the directory src to root.
func Copy(ctx context.Context, root, src *os.File, o Options) (Done, error) {
	t := newTree(ctx, root, o)
	defer t.close()
	err := copyDir(t, src, o.Storage)
	if err == nil {
		err = t.finish()
	}
	return t.done, err
}

func copyDir(t *tree, src *os.File, storage string) error {
	c := copier{t: t, seen: make(map[inode]string)}
	var st unix.Stat_t
	if unix.Stat(storage, &st) == nil { // an import of / would copy what it writes
		c.skip = inode{st.Dev, st.Ino}
	}
	x, err := statx(int(src.Fd()), "")
	if err != nil {
		return err
	}
	c.mount = x.Mnt_id
	e, err := read(int(src.Fd()), ".", ".", x)
	if err == nil {
		err = c.t.add(e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", src.Name(), err)
	}
	return c.list(src, "")
}

func statx(dir int, name string) (*unix.Statx_t, error) {
	var x unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	// STATX_MNT_ID is of Linux 5.8. It tells a bind mount apart, which the device does not.
	if err := unix.Statx(dir, name, flags, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, &x); err != nil {
		return nil, fmt.Errorf("statx: %w", err)
	}
	return &x, nil
}

// list copies what is in a directory; at is its path from the root, "" there.
func (c *copier) list(dir *os.File, at string) error {
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		p := path.Join(at, name)
		sub, err := c.one(int(dir.Fd()), name, p)
		if err != nil {
			return fmt.Errorf("file %q: %w", p, err)
		}
		if sub == nil {
			continue
		}
		err = c.list(sub, p)
		sub.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// one copies one file. If it is a directory to go on with, it returns that.
func (c *copier) one(dir int, name, p string) (sub *os.File, err error) {
	x, err := statx(dir, name)
	if err != nil {
		return nil, err
	}
	isDir := x.Mode&unix.S_IFMT == unix.S_IFDIR
	leave := ""
	if x.Mnt_id != c.mount {
		leave = "another mount"
	} else if isDir && (inode{dev(x), x.Ino}) == c.skip {
		leave = "thinrun's own storage"
	}
	if leave != "" {
		c.t.say(p, fmt.Sprintf("left out: what is in %q, %s", p, leave))
		if !isDir {
			return nil, nil
		}
	}
	if !isDir && x.Nlink > 1 {
		key := inode{dev(x), x.Ino}
		if first, ok := c.seen[key]; ok {
			return nil, c.t.add(&entry{path: p, hard: first})
		}
		c.seen[key] = p
	}
	e, err := read(dir, name, p, x)
	if err != nil {
		return nil, err
	}
	if x.Mode&unix.S_IFMT == unix.S_IFREG {
		src, err := openSame(dir, name, unix.O_NONBLOCK, x)
		if err != nil {
			return nil, err
		}
		defer src.Close()
		e.write = func(fd int) (int64, error) { return c.content(fd, int(src.Fd()), e.size) }
	}
	if err := c.t.add(e); err != nil || !isDir || leave != "" {
		return nil, err
	}
	return openSame(dir, name, unix.O_DIRECTORY, x)
}

func dev(x *unix.Statx_t) uint64 { return unix.Mkdev(x.Dev_major, x.Dev_minor) }

// openSame opens the very file that was looked at: a device would act on being opened.
func openSame(dir int, name string, flags int, x *unix.Statx_t) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Ino != x.Ino || st.Dev != dev(x) {
		unix.Close(fd)
		return nil, errors.New("was replaced while it was read")
	}
	return os.NewFile(uintptr(fd), name), nil
}

// read is a file as an entry, but for its content.
func read(dir int, name, p string, x *unix.Statx_t) (*entry, error) {
	e := &entry{
		path: p, mode: uint32(x.Mode), uid: int64(x.Uid), gid: int64(x.Gid),
		major: int64(x.Rdev_major), minor: int64(x.Rdev_minor),
		times: [2]unix.Timespec{
			{Sec: x.Atime.Sec, Nsec: int64(x.Atime.Nsec)},
			{Sec: x.Mtime.Sec, Nsec: int64(x.Mtime.Nsec)},
		},
	}
	switch x.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.size = int64(x.Size)
	case unix.S_IFLNK:
		buf := make([]byte, 4097) // PATH_MAX and one, so that nothing is cut unseen
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return nil, err
		}
		e.target = string(buf[:n])
	}
	var err error
	e.xattrs, err = xattrs(procFile(dir, name))
	return e, err
}

func xattrs(at string) (list []xattr, err error) {
	names, err := grow(func(b []byte) (int, error) { return unix.Llistxattr(at, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Lgetxattr(at, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", name, err)
		}
		list = append(list, xattr{name, string(value)})
	}
	return list, nil
}

// grow calls a function that wants a buffer of the right size: 64 KiB is the kernel's
// largest value and list (XATTR_SIZE_MAX).
func grow(get func([]byte) (int, error)) ([]byte, error) {
	var small [512]byte
	n, err := get(small[:])
	if err == nil {
		return append([]byte(nil), small[:n]...), nil
	}
	if !errors.Is(err, unix.ERANGE) {
		return nil, err
	}
	large := make([]byte, 64<<10)
	n, err = get(large)
	return large[:max(n, 0)], err
}

// content copies the data and leaves the holes, without reading them: a hole can be
// larger than any disk.
func (c *copier) content(dst, src int, size int64) (at int64, err error) {
	for at < size {
		start, err := unix.Seek(src, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return at, nil // only hole from here
		}
		if err != nil {
			return at, err
		}
		end, err := unix.Seek(src, start, unix.SEEK_HOLE)
		if err != nil {
			return at, err
		}
		end = min(end, size)
		if start >= end {
			return at, nil
		}
		for at = start; at < end; {
			if err := c.t.ctx.Err(); err != nil {
				return at, err
			}
			buf := c.t.buf[:min(int64(len(c.t.buf)), end-at)]
			n, err := unix.Pread(src, buf, at)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err == nil && n == 0 {
				err = errors.New("shrank while it was read")
			}
			if err == nil {
				err = c.t.spend(n)
			}
			if err == nil {
				err = pwrite(dst, buf[:n], at)
			}
			if err != nil {
				return at, err
			}
			at += int64(n)
		}
	}
	return at, nil
}
