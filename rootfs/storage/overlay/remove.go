package overlay

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// beneath keeps every look-up on this side of links and mount points: what is removed
// here was written by a container.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// removeTree removes overlay/kind/name. Not being there is fine.
func (d Driver) removeTree(kind, name string) error {
	path := d.path(kind)
	parent, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(parent)
	return removeBelow(parent, path, name)
}

// removeBelow removes a directory below parent with all that it holds.
//
// A container can nest directories deeper than any stack or descriptor table, so this
// does not recurse: a directory that is not empty is moved up to the top and waits for
// its turn there. Two descriptors and one level are enough.
func removeBelow(parent int, path, name string) error {
	err := unlink(parent, name)
	if !errors.Is(err, unix.ENOTEMPTY) {
		return named(err, path, name)
	}
	top, err := openDir(parent, name)
	if err != nil {
		return named(err, path, name)
	}
	defer top.Close()
	r := remover{top: int(top.Fd())}
	for {
		// Read whole before anything moves: entries may not be seen otherwise.
		names, err := readNames(top)
		if err != nil {
			return named(err, path, name)
		}
		if len(names) == 0 {
			return named(unlink(parent, name), path, name)
		}
		for _, n := range names {
			if err := r.clear(n); err != nil {
				return named(err, path, name+"/"+n)
			}
		}
	}
}

type remover struct {
	top   int
	moved int
}

// clear removes one entry of the top; the full directories in it become entries of
// the top.
func (r *remover) clear(name string) error {
	err := unlink(r.top, name)
	if !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	dir, err := openDir(r.top, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := readNames(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		err := unlink(int(dir.Fd()), n)
		if errors.Is(err, unix.ENOTEMPTY) {
			err = r.lift(int(dir.Fd()), n)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", n, err)
		}
	}
	return unlink(r.top, name)
}

func (r *remover) lift(dir int, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(dir, name, r.top, ".removed-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) { // an earlier removal that was killed
			return err
		}
	}
}

// unlink removes a file or an empty directory. A container that had
// CAP_LINUX_IMMUTABLE may have nailed it down; that is undone first.
func unlink(dir int, name string) error {
	err := unlinkOnce(dir, name)
	if errors.Is(err, unix.EPERM) && loosen(dir, name) {
		err = unlinkOnce(dir, name)
	}
	return err
}

func unlinkOnce(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// loosen takes the immutable and append-only flags off a directory and an entry of it.
// It tells whether there was any.
func loosen(dir int, name string) bool {
	did := clearFlags(dir)
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil ||
		st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return did // opening a device does things
	}
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: beneath})
	if err != nil {
		return did
	}
	defer unix.Close(fd)
	return clearFlags(fd) || did
}

func clearFlags(fd int) bool {
	const nailed = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL: include/uapi/linux/fs.h
	flags, err := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&nailed == 0 {
		return false
	}
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags&^nailed) == nil
}

func openDir(parent int, name string) (*os.File, error) {
	fd, err := unix.Openat2(parent, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: beneath})
	if errors.Is(err, unix.EXDEV) {
		return nil, errors.New("something is mounted on it; unmount that first")
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func readNames(dir *os.File) ([]string, error) {
	if _, err := dir.Seek(0, 0); err != nil {
		return nil, err
	}
	return dir.Readdirnames(-1)
}

func named(err error, path, name string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("remove %s/%s: %w", path, name, err)
}
