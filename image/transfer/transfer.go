// Package transfer brings images in and out: it opens an image.Source where an image
// lies (a registry, an OCI layout or archive, a docker archive, a tar, a directory) and
// writes an image as an OCI archive. It keeps nothing; package image does.
//
// All that comes from outside is bounded and verified here: documents by size and
// digest, blobs by size and digest, names by never being walked as paths. What a layer
// unpacks to is the business of package image.
//
// Its libraries cost 2 ms of package initialisation, more than the rest of thinrun's
// start. So only the commands that transfer images may import it, and those run in a
// process of their own (the Makefile's two faces).
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"thinrun/image"
)

// Options say how to transfer.
type Options struct {
	Platform    string // os/arch[/variant] to take; "": ours
	Insecure    bool   // --tls-verify=false: plain http, and certificates that nobody signed
	Credentials string // USER:PASSWORD; "": what docker login or podman login keep
	CertDir     string // with the registry's certificates; "": what is in certs.d for it
	// Spool is a directory for what is on its way, in files without a name. It is made
	// when the first of them is.
	Spool    string
	Stdin    io.Reader      // what "-" reads
	Progress func(Progress) // may be nil; is called by several goroutines

	patience patience // zero but in tests
	etc      string   // "" but in tests
}

// Progress is how far the transfer of one layer has come.
type Progress struct {
	Layer  int
	Digest string // of the blob; "" where it has none
	Bytes  int64  // here already
	Total  int64  // 0: not known
}

func (o *Options) progress(p Progress) {
	if o.Progress != nil {
		o.Progress(p)
	}
}

// patience is how long to bear with a registry.
type patience struct {
	idle  time.Duration // without a byte; there is no limit on the whole
	pause time.Duration // before the second try; twice that before the third
	tries int
}

func (p patience) orDefault() patience {
	if p.tries == 0 {
		return patience{idle: 30 * time.Second, pause: 500 * time.Millisecond, tries: 4}
	}
	return p
}

// Open opens an image where it lies: docker://REF (a registry), oci:DIR[:REF],
// oci-archive:FILE[:REF], docker-archive:FILE[:REF], a directory (a layout is known by its
// files), a tar file (plain, gzip, zstd; an image's archive is known by its first member),
// or "-" for such a tar on standard input.
func Open(ctx context.Context, what string, opt Options) (*image.Source, error) {
	opt.patience = opt.patience.orDefault()
	src, err := open(ctx, what, opt)
	if err != nil {
		return nil, err
	}
	src.From = what
	if src.Config == nil && opt.Platform != "" {
		return nil, errors.Join(fmt.Errorf("%s is a plain tree, of no platform: --platform is for images", what), src.Close())
	}
	return src, nil
}

func open(ctx context.Context, what string, opt Options) (*image.Source, error) {
	kind, rest, _ := strings.Cut(what, ":")
	switch {
	case what == "":
		return nil, errors.New("nothing to import: name a directory, a tar file, oci:DIR, oci-archive:FILE, docker-archive:FILE, or - for standard input")
	case kind == "docker" && strings.HasPrefix(rest, "//"):
		return openRegistry(ctx, strings.TrimPrefix(rest, "//"), opt)
	case kind == "oci":
		dir, ref := splitRef(rest)
		return openLayout(ctx, dir, ref, opt)
	case kind == "oci-archive" || kind == "docker-archive":
		return openArchive(ctx, kind, rest, opt)
	}
	return openPath(ctx, what, opt)
}

// openPath is a directory, or a tar under any name.
func openPath(ctx context.Context, what string, opt Options) (*image.Source, error) {
	if what == "-" {
		in, err := opt.stdin()
		if err != nil {
			return nil, err
		}
		return openTar(ctx, in, 0, opt)
	}
	f, err := openFile(ctx, what, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	switch {
	case st.IsDir() && exists(filepath.Join(what, "oci-layout")) && exists(filepath.Join(what, "index.json")):
		f.Close()
		return openLayout(ctx, what, "", opt)
	case st.IsDir():
		return &image.Source{Layers: []image.SourceLayer{{Dir: f}}, Close: f.Close}, nil
	case st.Mode().IsRegular() || st.Mode()&os.ModeNamedPipe != 0:
		return openTar(ctx, f, st.Size(), opt)
	}
	f.Close()
	return nil, fmt.Errorf("%s is neither a directory nor a tar file", what)
}

// openFile ends with ctx: to open a fifo is to wait for its other end.
func openFile(ctx context.Context, path string, flags int) (*os.File, error) {
	type opened struct {
		file *os.File
		err  error
	}
	done := make(chan opened, 1) // the goroutine may outlive us, until the process ends
	go func() {
		f, err := os.OpenFile(path, flags, 0)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		return o.file, o.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// stdin is for archives, which nobody types.
func (o *Options) stdin() (io.ReadCloser, error) {
	if f, is := o.Stdin.(*os.File); is && IsTerminal(f) {
		return nil, errors.New("standard input is a terminal: redirect it from an archive")
	}
	return io.NopCloser(o.Stdin), nil
}

// splitRef takes FILE[:REF] apart; both may hold colons, so the file is the shortest
// start that exists.
func splitRef(s string) (file, ref string) {
	for i, c := range s {
		if c != ':' {
			continue
		}
		if _, err := os.Lstat(s[:i]); err == nil {
			return s[:i], s[i+1:]
		}
	}
	if _, err := os.Lstat(s); err == nil {
		return s, ""
	}
	file, ref, _ = strings.Cut(s, ":")
	return file, ref
}
