package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// WriteFile lets write fill a file that has no name before it is whole: who fails or is
// killed leaves what was there before. A link is followed, as by who writes into it. What is
// not a regular file is written to as it is.
func WriteFile(ctx context.Context, path string, write func(io.Writer) error) error {
	st, err := os.Stat(path)
	switch {
	case err == nil && !st.Mode().IsRegular():
		f, err := openFile(ctx, path, os.O_WRONLY)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	case err == nil:
		if path, err = followed(path); err != nil {
			return err
		}
	case !errors.Is(err, os.ErrNotExist):
		return err
	default:
		if to, err := os.Readlink(path); err == nil {
			return fmt.Errorf("%s is a link to %s, which is not there", path, to)
		}
	}
	part := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".part")
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	unnamed := err == nil
	if !unnamed && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	if !unnamed { // such file systems get a name that says what it is
		if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		// O_EXCL: in a directory of many writers somebody could put a link there.
		if fd, err = unix.Open(part, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644); err != nil {
			return &os.PathError{Op: "open", Path: part, Err: err}
		}
	}
	f := os.NewFile(uintptr(fd), part)
	defer f.Close()
	if st != nil { // whose it is to read stays as it was
		if was, ok := st.Sys().(*syscall.Stat_t); ok {
			_ = f.Chown(int(was.Uid), int(was.Gid)) // only root may
		}
		err = f.Chmod(st.Mode().Perm())
	}
	if err := errors.Join(err, write(f), f.Sync()); err != nil {
		if !unnamed {
			os.Remove(part)
		}
		return err
	}
	if unnamed { // a link replaces nothing, a rename does
		if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, part, unix.AT_SYMLINK_FOLLOW); err != nil {
			return &os.LinkError{Op: "link", Old: "the archive", New: part, Err: err}
		}
	}
	if err := os.Rename(part, path); err != nil { // a mount point is not replaced
		return errors.Join(err, os.Remove(part))
	}
	return nil
}

// followed is the path of the file itself. The kernel follows the links: it knows whose in
// /tmp are not to be (proc(5), protected_symlinks).
func followed(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}
