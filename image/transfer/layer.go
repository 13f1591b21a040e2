package transfer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"thinrun/image/layer"
)

// verifier reads a blob and compares it with its descriptor before it says io.EOF.
type verifier struct {
	r    io.Reader
	d    v1.Descriptor
	hash hash.Hash
	have int64
	seen func(have int64) // may be nil
}

func verify(r io.Reader, d v1.Descriptor, seen func(int64)) *verifier {
	return &verifier{r: r, d: d, hash: sha256.New(), seen: seen}
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.have += int64(n)
	if v.seen != nil && n > 0 {
		v.seen(v.have)
	}
	if v.have > v.d.Size {
		return n, tooLong(v.d)
	}
	if err == io.EOF {
		if bad := checkSum(v.hash, v.have, v.d); bad != nil {
			return n, bad
		}
	}
	return n, err
}

func tooLong(d v1.Descriptor) error {
	return fmt.Errorf("longer than the %d bytes that its descriptor says", d.Size)
}

// checkSum compares what was read with the descriptor.
func checkSum(h hash.Hash, have int64, d v1.Descriptor) error {
	if have != d.Size {
		return fmt.Errorf("ends after %d of %d bytes", have, d.Size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != d.Digest.Hex {
		return fmt.Errorf("its content has digest sha256:%s", got)
	}
	return nil
}

// rawLayer is a layer as it lies somewhere.
type rawLayer struct {
	name     string // for errors, whose caller knows which layer it is; may be ""
	r        io.Reader
	verified bool            // r compares with a digest at its end
	pipe     bool            // a read of r may block for ever; else cancel ends it
	ctx      context.Context // ends a Read, even one that waits for somebody at a keyboard
	cancel   func()          // may be nil
	close    func() error    // may be nil
}

// layerReader is the uncompressed tar of a layer. Decompression runs ahead of who reads,
// on another processor.
type layerReader struct {
	raw    rawLayer
	chunks chan []byte
	free   chan []byte
	rest   []byte // of the chunk that is being read
	whole  []byte
	err    error // how the reading ended; to be looked at when chunks is closed
}

const (
	aheadChunks = 4
	aheadBytes  = 256 << 10
)

func (raw rawLayer) open() *layerReader {
	l := &layerReader{raw: raw, chunks: make(chan []byte, aheadChunks), free: make(chan []byte, aheadChunks)}
	for range aheadChunks {
		l.free <- nil
	}
	go l.ahead()
	return l
}

// ahead ends at the end of the raw layer, or when Close has closed free.
func (l *layerReader) ahead() {
	defer close(l.chunks)
	plain, err := decompress(bufio.NewReaderSize(&below{l.raw.r}, 64<<10), l.raw.verified)
	if err != nil {
		l.err = err
		return
	}
	defer plain.Close()
	for buf := range l.free {
		if buf == nil {
			buf = make([]byte, aheadBytes)
		}
		n, err := layer.ReadAtLeast(plain, buf, len(buf))
		if n > 0 {
			l.chunks <- buf[:n] // never blocks: there are no more chunks than places
		}
		if err != nil {
			l.err = err
			return
		}
	}
	l.err = errors.New("closed")
}

func (l *layerReader) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		if l.whole != nil {
			l.free <- l.whole
			l.whole = nil
		}
		var chunk []byte
		var ok bool
		select {
		case chunk, ok = <-l.chunks:
		case <-l.raw.ctx.Done():
			return 0, context.Cause(l.raw.ctx)
		}
		if !ok {
			// Not errors.Is: a connection's end is an io.EOF inside of something else, and
			// not the end of the layer.
			if l.err == io.EOF {
				return 0, io.EOF
			}
			if l.raw.name == "" {
				return 0, l.err
			}
			return 0, fmt.Errorf("%s: %w", l.raw.name, l.err)
		}
		l.rest, l.whole = chunk, chunk[:cap(chunk)]
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

func (l *layerReader) Close() error {
	if l.raw.cancel != nil {
		l.raw.cancel()
	}
	close(l.free)
	if !l.raw.pipe { // else ahead ends with its read, or with the process
		for range l.chunks {
		}
	}
	if l.raw.close != nil {
		return l.raw.close()
	}
	return nil
}

// below marks the errors of what a decompressor reads.
type below struct{ r io.Reader }

func (b *below) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}
