package rootfs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// bind attaches a clone of a host's tree.
func (r *Root) bind(m *Mount, files []*os.File) error {
	source, err := m.tree(files)
	if err != nil {
		return err
	}
	if m.File < 0 {
		defer unix.Close(source)
	}
	// The descriptor says what the source is, not what the plan saw at some other time.
	st, err := fstat(source)
	if err != nil {
		return err
	}
	if m.CopySymlink && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return r.copySymlink(source, m.Destination)
	}
	target, err := r.bindTarget(m, st)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	at, err := fstat(target)
	if err != nil {
		return err
	}
	if isDir(st) != isDir(at) { // the kernel says EINVAL to that, as to many things
		return fmt.Errorf("%w (source and destination must both be directories, or neither)", unix.ENOTDIR)
	}
	if err := r.guardProcBind(m, source, target, at); err != nil {
		return err
	}
	if err := r.shape(source, m, true); err != nil {
		return err
	}
	return r.place(m, source, target, false)
}

// tree is the detached mount to attach: the parent's, who keeps its descriptor, or our
// own clone when the parent could not make one.
func (m *Mount) tree(files []*os.File) (int, error) {
	if m.File < 0 {
		return openSource(m.Source, m.Recursive, m.SrcNoFollow)
	}
	if m.File >= len(files) {
		return -1, fmt.Errorf("BUG: source is file %d of %d", m.File, len(files))
	}
	return int(files[m.File].Fd()), nil
}

func (r *Root) bindTarget(m *Mount, source unix.Stat_t) (int, error) {
	kind := uint32(unix.S_IFREG)
	if isDir(source) {
		kind = unix.S_IFDIR
	}
	switch {
	case m.DestNoFollow:
		return r.makeNoFollow(m.Destination, kind)
	case kind == unix.S_IFREG:
		return r.makeFile(m.Destination)
	}
	fd, _, err := r.makeDir(m.Destination)
	if err == unix.ENOTDIR {
		err = fmt.Errorf("%w (the source is a directory, the destination is not)", err)
	}
	return fd, err
}

// copySymlink makes the same symlink in the container instead of a mount.
func (r *Root) copySymlink(source int, destination string) error {
	text, err := readlink(source, "")
	if err != nil {
		return err
	}
	dir, name, err := r.parent(destination)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return symlink(text, dir, name)
}

// symlink makes dir/name point to text; one that does already is fine.
func symlink(text string, dir int, name string) error {
	err := unix.Symlinkat(text, dir, name)
	if err != unix.EEXIST {
		return err
	}
	if old, lerr := readlink(dir, name); lerr != nil || old != text {
		return fmt.Errorf("symlink %q: %w and is not a symlink to %q", name, err, text)
	}
	return nil
}
