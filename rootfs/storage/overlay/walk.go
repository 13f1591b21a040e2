package overlay

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// walk goes through the tree below top, which a container wrote: by descriptor only,
// never across a link or a mount point, never opening anything but directories, and
// with two descriptors however deep it is. The way up is "..", and has to lead where we
// came from.
type walk struct {
	top *os.File
	// changing: the tree's owner may be at work, so what has just gone is passed over.
	changing bool
	// entry is called for each, before what is in it.
	entry func(dir *os.File, name string, st *unix.Stat_t) error
	// left is called when all in a directory has been seen, the top's too.
	left func(dir *os.File) error
}

// errMoved: a directory was moved while the walk was in it.
var errMoved = errors.New("was moved while it was read")

type inode struct{ dev, ino uint64 }

// level is a directory between the top and here, with the names still to be seen.
type level struct {
	inode inode
	names []string
}

func (w *walk) run() error {
	dir, err := openDir(int(w.top.Fd()), ".")
	if err != nil {
		return err
	}
	defer func() { dir.Close() }()
	here, err := w.arrive(dir)
	if err != nil {
		return err
	}
	var above []level
	for {
		if len(here.names) == 0 {
			if w.left != nil {
				if err := w.left(dir); err != nil {
					return err
				}
			}
			if len(above) == 0 {
				return nil
			}
			here, above = above[len(above)-1], above[:len(above)-1]
			up, err := w.up(dir, here.inode)
			if err != nil {
				return err
			}
			dir.Close()
			dir = up
			continue
		}
		name := here.names[0]
		here.names = here.names[1:]
		sub, err := w.one(dir, name)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if sub == nil {
			continue
		}
		above = append(above, here)
		dir.Close()
		dir = sub
		if here, err = w.arrive(dir); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
}

func (w *walk) arrive(dir *os.File) (l level, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return l, err
	}
	l.inode = inode{st.Dev, st.Ino}
	l.names, err = readNames(dir)
	return l, err
}

// one looks at an entry, and opens it if it is a directory.
func (w *walk) one(dir *os.File, name string) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, w.gone(err)
	}
	if err := w.entry(dir, name, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, nil
	}
	sub, err := openDir(int(dir.Fd()), name)
	if err != nil {
		return nil, w.gone(err)
	}
	return sub, nil
}

// gone passes over what is no longer there, or no longer a directory.
func (w *walk) gone(err error) error {
	if w.changing && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)) {
		return nil
	}
	return err
}

func (w *walk) up(dir *os.File, to inode) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || (inode{st.Dev, st.Ino}) != to {
		unix.Close(fd)
		return nil, fmt.Errorf("%q: %w", dir.Name(), errMoved)
	}
	return os.NewFile(uintptr(fd), ".."), nil
}
