package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Terminal joins a container's terminal to the caller's: `run -t` and `exec -t` in the
// foreground. Host side.
type Terminal struct {
	master  int
	in, out int
	host    *os.File // the caller's terminal; nil without one
	ownHost bool     // we opened it
	saved   unix.Termios
	stop    int // an eventfd: readable once Drain has begun
	copying sync.WaitGroup
}

// NewTerminal copies between master, which stays the caller's, and our standard streams.
// Of these and /dev/tty the first that is a terminal becomes raw and lends its size;
// without any the data just flows. Close must be called on every way out, or the user's
// shell stays raw.
func NewTerminal(master *os.File) (*Terminal, error) {
	return newTerminal(master, os.Stdin, os.Stdout, os.Stderr)
}

func newTerminal(master, stdin, stdout, stderr *os.File) (*Terminal, error) {
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	t := &Terminal{master: fd, in: int(stdin.Fd()), out: int(stdout.Fd()), stop: -1}
	if err := t.start(stdin, stdout, stderr); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *Terminal) start(streams ...*os.File) (err error) {
	// A program that does not read must not hold up what it writes.
	if err := unix.SetNonblock(t.master, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if t.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	if err := t.findHost(streams); err != nil {
		return err
	}
	if !isTerminal(t.out) {
		// Into a file or pipe the lines go as they were written, without the CR that
		// a new pty adds. A terminal of the caller's is raw and needs it.
		if err := clearONLCR(t.master); err != nil {
			return err
		}
	}
	_ = t.Resize() // a terminal without a size is still a terminal
	t.copying.Go(t.copyIn)
	t.copying.Go(t.copyOut)
	return nil
}

func isTerminal(fd int) bool {
	_, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	return err == nil
}

func (t *Terminal) findHost(streams []*os.File) error {
	at := slices.IndexFunc(streams, func(f *os.File) bool { return isTerminal(int(f.Fd())) })
	if at >= 0 {
		t.host = streams[at]
	} else {
		f, err := os.OpenFile("/dev/tty", os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			return nil // no controlling terminal either
		}
		t.host, t.ownHost = f, true
	}
	saved, err := unix.IoctlGetTermios(int(t.host.Fd()), unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the mode of %s: %w", t.host.Name(), err)
	}
	t.saved = *saved
	raw := *saved // cfmakeraw(3)
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(t.host.Fd()), unix.TCSETS, &raw); err != nil {
		return fmt.Errorf("make %s raw: %w", t.host.Name(), err)
	}
	return nil
}

// clearONLCR works on the master: its termios are the slave's.
func clearONLCR(fd int) error {
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return fmt.Errorf("read the mode of the container's terminal: %w", err)
	}
	mode.Oflag &^= unix.ONLCR
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		return fmt.Errorf("set the mode of the container's terminal: %w", err)
	}
	return nil
}

// Resize gives the container's terminal the size of the caller's; due on SIGWINCH. The
// kernel tells the container's foreground process.
func (t *Terminal) Resize() error {
	if t.host == nil {
		return nil
	}
	size, err := unix.IoctlGetWinsize(int(t.host.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return fmt.Errorf("read the size of %s: %w", t.host.Name(), err)
	}
	if err := unix.IoctlSetWinsize(t.master, unix.TIOCSWINSZ, size); err != nil {
		return fmt.Errorf("resize the container's terminal: %w", err)
	}
	return nil
}

// Drain passes on what the container has written until now and ends the copying. The
// process has ended by then; another may still hold the slave, so the end of file is
// not waited for.
func (t *Terminal) Drain() error {
	var err error
	if t.stop >= 0 {
		one := [8]byte{1}
		_, err = unix.Write(t.stop, one[:])
	}
	t.copying.Wait()
	return err
}

// Close drains and gives the caller's terminal back as it was. It may be called twice.
func (t *Terminal) Close() error {
	err := t.Drain()
	if t.host != nil {
		err = errors.Join(err, unix.IoctlSetTermios(int(t.host.Fd()), unix.TCSETS, &t.saved))
		if t.ownHost {
			err = errors.Join(err, t.host.Close())
		}
		t.host = nil
	}
	for _, fd := range []*int{&t.stop, &t.master} {
		if *fd >= 0 {
			err = errors.Join(err, unix.Close(*fd))
			*fd = -1
		}
	}
	return err
}

// copyIn ends with the caller's input, the container's terminal, or Drain.
func (t *Terminal) copyIn() {
	buf := make([]byte, 4096)
	for {
		if ready, stopped := t.poll(t.in, unix.POLLIN, true); stopped || !ready {
			return
		}
		n, err := unix.Read(t.in, buf)
		if again(err) {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		for b := buf[:n]; len(b) > 0; {
			n, err := unix.Write(t.master, b)
			if again(err) {
				if ready, stopped := t.poll(t.master, unix.POLLOUT, true); stopped || !ready {
					return
				}
				continue
			}
			if err != nil {
				return
			}
			b = b[n:]
		}
	}
}

// copyOut ends when nobody holds the slave (EIO), or at Drain when nothing is left to
// read: polling a pty pushes through what is still on its way. Output that nobody takes
// any more is dropped, so that the container does not hang on it.
func (t *Terminal) copyOut() {
	buf := make([]byte, 32<<10)
	stopped, broken := false, false
	for {
		ready, stop := t.poll(t.master, unix.POLLIN, !stopped)
		if !ready && stopped {
			return
		}
		stopped = stopped || stop
		if !ready {
			continue
		}
		n, err := unix.Read(t.master, buf)
		if again(err) {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		for b := buf[:n]; len(b) > 0 && !broken; {
			n, err := unix.Write(t.out, b)
			switch {
			case err == nil:
				b = b[n:]
			case errors.Is(err, unix.EAGAIN): // somebody else made it non-blocking
				_, _ = poll([]unix.PollFd{{Fd: int32(t.out), Events: unix.POLLOUT}}, -1)
			case !again(err):
				broken = true
			}
		}
	}
}

func again(err error) bool { return errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) }

// poll waits for fd or Drain; with wait unset it only looks at fd.
func (t *Terminal) poll(fd int, events int16, wait bool) (ready, stopped bool) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}, {Fd: int32(t.stop), Events: unix.POLLIN}}
	timeout := -1
	if !wait {
		fds, timeout = fds[:1], 0
	}
	if _, err := poll(fds, timeout); err != nil {
		return false, true
	}
	return fds[0].Revents != 0, wait && fds[1].Revents != 0
}

func poll(fds []unix.PollFd, timeout int) (int, error) {
	for {
		n, err := unix.Poll(fds, timeout)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
