// Package layer moves the files of an image's layer: out of an archive or a directory
// into a tree (Apply, Copy), and out of two trees into an archive (Diff). It writes below
// one descriptor and nowhere else, whatever the source says, and knows nothing of images.
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

// Options of Apply and Copy.
type Options struct {
	// Note is told, in a line each, what of the source the tree lacks.
	Note func(string)
	// Storage is a directory that Copy leaves out: thinrun's own.
	Storage string
	// Whiteouts: the tar is an OCI layer, whose ".wh." names say what of the tree goes.
	Whiteouts bool
	// Room, if not nil, is how many bytes may be written before it is asked again; its error
	// ends the work. It is storage.Layer's.
	Room func() (uint64, error)
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
//
// An image is many small files, and each system call on one of them counts: a file is
// made with the owner and mode that it shall have where the kernel does that by itself.
type tree struct {
	ctx   context.Context
	root  int
	o     Options
	done  Done
	us    ids
	umask uint32
	notes

	at      dir                 // the parent of the last entry, open
	set     []dirTimes          // of directories in the archive, in its order
	listed  map[string]struct{} // their paths
	touched []dirTimes          // of directories that were there: as they were
	mine    map[place]struct{}  // what this layer has brought
	buf     []byte
	room    uint64 // what may be written without asking
}

// before is how much may be written before Room is asked: most layers are small, and each
// store has that much.
const before = 4 << 20

// perFile is about what an inode and a name take.
const perFile = 512

type ids struct{ uid, gid int64 }

// place names a file by the inode of the directory, so that no link gives it two names.
type place struct {
	dir  uint64
	name string
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
	target string // a symlink's text
	hard   string // a hard link to this path; all else but path is ignored
	size   int64  // of a regular file
	// write writes a regular file's content and says where it ended; the rest is a hole.
	write func(fd int) (end int64, err error)
}

type xattr struct{ name, value string }

func (e *entry) kind() uint32 { return e.mode & unix.S_IFMT }

func (e *entry) isDir() bool { return e.hard == "" && e.kind() == unix.S_IFDIR }

func newTree(ctx context.Context, root *os.File, o Options) *tree {
	t := &tree{
		ctx: ctx, root: int(root.Fd()), o: o, notes: newNotes(o.Note), at: dir{fd: -1},
		us: ids{int64(os.Geteuid()), int64(os.Getegid())}, umask: umask(),
		listed: make(map[string]struct{}), buf: make([]byte, 256<<10), room: before,
	}
	if o.Whiteouts {
		t.mine = make(map[place]struct{})
	}
	return t
}

func (t *tree) close() { t.at.close() }

// spend is called before n bytes are written.
func (t *tree) spend(n int) error {
	if t.o.Room == nil {
		return nil
	}
	for t.room < uint64(n) {
		more, err := t.o.Room()
		if err != nil {
			return err
		}
		t.room = max(more, uint64(n))
	}
	t.room -= uint64(n)
	return nil
}

// notes are told once for each kind of thing.
type notes struct {
	note func(string) // may be nil
	told map[string]bool
}

func newNotes(note func(string)) notes { return notes{note, make(map[string]bool)} }

func (n *notes) say(kind, text string) {
	if n.note != nil && !n.told[kind] {
		n.told[kind] = true
		n.note(text)
	}
}

// cleanPath is a path below the root, from one in an archive. ".." has no business
// there: what it would mean depends on links.
func cleanPath(name string) (string, error) {
	if name == "" {
		return "", errors.New("empty name")
	}
	if strings.Contains(name, "..") {
		for part := range strings.SplitSeq(name, "/") {
			if part == ".." {
				return "", errors.New(`".." in the name`)
			}
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
	if err := t.spend(perFile); err != nil {
		return err
	}
	if e.path == "." {
		if !e.isDir() {
			return errors.New("takes the place of the root directory")
		}
		return t.adoptRoot(e)
	}
	if t.o.Whiteouts {
		if done, err := t.whiteout(e.path); done || err != nil {
			return err
		}
	}
	parent, name := path.Split(e.path)
	if err := t.enter(path.Clean(parent)); err != nil {
		return err
	}
	do := t.create
	if e.hard != "" {
		do = t.link
	}
	err := do(name, e)
	if errors.Is(err, unix.EEXIST) {
		if err := t.clear(name, e); err != nil {
			return err
		}
		err = do(name, e)
	}
	if err == nil && t.mine != nil {
		t.mine[place{t.at.ino, name}] = struct{}{}
	}
	return err
}

// check refuses numbers that the kernel would cut down to others.
func (e *entry) check() error {
	// From 2^31 on programs disagree about the sign, and (uid_t)-1 is "leave as it is".
	if e.uid < 0 || e.uid >= 1<<31 || e.gid < 0 || e.gid >= 1<<31 {
		return fmt.Errorf("owner %d:%d is out of range", e.uid, e.gid)
	}
	if kind := e.kind(); kind == unix.S_IFCHR || kind == unix.S_IFBLK {
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

// clear makes room for e where something else is already. In an OCI layer a directory
// goes with all below it; in a plain tar that is a mistake of who made it.
func (t *tree) clear(name string, e *entry) error {
	var st unix.Stat_t
	if err := unix.Fstatat(t.at.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.Unlinkat(t.at.fd, name, 0)
	}
	var err error
	if t.o.Whiteouts {
		err = t.remove(t.at, name, e.path, 0, true)
	} else {
		err = unix.Unlinkat(t.at.fd, name, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return fmt.Errorf("takes the place of a directory: %w", err)
	}
	return nil
}

// create makes the file itself. Nobody else can reach the layer, so a name that was
// just made with O_EXCL or its like is ours.
func (t *tree) create(name string, e *entry) error {
	switch e.kind() {
	case unix.S_IFDIR:
		return t.mkdir(name, e)
	case unix.S_IFREG:
		return t.file(name, e)
	case unix.S_IFLNK:
		if err := unix.Symlinkat(e.target, t.at.fd, name); err != nil {
			return err
		}
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
		err := unix.Mknodat(t.at.fd, name, e.kind()|e.mode&0o777, int(unix.Mkdev(uint32(e.major), uint32(e.minor))))
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("make device node: %w: leave it out of the source, or import as root", err)
		}
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown kind of file, mode %o", e.mode)
	}
	return t.meta(name, e)
}

func (t *tree) mkdir(name string, e *entry) error {
	err := unix.Mkdirat(t.at.fd, name, e.mode&0o777)
	if err == nil {
		t.later(e)
		return t.meta(name, e)
	}
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(t.at.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return unix.EEXIST // something else has the name
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return t.adopt(fd, e)
}

func (t *tree) file(name string, e *entry) error {
	fd, err := unix.Openat(t.at.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, e.mode&0o777)
	if err != nil {
		return err
	}
	err = t.content(fd, e)
	if err2 := unix.Close(fd); err == nil {
		err = err2
	}
	return err
}

func (t *tree) content(fd int, e *entry) error {
	if e.size > 0 {
		end, err := e.write(fd)
		if err == nil && end < e.size {
			err = unix.Ftruncate(fd, e.size) // the hole at the end
		}
		if err != nil {
			return err
		}
		t.done.Bytes += e.size
	}
	return t.fmeta(fd, e, t.asMade(e))
}

func (t *tree) link(name string, e *entry) error {
	parent, base := path.Split(e.hard)
	parent = path.Clean(parent)
	from := t.at.fd
	if parent != t.at.path {
		var err error
		if from, err = t.open(parent, 0); err != nil {
			return fmt.Errorf("hard link to %q: %w", e.hard, err)
		}
		defer unix.Close(from)
	}
	err := unix.Linkat(from, base, t.at.fd, name, 0)
	if errors.Is(err, unix.EEXIST) {
		var a, b unix.Stat_t
		if unix.Fstatat(from, base, &a, unix.AT_SYMLINK_NOFOLLOW) == nil &&
			unix.Fstatat(t.at.fd, name, &b, unix.AT_SYMLINK_NOFOLLOW) == nil && a.Ino == b.Ino && a.Dev == b.Dev {
			return nil
		}
		return err // add makes room
	}
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("hard link to %q, which did not come before it", e.hard)
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", e.hard, err)
	}
	return nil
}
