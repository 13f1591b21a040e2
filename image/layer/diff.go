package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxHoles is how much of a sparse file may be holes: the tar has them written out, as
// zeros, because archive/tar writes no sparse files.
const maxHoles = 16 << 30

// DiffOptions of Diff.
type DiffOptions struct {
	// Snapshot: upper began as a snapshot of lower, on the same file system, and nobody has
	// written to lower since.
	Snapshot bool
	// Skip tells which paths ("var/lib/x") are not looked at, on either side.
	Skip func(path string) bool
	// Note is told, in a line each, what of upper the layer lacks.
	Note func(string)
}

// Changes is what Diff has found.
type Changes struct {
	Members int
	Bytes   int64 // in regular files, each hard link once
}

// Diff writes an OCI layer that makes lower, or nothing (nil), into upper. The same trees
// give the same bytes.
//
// A name that is gone is a whiteout; a directory of which nothing is left gets the opaque
// mark. Hard links stay together: if one name of a file is new, all its names are in the
// layer, because not everybody who unpacks it has the lower layers' files at hand.
// Sockets and names that would be whiteouts themselves are left out, with a note.
func Diff(ctx context.Context, lower, upper *os.File, w io.Writer, o DiffOptions) (Changes, error) {
	d := differ{
		ctx: ctx, w: tar.NewWriter(w), o: o, notes: newNotes(o.Note), buf: make([]byte, 256<<10),
		upper: linked{make(map[inode][]string), make(map[string]inode)},
		lower: linked{make(map[inode][]string), make(map[string]inode)},
		first: make(map[inode]*tar.Header), same: make(map[inode]bool),
	}
	err := d.all(lower, upper)
	if err == nil {
		err = d.w.Close()
	}
	return d.found, err
}

type differ struct {
	ctx    context.Context
	w      *tar.Writer
	o      DiffOptions
	buf    []byte
	found  Changes
	newest unix.StatxTimestamp // of all ctimes in lower
	notes

	upper, lower linked
	first        map[inode]*tar.Header // of such a file, in the layer
	same         map[inode]bool        // whether it is as it was
}

// linked are the files with more than one name.
type linked struct {
	of    map[inode][]string
	inode map[string]inode
}

func (n *linked) gather(p string, x *unix.Statx_t) {
	if x.Nlink > 1 && x.Mode&unix.S_IFMT != unix.S_IFDIR {
		key := inode{dev(x), x.Ino}
		n.of[key] = append(n.of[key], p)
		n.inode[p] = key
	}
}

func (d *differ) all(lower, upper *os.File) error {
	err := walk(d.ctx, upper, d.o.Skip, d.upper.gather)
	if err != nil {
		return err
	}
	low := -1
	var lx *unix.Statx_t
	if lower != nil {
		low = int(lower.Fd())
		err := walk(d.ctx, lower, d.o.Skip, func(p string, x *unix.Statx_t) {
			d.lower.gather(p, x)
			if later(x.Ctime, d.newest) {
				d.newest = x.Ctime
			}
		})
		if err != nil {
			return err
		}
		if lx, err = statx(low, ""); err != nil {
			return err
		}
	}
	ux, err := statx(int(upper.Fd()), "")
	if err != nil {
		return err
	}
	root := pair{lower: low, upper: int(upper.Fd()), name: ".", path: ".", lx: lx, ux: ux}
	if err := d.one(root); err != nil {
		return err
	}
	return d.dir(low, root.upper, "", 0)
}

func later(a, b unix.StatxTimestamp) bool {
	return a.Sec > b.Sec || a.Sec == b.Sec && a.Nsec > b.Nsec
}

// pair is one name, in directories of both trees; lx is nil where lower does not have it.
type pair struct {
	lower, upper int
	name, path   string
	lx, ux       *unix.Statx_t
}

