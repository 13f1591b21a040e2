// Package layer moves the files of an image's layer: out of an archive or a directory
// into a tree. It writes below one descriptor and nowhere else, whatever the source says,
// and knows nothing of images.
package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Options of Apply and Copy.
type Options struct {
	// Note is told, in a line each, what of the source the tree lacks.
	Note func(string)
	// Storage is a directory that Copy leaves out: thinrun's own.
	Storage string
	// Whiteouts: the tar is an OCI layer, whose ".wh." names say what of the tree goes.
	Whiteouts bool
}

// Done says what Apply or Copy has made.
type Done struct {
	Bytes int64 // in regular files, each hard link once
	Marks bool  // there were whiteouts' names, taken for ordinary files
}

// tree writes files below one descriptor. Where a name goes is decided by the kernel,
// with the layer's root as "/": openat2(RESOLVE_IN_ROOT), Linux 5.6. So a link in an
// archive, absolute or full of "..", leads to a place in the layer, and there is no
// check that a later member could undo.
type tree struct {
	ctx   context.Context
	root  int
	note  func(string)
	noted map[string]bool
	done  Done

	dir     int // the parent of the last entry, open; -1: none
	dirPath string
	times   map[string][2]unix.Timespec // of directories: set when no more files are made in them
	buf     []byte
}

// entry is one file, from an archive or a directory.
type entry struct {
	path   string // clean, relative to the root; "." is the root itself
	mode   uint32 // S_IF* and permissions
	uid    int64
	gid    int64
	major  int64
	minor  int64
	times  [2]unix.Timespec // atime, mtime
	xattrs []xattr
	target string                   // a symlink's text
	hard   string                   // a hard link to this path; all else but path is ignored
	size   int64                    // of a regular file
	write  func(dst *os.File) error // its content; the size is set afterwards
}

type xattr struct{ name, value string }

func newTree(ctx context.Context, root *os.File, note func(string)) *tree {
	return &tree{ctx: ctx, root: int(root.Fd()), note: note, noted: make(map[string]bool), dir: -1, times: make(map[string][2]unix.Timespec), buf: make([]byte, 256<<10)}
}

func (t *tree) close() {
	if t.dir >= 0 {
		unix.Close(t.dir)
		t.dir = -1
	}
}

// say tells the user once about a kind of thing.
func (t *tree) say(kind, text string) {
	if t.note != nil && !t.noted[kind] {
		t.noted[kind] = true
		t.note(text)
	}
}

// cleanPath is a path below the root, from one in an archive. ".." has no business
// there: what it would mean depends on links.
func cleanPath(name string) (string, error) {
	if name == "" {
		return "", errors.New("empty name")
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New(`".." in the name`)
		}
	}
	if name = strings.TrimLeft(path.Clean(name), "/"); name == "" {
		return ".", nil
	}
	return name, nil
}

func (t *tree) add(e *entry) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	if e.hard == "" {
		if err := e.check(); err != nil {
			return err
		}
	}
	if e.path == "." {
		if e.mode&unix.S_IFMT != unix.S_IFDIR || e.hard != "" {
			return errors.New("takes the place of the root directory")
		}
		return t.meta(t.root, ".", e)
	}
	parent, name := path.Split(e.path)
	dir, err := t.parent(path.Clean(parent))
	if err != nil {
		return err
	}
	if e.hard != "" {
		return t.link(dir, name, e)
	}
	err = t.create(dir, name, e)
	if errors.Is(err, unix.EEXIST) {
		if err := t.clear(dir, name, e); err != nil {
			return err
		}
		err = t.create(dir, name, e)
	}
	return err
}

// check refuses numbers that the kernel would cut down to others.
func (e *entry) check() error {
	// From 2^31 on programs disagree about the sign, and (uid_t)-1 is "leave as it is".
	if e.uid < 0 || e.uid >= 1<<31 || e.gid < 0 || e.gid >= 1<<31 {
		return fmt.Errorf("owner %d:%d is out of range", e.uid, e.gid)
	}
	if kind := e.mode & unix.S_IFMT; kind == unix.S_IFCHR || kind == unix.S_IFBLK {
		if e.major < 0 || e.major >= 1<<12 || e.minor < 0 || e.minor >= 1<<20 {
			return fmt.Errorf("device number %d:%d is out of range", e.major, e.minor)
		}
		if kind == unix.S_IFCHR && e.major == 0 && e.minor == 0 {
			return errors.New("character device 0:0 is overlayfs's mark for a removed file, not a device")
		}
	}
	if e.size < 0 {
		return fmt.Errorf("size %d is out of range", e.size)
	}
	return nil
}

// clear makes room for e where something is already; a directory stays for a directory.
func (t *tree) clear(dir int, name string, e *entry) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.Unlinkat(dir, name, 0)
	}
	if e.hard == "" && e.mode&unix.S_IFMT == unix.S_IFDIR {
		return nil
	}
	delete(t.times, e.path)
	if err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("takes the place of a directory: %w", err)
	}
	return nil
}

// create makes the file itself. Nobody else can reach the layer, so a name that was
// just made with O_EXCL or its like is ours.
func (t *tree) create(dir int, name string, e *entry) error {
	switch e.mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return unix.EEXIST // something else has the name
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return t.meta(fd, ".", e)
	case unix.S_IFREG:
		return t.file(dir, name, e)
	case unix.S_IFLNK:
		if err := unix.Symlinkat(e.target, dir, name); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		err := unix.Mknodat(dir, name, e.mode, int(unix.Mkdev(uint32(e.major), uint32(e.minor))))
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("make device node: %w: leave it out of the source, or import as root", err)
		}
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown kind of file, mode %o", e.mode)
	}
	return t.meta(dir, name, e)
}

