package layer

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// unchanged tells whether a file is in lower as it is in upper, and under the same names.
func (d *differ) unchanged(p pair) (bool, error) {
	l, u := p.lx, p.ux
	if l == nil || l.Mode != u.Mode || !d.sameNames(p.path) {
		return false, nil
	}
	if d.o.Snapshot && untouched(l, u) && later(d.newest, u.Ctime) {
		return true, nil
	}
	if l.Uid != u.Uid || l.Gid != u.Gid || l.Mtime != u.Mtime {
		return false, nil
	}
	a, err := read(p.lower, p.name, p.path, l)
	if err != nil {
		return false, err
	}
	b, err := read(p.upper, p.name, p.path, u)
	if err != nil {
		return false, err
	}
	if a.target != b.target || a.size != b.size || !slices.Equal(sorted(a.xattrs), sorted(b.xattrs)) {
		return false, nil
	}
	switch a.kind() {
	case unix.S_IFCHR, unix.S_IFBLK:
		return a.major == b.major && a.minor == b.minor, nil
	case unix.S_IFREG:
		if untouched(l, u) && dev(l) == dev(u) {
			return true, nil // the very same file
		}
		return d.sameContent(p)
	}
	return true, nil
}

// untouched: whatever is done to a file (its data, owner, mode, attributes, links) sets
// its ctime, which no program can set back. So in a snapshot an inode that has the ctime
// of the original is the original, with one exception: the kernel's clock for files goes
// in ticks of some milliseconds, and what was changed right before the snapshot may have
// been changed again right after it, in the same tick. No ctime in the original is later
// than the snapshot; so such a file has the latest one of all, and Diff compares what it
// holds. This is also true of overlayfs, where a file that is changed is a new one.
func untouched(l, u *unix.Statx_t) bool { return l.Ino == u.Ino && l.Ctime == u.Ctime }

// sameNames: a file with more than one name has the same ones on both sides.
func (d *differ) sameNames(p string) bool {
	l, u := d.lower.of[d.lower.inode[p]], d.upper.of[d.upper.inode[p]]
	return len(l) <= 1 && len(u) <= 1 || slices.Equal(l, u) // both in the walk's order
}

func sorted(list []xattr) []xattr {
	list = slices.DeleteFunc(list, func(x xattr) bool {
		take, err := foreign(x.name)
		return !take || err != nil
	})
	slices.SortFunc(list, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return list
}

func (d *differ) sameContent(p pair) (bool, error) {
	a, err := openSame(p.lower, p.name, unix.O_NONBLOCK, p.lx)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := openSame(p.upper, p.name, unix.O_NONBLOCK, p.ux)
	if err != nil {
		return false, err
	}
	defer b.Close()
	half := len(d.buf) / 2
	for {
		if err := d.ctx.Err(); err != nil {
			return false, err
		}
		x, err := readHalf(a, d.buf[:half])
		if err != nil {
			return false, err
		}
		y, err := readHalf(b, d.buf[half:])
		if err != nil || !bytes.Equal(x, y) {
			return false, err
		}
		if len(x) == 0 {
			return true, nil
		}
	}
}

// readHalf reads as much as there is; nothing at the end.
func readHalf(f *os.File, buf []byte) ([]byte, error) {
	n, err := ReadAtLeast(f, buf, len(buf))
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return buf[:n], err
}
