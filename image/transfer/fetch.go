package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"thinrun/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// parallel is how many layers are fetched at once; what Docker does.
const parallel = 3

// fetch brings the layers of an image from a registry: base first, three at a time, into
// spools that are read while they fill.
type fetch struct {
	reg    *repository
	img    *found
	opt    Options
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	turns  chan struct{}
	layers []fetched
	wait   sync.WaitGroup // all that write to spools
}

type fetched struct {
	once  sync.Once
	ready chan struct{} // closed when spool or err is there
	spool *spool
	err   error
}

func newFetch(ctx context.Context, reg *repository, img *found, opt Options) *fetch {
	f := &fetch{reg: reg, img: img, opt: opt, turns: make(chan struct{}, parallel), layers: make([]fetched, len(img.layers))}
	f.ctx, f.cancel = context.WithCancel(ctx)
	for i := range f.layers {
		f.layers[i].ready = make(chan struct{})
	}
	return f
}

func (f *fetch) source() *image.Source {
	src := f.img.source()
	src.Close = f.close
	src.Need = func(layers []int) {
		f.wait.Go(func() {
			for _, i := range layers {
				select {
				case f.turns <- struct{}{}:
					f.start(i, func() { <-f.turns })
				case <-f.ctx.Done():
					return
				}
			}
		})
	}
	for i := range src.Layers {
		src.Layers[i].Open = func(ctx context.Context) (io.ReadCloser, error) { return f.open(ctx, i) }
	}
	return src
}

// start begins with a layer, unless somebody has.
func (f *fetch) start(i int, done func()) {
	l := &f.layers[i]
	begun := false
	l.once.Do(func() {
		begun = true
		l.spool, l.err = newSpool(f.opt.Spool)
		close(l.ready)
		if l.err != nil {
			done()
			return
		}
		f.wait.Go(func() {
			defer done()
			err := f.layer(i, l.spool)
			if err == nil {
				err = io.EOF
			}
			l.spool.finish(err)
		})
	})
	if !begun {
		done()
	}
}

func (f *fetch) open(ctx context.Context, i int) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(f.ctx, cancel)
	l := &f.layers[i]
	f.start(i, func() {}) // who did not say what it needs, or is faster than the turns
	return rawLayer{name: f.img.layers[i].Digest.String(), r: &pending{f: f, i: i, ctx: ctx}, verified: true, ctx: ctx, cancel: cancel, close: func() error {
		<-l.ready
		if l.spool == nil || l.spool.length() < f.img.layers[i].Size {
			return nil // still being written; close ends it
		}
		return l.spool.file.Truncate(0) // the space is wanted for the next
	}}.open(), nil
}

// pending is a follower of a spool that may not be there yet.
type pending struct {
	f    *fetch
	i    int
	ctx  context.Context
	from io.Reader
}

func (p *pending) Read(b []byte) (int, error) {
	l := &p.f.layers[p.i]
	if p.from == nil {
		select {
		case <-l.ready:
		case <-p.ctx.Done():
			return 0, context.Cause(p.ctx)
		}
		if l.err != nil {
			return 0, l.err
		}
		p.from = &follower{ctx: p.ctx, s: l.spool}
	}
	return p.from.Read(b)
}

// close ends all fetching and gives back the spools.
func (f *fetch) close() error {
	f.cancel()
	f.wait.Wait()
	var errs []error
	for i := range f.layers {
		if s := f.layers[i].spool; s != nil {
			errs = append(errs, s.file.Close())
		}
	}
	f.reg.base.CloseIdleConnections()
	return errors.Join(errs...)
}

// layer fetches one layer and verifies it. After a broken connection it goes on where
// that broke; it gives up when several in a row brought nothing.
func (f *fetch) layer(i int, s *spool) error {
	d := f.img.layers[i]
	sum := sha256.New()
	to := io.MultiWriter(s, sum, writerFunc(func(p []byte) {
		f.opt.progress(Progress{Layer: i, Digest: d.Digest.String(), Bytes: s.length(), Total: d.Size})
	}))
	f.opt.progress(Progress{Layer: i, Digest: d.Digest.String(), Total: d.Size})
	for barren := 0; ; {
		before := s.length()
		err := f.part(d, s, to)
		if err == nil {
			return checkSum(sum, s.length(), d)
		}
		var final *finalError
		if errors.As(err, &final) || f.ctx.Err() != nil {
			return err
		}
		if barren++; s.length() > before {
			barren = 0
		}
		if barren == f.reg.tries {
			return fmt.Errorf("broke off after %d of %d bytes, %d times in a row: %w", s.length(), d.Size, barren, err)
		}
		if err := sleep(f.ctx, f.reg.pause); err != nil {
			return err
		}
	}
}

// finalError is not worth another try.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// part is one request: what is missing, or all of it from a registry without ranges. It
// returns nil when nothing is missing any more.
func (f *fetch) part(d v1.Descriptor, s *spool, to io.Writer) error {
	have := s.length()
	if have == d.Size && d.Size > 0 {
		return nil
	}
	resp, err := f.reg.get(f.ctx, "blobs", d.Digest.String(), have)
	if err != nil {
		return &finalError{f.explain(d, err)} // patient has tried more than once
	}
	defer resp.Body.Close()
	start := int64(0)
	if resp.StatusCode == http.StatusPartialContent {
		if start, err = rangeStart(resp.Header.Get("Content-Range")); err != nil || start > have {
			return &finalError{fmt.Errorf("asked from byte %d on, the registry answers %q", have, printable(resp.Header.Get("Content-Range")))}
		}
	}
	switch total := start + resp.ContentLength; {
	case resp.ContentLength < 0: // not said
	case total > d.Size:
		return &finalError{tooLong(d)}
	case total < d.Size:
		return &finalError{fmt.Errorf("has %d bytes in the registry, its descriptor says %d", total, d.Size)}
	}
	body := &remoteBody{r: resp.Body}
	if _, err := io.CopyN(io.Discard, body, have-start); err != nil {
		return fmt.Errorf("skip %d bytes that are here already: %w", have-start, err)
	}
	// One byte more than there should be: too much is an error, and never stored.
	_, err = io.Copy(to, io.LimitReader(body, d.Size-have))
	switch {
	case err != nil && body.err == nil:
		return &finalError{err} // our disk's
	case err != nil:
		return err
	case s.length() < d.Size:
		return fmt.Errorf("connection ended: %w", io.ErrUnexpectedEOF)
	}
	var one [1]byte
	if n, _ := body.Read(one[:]); n > 0 {
		return &finalError{tooLong(d)}
	}
	return nil
}

// explain: a foreign layer lies elsewhere, at URLs that its manifest names. They are not
// followed: a manifest must not choose whom this machine talks to.
func (f *fetch) explain(d v1.Descriptor, err error) error {
	var status *transport.Error
	if errors.As(err, &status) {
		if status.StatusCode == http.StatusNotFound && (len(d.URLs) > 0 || !d.MediaType.IsDistributable() || strings.Contains(string(d.MediaType), "foreign")) {
			return errors.New("a foreign layer that the registry does not have; thinrun does not follow the URLs in a manifest")
		}
	}
	return f.reg.explain(err)
}

// rangeStart reads "bytes START-END/SIZE".
func rangeStart(h string) (start int64, err error) {
	_, err = fmt.Sscanf(h, "bytes %d-", &start)
	if start < 0 {
		err = errors.New("negative")
	}
	return start, err
}

// remoteBody remembers its own error, to tell it from that of who is written to.
type remoteBody struct {
	r   io.Reader
	err error
}

func (b *remoteBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

type writerFunc func([]byte)

func (w writerFunc) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}
