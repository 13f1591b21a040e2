package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxMember: a few bytes of archive can stand for a sparse file of 2^63, whose zeros
// archive/tar would hand out one by one.
const maxMember = 1 << 40

// Apply unpacks a tar below root, an OCI layer (Options.Whiteouts) onto those below it, or
// a plain root file system, where ".wh." names are ordinary names.
//
// The layer libraries (umoci, moby/go-archive) would do it too, but with 1.1 and 0.4 ms
// of package initialisation in every start of every container.
func Apply(ctx context.Context, root *os.File, r io.Reader, o Options) (Done, error) {
	t := newTree(ctx, root, o)
	defer t.close()
	err := unpack(t, r)
	if err == nil {
		err = t.finish()
	}
	return t.done, err
}

func unpack(t *tree, r io.Reader) error {
	end := &tail{r: r}
	archive := tar.NewReader(end)
	for {
		hdr, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return readError(end, err)
		}
		if err := t.member(hdr, archive); err != nil {
			return fmt.Errorf("archive member %q: %w", hdr.Name, err)
		}
	}
	// The rest is padding; reading it verifies the compression's checksum and lets a
	// writer at the other end of a pipe finish.
	for {
		_, err := ReadAtLeast(end, t.buf, len(t.buf))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("end of the archive: %w", err)
		}
		if err := t.ctx.Err(); err != nil {
			return err
		}
	}
	if t.o.Whiteouts {
		return nil // its digest tells whether it is whole; umoci insert leaves the end mark out
	}
	if end.n == 0 {
		return errors.New("empty input, not a tar archive")
	}
	if !end.zeros() {
		return errors.New("the archive has no end mark: it was cut short")
	}
	return nil
}

func readError(end *tail, err error) error {
	switch {
	case errors.Is(err, tar.ErrHeader) && end.n <= 10240:
		return errors.New("not a tar archive (plain, gzip or zstd)")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the archive ends in the middle: it was cut short")
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("the archive is damaged before byte %d: no header where one should be", end.n)
	}
	return err
}

func (t *tree) member(hdr *tar.Header, r io.Reader) error {
	e, err := fromHeader(t, hdr)
	if err != nil || e == nil {
		return err
	}
	e.write = func(fd int) (int64, error) {
		end, err := t.sparse(fd, r)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the archive ends in the middle of it: it was cut short")
		}
		return end, err
	}
	if !t.o.Whiteouts && strings.HasPrefix(path.Base(e.path), whiteoutPrefix) {
		t.done.Marks = true
	}
	return t.add(e)
}

// fromHeader is the member as an entry; nil for one that is no file.
func fromHeader(t *tree, hdr *tar.Header) (*entry, error) {
	e := &entry{
		mode: uint32(hdr.Mode) & 0o7777, uid: int64(hdr.Uid), gid: int64(hdr.Gid),
		major: hdr.Devmajor, minor: hdr.Devminor, target: hdr.Linkname,
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.mode |= unix.S_IFREG
		e.size = hdr.Size
		if e.size > maxMember {
			return nil, fmt.Errorf("size %d is out of range: a member has at most 1 TiB", e.size)
		}
	case tar.TypeDir:
		e.mode |= unix.S_IFDIR
	case tar.TypeSymlink:
		e.mode |= unix.S_IFLNK
	case tar.TypeChar:
		e.mode |= unix.S_IFCHR
	case tar.TypeBlock:
		e.mode |= unix.S_IFBLK
	case tar.TypeFifo:
		e.mode |= unix.S_IFIFO
	case tar.TypeLink:
		hard, err := cleanPath(hdr.Linkname)
		if err != nil {
			return nil, fmt.Errorf("hard link to %q: %w", hdr.Linkname, err)
		}
		if hard == "." {
			return nil, errors.New("hard link to the root directory")
		}
		e.hard = hard
	case tar.TypeXGlobalHeader: // a comment, as git archive writes
		return nil, nil
	default:
		return nil, fmt.Errorf("unknown member type %q", hdr.Typeflag)
	}
	var err error
	if e.path, err = cleanPath(hdr.Name); err != nil {
		return nil, err
	}
	atime := hdr.AccessTime
	if atime.IsZero() {
		atime = hdr.ModTime
	}
	e.times = [2]unix.Timespec{timespec(atime), timespec(hdr.ModTime)}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			e.xattrs = append(e.xattrs, xattr{name, value})
		} else if strings.HasPrefix(key, "SCHILY.acl.") {
			t.say("acl", fmt.Sprintf("left out: access control lists in text form, the first at %q; tar --xattrs-include='system.posix_acl*' keeps them", hdr.Name))
		}
	}
	return e, nil
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// tail remembers how much was read and the last block of it.
type tail struct {
	r    io.Reader
	n    int64
	last [512]byte
}

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.n += int64(n)
	if n >= len(t.last) {
		copy(t.last[:], p[n-len(t.last):n])
	} else {
		copy(t.last[:], t.last[n:])
		copy(t.last[len(t.last)-n:], p[:n])
	}
	return n, err
}

func (t *tail) zeros() bool { return t.n >= int64(len(t.last)) && t.last == [512]byte{} }