func (t *tree) file(dir int, name string, e *entry) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.path)
	defer f.Close()
	if err := e.write(f); err != nil {
		return err
	}
	if err := f.Truncate(e.size); err != nil { // the hole at the end
		return err
	}
	t.done.Bytes += e.size
	if err := t.meta(dir, name, e); err != nil {
		return err
	}
	return f.Close()
}

// meta sets owner, attributes, mode and times of what is at name, in this order: chown
// takes setuid bits and file capabilities away. Directories' times come in finish.
func (t *tree) meta(dir int, name string, e *entry) error {
	if err := unix.Fchownat(dir, name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", e.uid, e.gid, err)
	}
	// setxattrat(2) is of Linux 6.13; the link in /proc is as good as the descriptor.
	at := "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
	for _, x := range e.xattrs {
		take, err := foreign(x.name)
		if err != nil {
			return err
		}
		if !take {
			continue
		}
		if err := unix.Lsetxattr(at, x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("extended attribute %q: %w", x.name, err)
		}
	}
	kind := e.mode & unix.S_IFMT
	if kind != unix.S_IFLNK {
		if err := unix.Fchmodat(dir, name, e.mode&0o7777, 0); err != nil {
			return fmt.Errorf("mode %o: %w", e.mode&0o7777, err)
		}
	}
	if kind == unix.S_IFDIR {
		t.times[e.path] = e.times
		return nil
	}
	if err := unix.UtimesNanoAt(dir, name, e.times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// foreign tells whether an extended attribute is to be taken over: not a label of the
// host's security module, which another host reads otherwise; and overlayfs's own words
// are refused, because in a layer they redirect and hide files.
func foreign(name string) (take bool, err error) {
	switch name {
	case "security.selinux", "security.ima", "security.evm", "security.apparmor":
		return false, nil
	}
	if strings.HasPrefix(name, "security.SMACK64") {
		return false, nil
	}
	if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
		return false, fmt.Errorf("extended attribute %q belongs to overlayfs, not into an image", name)
	}
	return true, nil
}

func (t *tree) link(dir int, name string, e *entry) error {
	parent, base := path.Split(e.hard)
	from, err := t.open(path.Clean(parent))
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", e.hard, err)
	}
	defer unix.Close(from)
	err = unix.Linkat(from, base, dir, name, 0)
	if errors.Is(err, unix.EEXIST) {
		var a, b unix.Stat_t
		if unix.Fstatat(from, base, &a, unix.AT_SYMLINK_NOFOLLOW) == nil &&
			unix.Fstatat(dir, name, &b, unix.AT_SYMLINK_NOFOLLOW) == nil && a.Ino == b.Ino && a.Dev == b.Dev {
			return nil
		}
		if err := t.clear(dir, name, e); err != nil {
			return err
		}
		err = unix.Linkat(from, base, dir, name, 0)
	}
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("hard link to %q, which did not come before it", e.hard)
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", e.hard, err)
	}
	return nil
}

// parent is the open directory of that path; what lacks on the way is made, as tar does.
func (t *tree) parent(p string) (int, error) {
	if t.dir >= 0 && t.dirPath == p {
		return t.dir, nil
	}
	t.close()
	fd, err := t.open(p)
	if errors.Is(err, unix.ENOENT) {
		fd, err = t.mkdirs(p)
	}
	if err != nil {
		return -1, err
	}
	t.dir, t.dirPath = fd, p
	return fd, nil
}

func (t *tree) mkdirs(p string) (int, error) {
	at, err := t.open(".")
	if err != nil {
		return -1, err
	}
	done := ""
	for part := range strings.SplitSeq(p, "/") {
		done = path.Join(done, part)
		below, err := t.open(done)
		if errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(at, part, 0o755); err == nil {
				if err = unix.Fchmodat(at, part, 0o755, 0); err == nil { // whatever the umask
					below, err = t.open(done)
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
func (t *tree) open(p string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(t.root, p, &how)
		// EAGAIN: a rename or mount somewhere on the host while a link's ".." was resolved.
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			if t.ctx.Err() == nil {
				continue
			}
		}
		return fd, err
	}
}

// finish sets the directories' times, now that nothing is made in them any more.
func (t *tree) finish() error {
	for p, times := range t.times {
		fd, err := t.open(p)
		if err != nil {
			return fmt.Errorf("times of %q: %w", p, err)
		}
		err = unix.UtimesNanoAt(fd, ".", times[:], 0)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("times of %q: %w", p, err)
		}
	}
	return nil
}

// sparse copies r and leaves holes where blocks hold only zeros.
func (t *tree) sparse(dst *os.File, r io.Reader) error {
	for {
		n, err := fill(t.buf, r)
		for rest := t.buf[:n]; len(rest) > 0; {
			run, hole := sameKind(rest)
			var err error
			if hole {
				_, err = dst.Seek(int64(run), io.SeekCurrent)
			} else {
				_, err = dst.Write(rest[:run])
			}
			if err != nil {
				return err
			}
			rest = rest[run:]
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.ctx.Err(); err != nil {
			return err
		}
	}
}

// fill is io.ReadFull without its second meaning of ErrUnexpectedEOF, which archive/tar
// has for a cut file.
func fill(buf []byte, r io.Reader) (n int, err error) {
	for n < len(buf) && err == nil {
		var more int
		more, err = r.Read(buf[n:])
		n += more
	}
	return n, err
}

// sameKind is how much of the start of buf is zero blocks, or is not.
func sameKind(buf []byte) (n int, zero bool) {
	const block = 4096
	for n < len(buf) {
		b := buf[n:min(len(buf), n+block)]
		z := b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
		if n > 0 && z != zero {
			break
		}
		n, zero = n+len(b), z
	}
	return n, zero
}
