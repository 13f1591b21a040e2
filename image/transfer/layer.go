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
	if errors.Is(err, io.EOF) {
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

// layerReader is the uncompressed tar of a layer. Decompression runs ahead of who reads,
// on another processor.
type layerReader struct {
	name   string // for errors; may be ""
	pipe   bool   // a read may block for ever
	chunks chan []byte
	free   chan []byte
	rest   []byte // of the chunk that is being read
	whole  []byte
	err    error // how the reading ended; to be looked at when chunks is closed
	cancel context.CancelFunc
	close  func() error
}

const (
	aheadChunks = 4
	aheadBytes  = 256 << 10
)

// newLayerReader reads raw, undoes the compression and closes with close. raw must end
// its reads when cancel is called, or be a file, whose reads end by themselves.
func newLayerReader(name string, raw io.Reader, cancel context.CancelFunc, close func() error) *layerReader {
	l := &layerReader{
		name: name, cancel: cancel, close: close,
		chunks: make(chan []byte, aheadChunks), free: make(chan []byte, aheadChunks),
	}
	for range aheadChunks {
		l.free <- nil
	}
	go l.ahead(raw)
	return l
}

// ahead ends at the end of raw, or when Close has closed free.
func (l *layerReader) ahead(raw io.Reader) {
	defer close(l.chunks)
	plain, err := decompress(bufio.NewReaderSize(&below{raw}, 64<<10))
	if err != nil {
		l.err = err
		return
	}
	defer plain.Close()
	for buf := range l.free {
		if buf == nil {
			buf = make([]byte, aheadBytes)
		}
		n, err := fill(buf, plain)
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

// fill is io.ReadFull, but an error stays what it is: io.ErrUnexpectedEOF is a
// decompressor's word for a cut stream.
func fill(buf []byte, r io.Reader) (n int, err error) {
	for n < len(buf) && err == nil {
		var more int
		more, err = r.Read(buf[n:])
		n += more
	}
	return n, err
}

func (l *layerReader) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		if l.whole != nil {
			l.free <- l.whole
			l.whole = nil
		}
		chunk, ok := <-l.chunks
		if !ok {
			if errors.Is(l.err, io.EOF) {
				return 0, io.EOF
			}
			if l.name == "" {
				return 0, l.err
			}
			return 0, fmt.Errorf("%s: %w", l.name, l.err)
		}
		l.rest, l.whole = chunk, chunk[:cap(chunk)]
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

func (l *layerReader) Close() error {
	l.cancel()
	close(l.free)
	if !l.pipe { // else ahead ends with its read, or with the process
		for range l.chunks {
		}
	}
	return l.close()
}

// below marks the errors of what a decompressor reads.
type below struct{ r io.Reader }

func (b *below) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &sourceError{err}
	}
	return n, err
}
