package overlay

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// Fork starts a layer on the container's own layer, with a copy of its upper directory:
// what an overlay has written there is all that tells it from its image. The upper
// directory is read past the overlay, which may be mounted: both see the same pages.
func (d Driver) Fork(c storage.Claim) (storage.Layer, error) {
	name, err := d.container(c)
	if err != nil {
		return nil, err
	}
	path := d.path("containers", name, "upper")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fork: the container's upper directory %s: %w", path, err)
	}
	upper := os.NewFile(uintptr(fd), path)
	defer upper.Close()
	return d.newLayer(c.Layer, upper)
}

// forker copies a tree as it is: owners, modes, times, hard links, nodes, holes, and the
// extended attributes with overlayfs's marks among them. Inode flags do not come along:
// overlayfs keeps what a container sets of them in an attribute.
type forker struct {
	dst   *os.File // the copy of the directory that is being read
	links *os.File // one name of each file that has several
}

// forkTree copies what is in upper, and upper's own attributes, into dir/fs. It needs a
// directory of its own beside that, for a while.
func forkTree(dir, upper *os.File) error {
	if err := unix.Mkdirat(int(dir.Fd()), "links", 0o700); err != nil {
		return fmt.Errorf("mkdir %s/links: %w", dir.Name(), err)
	}
	f := &forker{}
	defer f.close()
	var err error
	if f.links, err = openDir(int(dir.Fd()), "links"); err != nil {
		return err
	}
	if f.dst, err = openDir(int(dir.Fd()), "fs"); err != nil {
		return err
	}
	w := walk{top: upper, entry: f.entry, left: f.left}
	if err := w.run(); err != nil {
		return fmt.Errorf("copy of %s: %w", upper.Name(), err)
	}
	return removeBelow(int(dir.Fd()), dir.Name(), "links")
}

func (f *forker) close() {
	for _, d := range []*os.File{f.dst, f.links} {
		if d != nil {
			d.Close()
		}
	}
}

func (f *forker) entry(dir *os.File, name string, st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		if err := unix.Mkdirat(int(f.dst.Fd()), name, 0o700); err != nil {
			return err
		}
		sub, err := openDir(int(f.dst.Fd()), name)
		if err != nil {
			return err
		}
		f.dst.Close()
		f.dst = sub
		return nil
	case st.Nlink > 1:
		return f.link(dir, name, st)
	}
	return f.file(f.dst, name, dir, name, st)
}

// link gives the one copy of a file another name. By number, because by now its first
// name may be deeper than a path can say.
func (f *forker) link(dir *os.File, name string, st *unix.Stat_t) error {
	number := strconv.FormatUint(st.Ino, 16)
	err := unix.Linkat(int(f.links.Fd()), number, int(f.dst.Fd()), name, 0)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := f.file(f.links, number, dir, name, st); err != nil {
		return err
	}
	return unix.Linkat(int(f.links.Fd()), number, int(f.dst.Fd()), name, 0)
}

// left goes back to the parent's copy. A directory gets its attributes last: files made
// in it would change its times.
func (f *forker) left(dir *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return err
	}
	if err := dress(f.dst, ".", fdPath(dir), &st); err != nil {
		return err
	}
	up, err := unix.Openat(int(f.dst.Fd()), "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f.dst.Close()
	f.dst = os.NewFile(uintptr(up), "..")
	return nil
}

// file copies one that is no directory.
func (f *forker) file(to *os.File, as string, dir *os.File, name string, st *unix.Stat_t) error {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: beneath})
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(fd), name)
	defer src.Close()
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		return err
	}
	if now.Ino != st.Ino || now.Mode != st.Mode {
		return errors.New("was replaced while it was read")
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = regular(to, as, src, st.Size)
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(fd, "", target); err == nil {
			err = unix.Symlinkat(string(target[:n]), int(to.Fd()), as)
		}
	default: // a whiteout is a device 0:0
		err = unix.Mknodat(int(to.Fd()), as, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return dress(to, as, fdPath(src), st)
}

func regular(to *os.File, as string, src *os.File, size int64) error {
	in, err := os.Open(fdPath(src)) // the very file: O_PATH has found it, and it is regular
	if err != nil {
		return err
	}
	defer in.Close()
	fd, err := unix.Openat(int(to.Fd()), as, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), as)
	defer out.Close()
	if err := out.Truncate(size); err != nil {
		return err
	}
	return copyData(out, in, size)
}

// copyData copies what is data, and leaves the holes. Between files io.Copy uses
// copy_file_range(2), which shares the blocks where the file system can (xfs, btrfs).
func copyData(dst, src *os.File, size int64) error {
	for at := int64(0); at < size; {
		start, err := src.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // only a hole from here on
		}
		if err != nil {
			return err
		}
		end, err := src.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := src.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := dst.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, end-start); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// dress gives a copy its owner, mode, attributes and times, in this order: chown drops
// set-id bits and file capabilities, and everything changes times.
func dress(to *os.File, as, src string, st *unix.Stat_t) error {
	dir := int(to.Fd())
	if err := unix.Fchownat(dir, as, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(dir, as, st.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	if err := copyXattrs(fdPath(to)+"/"+as, src); err != nil {
		return err
	}
	if err := unix.UtimesNanoAt(dir, as, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// copyXattrs: src is a descriptor's path in /proc, so that a symbolic link's own
// attributes can be read as well.
func copyXattrs(dst, src string) error {
	names, err := grow(func(b []byte) (int, error) { return unix.Listxattr(src, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Getxattr(src, name, b) })
		if err == nil {
			err = unix.Lsetxattr(dst, name, value, 0)
		}
		if err != nil {
			return fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return nil
}

// grow calls a function that wants a buffer of the right size: 64 KiB is the kernel's
// largest value and list (XATTR_SIZE_MAX).
func grow(get func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 512)
	n, err := get(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10)
		n, err = get(buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}
