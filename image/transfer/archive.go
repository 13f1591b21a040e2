package transfer

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"thinrun/image"
)

// maxMembers is far more than the archive of an image of maxLayers layers has.
const maxMembers = 1 << 16

// archive is a tar whose members are read where they lie, in any order.
type archive struct {
	*os.File
	members map[string]member
}

type member struct {
	at, size int64
	link     string // the member that it stands for, if not ""
}

// newArchive lists the members of an uncompressed tar; f is its.
func newArchive(f *os.File) (*archive, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	a := &archive{File: f, members: make(map[string]member)}
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("tar: %s", printable(err.Error()))
		}
		if len(a.members) == maxMembers {
			return nil, fmt.Errorf("more than %d members: not the archive of an image", maxMembers)
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			// The reader takes whole blocks from the file, and no more than it needs.
			at, err := f.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, err
			}
			m := member{at: at, size: h.Size}
			if h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" || h.Format == tar.FormatGNU && isOldSparse(f, at) {
				return nil, fmt.Errorf("tar: member %q is sparse", printable(name))
			}
			a.members[name] = m
		case tar.TypeSymlink: // docker save before 25, for a layer that occurs twice
			a.members[name] = member{link: path.Join(path.Dir(name), h.Linkname)}
		case tar.TypeLink:
			a.members[name] = member{link: path.Clean(h.Linkname)}
		}
	}
}

// isOldSparse: archive/tar hides the type 'S' of GNU's first sparse format; its header is
// the block before the content.
func isOldSparse(f *os.File, at int64) bool {
	var kind [1]byte
	_, err := f.ReadAt(kind[:], at-512+156)
	return err == nil && kind[0] == 'S'
}

// open opens a member; a link leads to another member or nowhere.
func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	m, ok := a.members[path.Clean(name)]
	for hops := 0; ok && m.link != ""; hops++ {
		if hops == 8 {
			return nil, 0, fmt.Errorf("member %q: links in a circle", printable(name))
		}
		m, ok = a.members[m.link]
	}
	if !ok {
		return nil, 0, fmt.Errorf("no member %q: %w", printable(name), os.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(a.File, m.at, m.size)), m.size, nil
}

func (a *archive) has(name string) bool {
	_, ok := a.members[name]
	return ok
}

