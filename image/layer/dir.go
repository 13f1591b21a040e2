package layer

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dir is an open directory of the tree.
type dir struct {
	fd   int // O_PATH; -1: none
	path string
	ino  uint64
	// inherits: what is made in it does not get just our ids and the mode asked for,
	// because of its setgid bit, a default ACL, or a mount option that passes the group on.
	inherits bool
	acl      bool // it has a default ACL, acl(5)
}

func (d *dir) close() {
	if d.fd >= 0 {
		unix.Close(d.fd)
		d.fd = -1
	}
}

func (d *dir) proc() string { return "/proc/self/fd/" + strconv.Itoa(d.fd) }

// procFile is a path of the file name in the open directory, for calls that take no
// descriptor (setxattrat(2) is of Linux 6.13).
func procFile(dir int, name string) string { return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name }

// dirTimes are a directory's times. They are set when no more files are made in it.
type dirTimes struct {
	path  string
	times [2]unix.Timespec
}

// later keeps the times of e, a directory of the archive, for finish.
func (t *tree) later(e *entry) {
	t.set = append(t.set, dirTimes{e.path, e.times})
	t.listed[e.path] = struct{}{}
}

// touch keeps the times of a directory that the archive does not list, so far: adding and
// removing files is not to change them.
func (t *tree) touch(p string, st *unix.Stat_t) {
	if _, ok := t.listed[p]; !ok {
		t.listed[p] = struct{}{}
		t.touched = append(t.touched, dirTimes{p, [2]unix.Timespec{st.Atim, st.Mtim}})
	}
}

// enter makes the directory of that path t.at; what lacks on the way is made, as tar does.
func (t *tree) enter(p string) error {
	if t.at.fd >= 0 && t.at.path == p {
		return nil
	}
	t.at.close()
	fd, err := t.open(p, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = t.mkdirs(p)
	}
	if err != nil {
		return err
	}
	t.at, err = t.look(fd, p)
	return err
}

func (t *tree) look(fd int, p string) (dir, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return dir{fd: -1}, err
	}
	t.touch(p, &st)
	d := dir{fd: fd, path: p, ino: st.Ino}
	_, err := unix.Getxattr(d.proc(), aclDefault, nil)
	d.acl = err == nil
	d.inherits = d.acl || st.Mode&unix.S_ISGID != 0 || int64(st.Gid) != t.us.gid
	return d, nil
}

func (t *tree) mkdirs(p string) (int, error) {
	at, err := t.open(".", 0)
	if err != nil {
		return -1, err
	}
	done := ""
	for part := range strings.SplitSeq(p, "/") {
		done = path.Join(done, part)
		below, err := t.open(done, 0)
		if errors.Is(err, unix.ENOENT) {
			var st unix.Stat_t
			if err = unix.Fstat(at, &st); err == nil {
				t.touch(path.Dir(done), &st)
				err = unix.Mkdirat(at, part, 0o755)
			}
			if err == nil {
				err = dropACLs(func(name string) error { return unix.Lremovexattr(procFile(at, part), name) })
			}
			if err == nil {
				if err = unix.Fchmodat(at, part, 0o755, 0); err == nil { // whatever the umask
					below, err = t.open(done, 0)
				}
			}
		}
		unix.Close(at)
		if err != nil {
			return -1, fmt.Errorf("directory %q: %w", done, err)
		}
		at = below
	}
	return at, nil
}

// open opens a directory with the layer's root as "/".
func (t *tree) open(p string, flags uint64) (int, error) {
	return t.openat2(t.root, p, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC | flags,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
}

func (t *tree) openat2(at int, p string, how *unix.OpenHow) (int, error) {
	for {
		fd, err := unix.Openat2(at, p, how)
		// EAGAIN: a rename or mount somewhere on the host while a link's ".." was resolved.
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			if t.ctx.Err() == nil {
				continue
			}
		}
		return fd, err
	}
}

// finish sets the directories' times, now that nothing is made in them any more. One that
// has gone since, or is something else, has none. What the archive says comes last and in
// its order, because one directory may have several names.
func (t *tree) finish() error {
	for _, list := range [][]dirTimes{t.touched, t.set} {
		for i := range list {
			if err := t.setTimes(&list[i]); err != nil {
				return fmt.Errorf("times of %q: %w", list[i].path, err)
			}
		}
	}
	return nil
}

func (t *tree) setTimes(d *dirTimes) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	fd, err := t.open(d.path, unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.UtimesNanoAt(fd, ".", d.times[:], 0)
}
