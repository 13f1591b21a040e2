package main

import (
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// stream copies one output and knows how much has arrived.
type stream struct {
	mu      sync.Mutex
	changed sync.Cond
	n       int64
	ended   bool
}

func (s *stream) relay(dst io.Writer, src io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		dst.Write(buf[:n]) // a reader that went away is no reason to stop draining
		s.mu.Lock()
		s.n += int64(n)
		s.ended = err != nil
		s.mu.Unlock()
		s.changed.Broadcast()
		if err != nil {
			return
		}
	}
}

// wait returns when n bytes have been passed on, or there will be no more.
func (s *stream) wait(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.n < n && !s.ended {
		s.changed.Wait()
	}
}

// tail keeps the end of the kernel log, shown only when the machine breaks.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 16<<10 {
		t.b = slices.Clone(t.b[len(t.b)-4<<10:])
	}
	return len(p), nil
}

// channels are the pipes between outer and the other faces.
type channels struct{ job, out, err, log, ctl [2]*os.File } // [0] is ours

func openChannels(vm string) (ch channels, err error) {
	stream := pipe
	if vm == "qemu" { // it drops what does not fit into a pipe
		stream = socket
	}
	for _, c := range []struct {
		ends *[2]*os.File
		make func() ([2]*os.File, error)
	}{{&ch.out, stream}, {&ch.err, stream}, {&ch.log, pipe}, {&ch.job, pipe}, {&ch.ctl, socket}} {
		if *c.ends, err = c.make(); err != nil {
			return ch, err
		}
	}
	ch.job[0], ch.job[1] = ch.job[1], ch.job[0] // the only one that we write
	return ch, nil
}

func pipe() (ends [2]*os.File, err error) {
	ends[0], ends[1], err = os.Pipe()
	return ends, err
}

// socket is a socketpair. Our end does not block; the other is a machine's device.
func socket() (ends [2]*os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ends, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return ends, err
	}
	return [2]*os.File{os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")}, nil
}