// openArchive is oci-archive:FILE[:REF] and docker-archive:FILE[:REF].
func openArchive(ctx context.Context, kind, rest string, opt Options) (*image.Source, error) {
	file, ref := splitRef(rest)
	var f *os.File
	if file == "-" || strings.HasPrefix(rest, "-:") {
		in, err := opt.stdin()
		if err != nil {
			return nil, err
		}
		r, err := newTarReader(ctx, in, 0, true, opt)
		if err != nil {
			return nil, err
		}
		if f, err = spoolAll(r, opt.Spool); err != nil {
			return nil, err
		}
	} else {
		var err error
		if f, err = openFile(ctx, file, os.O_RDONLY); err != nil {
			return nil, err
		}
		if f, err = seekable(ctx, f, opt); err != nil {
			return nil, err
		}
	}
	a, err := newArchive(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	from := fromLayout
	if kind == "docker-archive" {
		from = fromDocker
	}
	src, err := from(ctx, a, ref, opt)
	if err != nil {
		f.Close()
	}
	return src, err
}

// seekable gives f if its content is an uncompressed regular file, else a spool of it.
func seekable(ctx context.Context, f *os.File, opt Options) (*os.File, error) {
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if st.Mode().IsRegular() {
		var head [6]byte
		n, _ := f.ReadAt(head[:], 0)
		plain, err := decompress(bufio.NewReader(bytes.NewReader(head[:n])), false)
		if _, same := plain.(*unpacked); err == nil && !same {
			return f, nil
		}
	}
	r, err := newTarReader(ctx, f, st.Size(), !st.Mode().IsRegular(), opt)
	if err != nil {
		return nil, err
	}
	return spoolAll(r, opt.Spool)
}

func spoolAll(r io.ReadCloser, dir string) (*os.File, error) {
	defer r.Close()
	f, err := tempFile(dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tarReader is an uncompressed stream that can be looked into.
type tarReader struct {
	*bufio.Reader
	io.Closer
}

// headBytes hold the first few headers of a tar.
const headBytes = 4096

// newTarReader undoes the compression of in, and closes it in the end.
func newTarReader(ctx context.Context, in io.ReadCloser, size int64, pipe bool, opt Options) (*tarReader, error) {
	var have int64
	counted := readerFunc(func(p []byte) (int, error) {
		n, err := in.Read(p)
		have += int64(n)
		opt.progress(Progress{Bytes: have, Total: size})
		return n, err
	})
	l := rawLayer{r: counted, pipe: pipe, ctx: ctx, close: in.Close}.open()
	r := &tarReader{bufio.NewReaderSize(l, 64<<10), l}
	if _, err := r.Peek(headBytes); err != nil && !errors.Is(err, io.EOF) {
		r.Close()
		return nil, err
	}
	return r, nil
}

type readerFunc func([]byte) (int, error)

func (r readerFunc) Read(p []byte) (int, error) { return r(p) }

// openTar is a tar of a root file system, or of an image: the first member tells, because
// what writes archives of images begins with one of few names.
func openTar(ctx context.Context, in io.ReadCloser, size int64, opt Options) (*image.Source, error) {
	f, isFile := in.(*os.File)
	pipe := true
	if isFile {
		if st, err := f.Stat(); err == nil {
			pipe = !st.Mode().IsRegular()
		}
	}
	r, err := newTarReader(ctx, in, size, pipe, opt)
	if err != nil {
		return nil, err
	}
	head, _ := r.Peek(headBytes)
	if !startsImage(head) {
		return plainTree(r, size), nil
	}
	spooled, err := spoolAll(r, opt.Spool)
	if err != nil {
		return nil, err
	}
	src, err := fromSpooled(ctx, spooled, size, opt)
	if err != nil {
		spooled.Close()
	}
	return src, err
}

func fromSpooled(ctx context.Context, f *os.File, size int64, opt Options) (*image.Source, error) {
	a, err := newArchive(f)
	switch {
	case err != nil: // the unpacking will say what it is
	case a.has("oci-layout") && a.has("index.json"):
		return fromLayout(ctx, a, "", opt)
	case a.has("manifest.json"):
		return fromDocker(ctx, a, "", opt)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return plainTree(&tarReader{bufio.NewReaderSize(f, 64<<10), f}, size), nil
}

// plainTree is an image of one layer without a config.
func plainTree(r *tarReader, size int64) *image.Source {
	opened := false
	open := func(context.Context) (io.ReadCloser, error) {
		if opened {
			return nil, errors.New("BUG: a stream cannot be opened twice")
		}
		opened = true
		return struct {
			io.Reader
			io.Closer
		}{r, io.NopCloser(nil)}, nil
	}
	return &image.Source{Layers: []image.SourceLayer{{Bytes: size, Open: open}}, Close: r.Close}
}

// startsImage looks at the headers at a tar's start: "." says nothing yet.
func startsImage(head []byte) bool {
	tr := tar.NewReader(bytes.NewReader(head))
	h, err := tr.Next()
	for err == nil && path.Clean(h.Name) == "." {
		h, err = tr.Next()
	}
	if err != nil {
		return false
	}
	name := path.Clean(h.Name)
	switch name {
	case "oci-layout", "index.json", "manifest.json", "repositories", "blobs":
		return true
	}
	first, _, _ := strings.Cut(name, "/")
	hex, _, _ := strings.Cut(strings.TrimPrefix(first, "sha256:"), ".") // crane, ko, kaniko: sha256:HEX, HEX.tar.gz
	return first == "blobs" || len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}