// dir compares two directories; lower is -1 where there is none.
func (d *differ) dir(lower, upper int, at string, depth int) error {
	if depth == maxDepth {
		return fmt.Errorf("file %q: deeper than %d directories", at, maxDepth)
	}
	now, err := d.list(upper, at, true)
	if err != nil {
		return err
	}
	var was []string
	if lower >= 0 {
		if was, err = d.list(lower, at, false); err != nil {
			return err
		}
	}
	var gone []string
	for _, name := range was {
		if _, here := slices.BinarySearch(now, name); !here {
			gone = append(gone, name)
		}
	}
	if len(gone) > 1 && len(gone) == len(was) {
		gone = []string{strings.TrimPrefix(opaqueMark, whiteoutPrefix)}
	}
	for _, name := range gone {
		if err := d.member(&tar.Header{Typeflag: tar.TypeReg, Name: join(at, whiteoutPrefix+name), Mode: 0o600, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	for _, name := range now {
		p := pair{lower: lower, upper: upper, name: name, path: join(at, name)}
		if p.ux, err = statx(upper, name); err == nil {
			if _, here := slices.BinarySearch(was, name); here {
				p.lx, err = statx(lower, name)
			}
		}
		if err == nil {
			err = d.one(p)
		}
		if err != nil {
			return fmt.Errorf("file %q: %w", p.path, err)
		}
		if p.ux.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := d.below(p, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *differ) below(p pair, depth int) error {
	upper, err := openSame(p.upper, p.name, unix.O_DIRECTORY, p.ux)
	if err != nil {
		return fmt.Errorf("file %q: %w", p.path, err)
	}
	defer upper.Close()
	if p.lx == nil || p.lx.Mode&unix.S_IFMT != unix.S_IFDIR {
		return d.dir(-1, int(upper.Fd()), p.path, depth+1)
	}
	lower, err := openSame(p.lower, p.name, unix.O_DIRECTORY, p.lx)
	if err != nil {
		return fmt.Errorf("file %q: %w", p.path, err)
	}
	defer lower.Close()
	return d.dir(int(lower.Fd()), int(upper.Fd()), p.path, depth+1)
}

// list is what of a directory can be in a layer.
func (d *differ) list(dir int, at string, tell bool) ([]string, error) {
	if err := d.ctx.Err(); err != nil {
		return nil, err
	}
	all, err := list(dir)
	if err != nil {
		return nil, fmt.Errorf("file %q: %w", at, err)
	}
	var names []string
	for _, name := range all {
		p := join(at, name)
		if d.o.Skip != nil && d.o.Skip(p) {
			continue
		}
		if strings.HasPrefix(name, whiteoutPrefix) {
			if tell {
				d.say("whiteout", fmt.Sprintf("left out: %q, because in a layer that name says that a file is gone", p))
			}
			continue
		}
		x, err := statx(dir, name)
		if err != nil {
			return nil, fmt.Errorf("file %q: %w", p, err)
		}
		if x.Mode&unix.S_IFMT == unix.S_IFSOCK {
			if tell {
				d.say("socket", fmt.Sprintf("left out: the socket %q", p))
			}
			continue
		}
		names = append(names, name)
	}
	return names, nil
}

// one puts a name into the layer, if it is not as it was.
func (d *differ) one(p pair) error {
	key, many := d.upper.inode[p.path]
	if first, there := d.first[key]; many && there {
		again := *first // with all that it says: some set a link's owner and mode once more
		again.Typeflag, again.Name, again.Linkname, again.Size = tar.TypeLink, p.path, first.Name, 0
		return d.member(&again)
	}
	same, known := d.same[key]
	if !many || !known {
		var err error
		if same, err = d.unchanged(p); err != nil {
			return err
		}
		if many {
			d.same[key] = same
		}
	}
	if same {
		return nil
	}
	hdr, err := d.put(p)
	if many && err == nil {
		d.first[key] = hdr
	}
	return err
}

// put writes a file into the layer.
func (d *differ) put(p pair) (*tar.Header, error) {
	e, err := read(p.upper, p.name, p.path, p.ux)
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, err
	}
	hdr, err := d.header(e)
	if err != nil {
		return nil, err
	}
	if e.kind() != unix.S_IFREG {
		return hdr, d.member(hdr)
	}
	if holes := e.size - int64(p.ux.Blocks)*512; holes > maxHoles || e.size > maxMember {
		return nil, fmt.Errorf("a sparse file of %d bytes, %d of them in holes: a layer takes at most %d GiB of holes and files of 1 TiB; remove it, or keep it in a volume", e.size, holes, maxHoles>>30)
	}
	src, err := openSame(p.upper, p.name, unix.O_NONBLOCK, p.ux)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	if err := d.member(hdr); err != nil {
		return nil, err
	}
	d.found.Bytes += e.size
	for left := e.size; left > 0; {
		if err := d.ctx.Err(); err != nil {
			return nil, err
		}
		n, err := src.Read(d.buf[:min(left, int64(len(d.buf)))])
		if errors.Is(err, io.EOF) {
			return nil, errors.New("shrank while it was read")
		}
		if err != nil {
			return nil, err
		}
		if _, err := d.w.Write(d.buf[:n]); err != nil {
			return nil, err
		}
		left -= int64(n)
	}
	return hdr, nil
}

func (d *differ) member(hdr *tar.Header) error {
	hdr.Format = tar.FormatPAX
	d.found.Members++
	return d.w.WriteHeader(hdr)
}

// header is an entry as a tar has it.
func (d *differ) header(e *entry) (*tar.Header, error) {
	hdr := &tar.Header{
		Name: e.path, Mode: int64(e.mode & 0o7777), Uid: int(e.uid), Gid: int(e.gid),
		ModTime: time.Unix(e.times[1].Unix()), Linkname: e.target,
	}
	switch e.kind() {
	case unix.S_IFREG:
		hdr.Typeflag, hdr.Size = tar.TypeReg, e.size
	case unix.S_IFDIR:
		hdr.Typeflag = tar.TypeDir
		hdr.Name += "/"
	case unix.S_IFLNK:
		hdr.Typeflag = tar.TypeSymlink
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag, hdr.Devmajor, hdr.Devminor = tar.TypeChar, e.major, e.minor
		if e.kind() == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	default:
		return nil, fmt.Errorf("unknown kind of file, mode %o", e.mode)
	}
	for _, x := range e.xattrs {
		if take, err := foreign(x.name); !take || err != nil {
			continue // the host's own labels
		}
		if strings.Contains(x.name, "=") || x.value == "" {
			d.say("xattr", fmt.Sprintf("left out: extended attribute %q of %q: a tar has no way to write it", x.name, e.path))
			continue
		}
		if hdr.PAXRecords == nil {
			hdr.PAXRecords = make(map[string]string)
		}
		hdr.PAXRecords["SCHILY.xattr."+x.name] = x.value
	}
	return hdr, nil
}
