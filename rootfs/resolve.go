package rootfs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// below opens path below the directory root as a process confined to it would see it:
// "..", absolute symlinks and loops end at root. Magic links of procfs are refused, for
// they lead anywhere.
func below(root int, path string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: resolve | unix.RESOLVE_NO_MAGICLINKS,
	}
	// The kernel answers EAGAIN when something was renamed or mounted anywhere while it
	// walked a "..": it could not tell whether the walk left the root. openat2(2) says
	// to try again; an attacker may rename forever, so there is an end.
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(root, path, &how)
		if err == unix.EINTR || err == unix.EAGAIN && tries < 256 {
			continue
		}
		return fd, err
	}
}

// open opens path below the container's root.
func (r *Root) open(path string, flags uint64) (int, error) {
	return below(r.fd, path, flags, unix.RESOLVE_IN_ROOT)
}

// makeDir returns an O_PATH descriptor of the directory at path; what is missing is
// made, and made says so.
func (r *Root) makeDir(path string) (fd int, made bool, err error) {
	fd, err = r.open(path, unix.O_PATH|unix.O_DIRECTORY)
	if err != unix.ENOENT {
		return fd, false, err
	}
	fd, err = r.create(path, unix.S_IFDIR)
	return fd, true, err
}

// makeFile is makeDir for the target of a bind that is not a directory.
func (r *Root) makeFile(path string) (int, error) {
	fd, err := r.open(path, unix.O_PATH)
	if err != unix.ENOENT {
		return fd, err
	}
	return r.create(path, unix.S_IFREG)
}

// makeNoFollow opens path's last component itself, also when it is a symlink; kind says
// what to make when it is missing.
func (r *Root) makeNoFollow(path string, kind uint32) (int, error) {
	fd, err := r.open(path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != unix.ENOENT {
		return fd, err
	}
	return r.create(path, kind)
}

// parent splits path into a descriptor of its directory, made if need be, and a name.
func (r *Root) parent(path string) (int, string, error) {
	path = strings.TrimRight(path, "/")
	i := strings.LastIndexByte(path, '/') + 1
	dir, name := path[:i], path[i:]
	if name == "" || name == "." || name == ".." {
		return -1, "", unix.EINVAL
	}
	if dir == "" {
		dir = "/"
	}
	fd, _, err := r.makeDir(dir)
	return fd, name, err
}

// create walks path one component at a time and makes what is missing. The kernel has
// no call for that, and what openat2 says is missing may be behind a symlink that
// dangles: an image's /etc/resolv.conf often does, and the bind must land where it
// points.
//
// Every step is one name below a descriptor, never followed, so a swapped component
// can only fail the walk. ".." goes back to the descriptor we came from instead of
// asking the kernel: a directory that is moved away meanwhile cannot lead us out.
func (r *Root) create(path string, kind uint32) (int, error) {
	w := walk{root: r.fd}
	defer w.close()
	todo := names(path)
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case ".":
			continue
		case "..":
			w.up()
			continue
		}
		last := len(todo) == 0
		step := uint32(unix.S_IFDIR)
		if last {
			step = kind
		}
		fd, mode, err := w.step(name, step)
		if err != nil {
			return -1, fmt.Errorf("%q: %w", name, err)
		}
		if mode == unix.S_IFLNK {
			text, err := readlink(fd, "")
			unix.Close(fd)
			if err != nil {
				return -1, fmt.Errorf("symlink %q: %w", name, err)
			}
			if links++; links > 40 { // as the kernel, path_resolution(7)
				return -1, unix.ELOOP
			}
			if strings.HasPrefix(text, "/") {
				w.close()
			}
			todo = append(names(text), todo...)
			continue
		}
		w.way = append(w.way, fd)
		if mode != unix.S_IFDIR && !last {
			return -1, fmt.Errorf("%q: %w", name, unix.ENOTDIR)
		}
	}
	return w.take()
}

// names are path's components that mean something.
func names(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// walk is the way from the root to where create is.
type walk struct {
	root int
	way  []int
}

func (w *walk) here() int {
	if len(w.way) == 0 {
		return w.root
	}
	return w.way[len(w.way)-1]
}

func (w *walk) up() {
	if n := len(w.way); n > 0 {
		unix.Close(w.way[n-1])
		w.way = w.way[:n-1]
	}
}

func (w *walk) close() {
	for len(w.way) > 0 {
		w.up()
	}
}

// take hands the last descriptor to the caller.
func (w *walk) take() (int, error) {
	n := len(w.way)
	if n == 0 {
		return unix.FcntlInt(uintptr(w.root), unix.F_DUPFD_CLOEXEC, 3)
	}
	fd := w.way[n-1]
	w.way = w.way[:n-1]
	return fd, nil
}

// step opens one name, made as kind if it is missing, and tells its type.
func (w *walk) step(name string, kind uint32) (fd int, mode uint32, err error) {
	const flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err = unix.Openat(w.here(), name, flags, 0)
	if err == unix.ENOENT {
		if kind == unix.S_IFDIR {
			err = unix.Mkdirat(w.here(), name, 0o755)
		} else {
			err = unix.Mknodat(w.here(), name, unix.S_IFREG|0o644, 0)
		}
		// Somebody else may share the volume and have made it first; what is there
		// then is judged below like anything that was there before.
		if err != nil && err != unix.EEXIST {
			return -1, 0, err
		}
		fd, err = unix.Openat(w.here(), name, flags, 0)
	}
	if err != nil {
		return -1, 0, err
	}
	st, err := fstat(fd)
	if err != nil {
		unix.Close(fd)
		return -1, 0, err
	}
	return fd, st.Mode & unix.S_IFMT, nil
}

func fstat(fd int) (st unix.Stat_t, err error) {
	err = unix.Fstat(fd, &st)
	return st, err
}

func isDir(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// readlink reads the symlink name below dir; with "" the one dir was opened on.
func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
