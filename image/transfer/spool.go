package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// tempFile opens a file without a name: whoever dies leaves nothing.
func tempFile(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "a file without a name below "+dir), nil
	}
	// EISDIR: a kernel, EOPNOTSUPP: a file system that has no O_TMPFILE; hostfs and FUSE.
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return namedTemp(dir)
}

// namedTemp has a name for a moment, one for all: what stands there was left by somebody
// who died just then, or belongs to somebody who is about to remove it and has it open.
func namedTemp(dir string) (*os.File, error) {
	name := filepath.Join(dir, ".spool")
	for {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			os.Remove(name)
			return f, nil
		}
		if !errors.Is(err, os.ErrExist) {
			return nil, err
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
}

// spool is a file that one goroutine writes while others read behind it. Its length is
// that of a layer, which may be more than memory holds.
type spool struct {
	file *os.File

	mu    sync.Mutex
	have  int64
	end   error         // set once; io.EOF: all of it is here, and verified
	moved chan struct{} // closed when have or end changes, and made anew
}

func newSpool(dir string) (*spool, error) {
	f, err := tempFile(dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return &spool{file: f, moved: make(chan struct{})}, nil
}

func (s *spool) Write(p []byte) (int, error) {
	n, err := s.file.WriteAt(p, s.length())
	s.mu.Lock()
	s.have += int64(n)
	s.tell()
	s.mu.Unlock()
	return n, err
}

func (s *spool) length() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.have
}

// finish says how the writing ended: io.EOF, or what went wrong. That may have an io.EOF
// inside, a connection's, which no reader shall take for the layer's.
func (s *spool) finish(end error) {
	if end != io.EOF && errors.Is(end, io.EOF) {
		end = errors.New(end.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == nil {
		s.end = end
		s.tell()
	}
}

func (s *spool) tell() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// follower reads a spool from the start, as far as it is written, and then its end.
type follower struct {
	ctx context.Context
	s   *spool
	off int64
}

func (f *follower) Read(p []byte) (int, error) {
	for {
		f.s.mu.Lock()
		have, end, moved := f.s.have, f.s.end, f.s.moved
		f.s.mu.Unlock()
		if f.off < have {
			n, err := f.s.file.ReadAt(p[:min(int64(len(p)), have-f.off)], f.off)
			f.off += int64(n)
			if n > 0 {
				return n, nil
			}
			return 0, fmt.Errorf("spool: %w", noEOF(err)) // cut short below us: not a clean end
		}
		if end != nil {
			return 0, end
		}
		select {
		case <-moved:
		case <-f.ctx.Done():
			return 0, context.Cause(f.ctx)
		}
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
