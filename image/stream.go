package image

import (
	"crypto/sha256"
	"hash"
	"io"

	"thinrun/image/layer"
)

// stream reads a layer's tar ahead of who unpacks it, and hashes it: decompression and
// digest on one processor, files on another.
type stream struct {
	full chan chunk  // closed after the last
	free chan []byte // buffers that were emptied
	stop chan struct{}
	sum  hash.Hash

	now  chunk
	rest []byte
	read int64
	tell func(int64)
	told int64
}

type chunk struct {
	buf []byte // of a length
	err error  // after it
}

const (
	chunkSize = 256 << 10
	ahead     = 4
)

func newStream(r io.ReadCloser, tell func(int64)) *stream {
	s := &stream{full: make(chan chunk, ahead), free: make(chan []byte, ahead), stop: make(chan struct{}), sum: sha256.New(), tell: tell}
	for range ahead {
		s.free <- make([]byte, chunkSize)
	}
	tell(0)
	go s.pump(r)
	return s
}

// pump ends with the tar, or when it is told to between two reads.
func (s *stream) pump(r io.ReadCloser) {
	defer close(s.full)
	defer r.Close()
	for {
		var buf []byte
		select {
		case buf = <-s.free:
		case <-s.stop:
			return
		}
		n, err := layer.ReadAtLeast(r, buf[:chunkSize], chunkSize/2) // a pipe gives a little at a time
		s.sum.Write(buf[:n])
		select {
		case s.full <- chunk{buf[:n], err}:
		case <-s.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.now.err != nil {
			return 0, s.now.err
		}
		if s.now.buf != nil {
			s.free <- s.now.buf
		}
		s.now = <-s.full
		s.rest = s.now.buf
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	s.read += int64(n)
	if s.read-s.told >= 1<<20 {
		s.told = s.read
		s.tell(s.read)
	}
	return n, nil
}

// close ends the reading. The digest is that of the tar if it was read to its end. Without
// wait the reader is left to its read, which may never return.
func (s *stream) close(wait bool) (diffID string) {
	close(s.stop)
	if !wait {
		return ""
	}
	for range s.full {
	}
	return hexDigest(s.sum.Sum(nil))
}
