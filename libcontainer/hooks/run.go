package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// defaultTimeout is for a hook that names none. The specification would let it hang for
// ever, and the container's lock with it.
const defaultTimeout = 5 * time.Minute

// outputKept is how much of a failing hook's output becomes part of the error.
const outputKept = 3 << 10

// Run runs the hooks of one kind (createRuntime, ...) in order, with state on their
// standard input and dir as their working directory; "" is ours. The first that
// fails, or does not end in time or before ctx, stops it.
//
// A hook's environment is what it names and nothing else (CVE-2025-23266 took another
// one's), and its program is a path: nothing is looked up.
func Run(ctx context.Context, kind string, list []Hook, state []byte, dir string) error {
	for i := range list {
		if err := run(ctx, &list[i], state, dir); err != nil {
			return fmt.Errorf("%s hook %d (%s): %w", kind, i, list[i].Path, err)
		}
	}
	return nil
}

func run(ctx context.Context, h *Hook, state []byte, dir string) error {
	if !filepath.IsAbs(h.Path) {
		return errors.New("the path is not absolute")
	}
	stdin, err := memory(state)
	if err != nil {
		return err
	}
	defer stdin.Close()
	output, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer output.Close()
	defer theirs.Close()

	timeout := defaultTimeout
	if h.Timeout > 0 {
		timeout = time.Duration(h.Timeout) * time.Second
	}
	deadline := time.Now().Add(timeout)
	args, env, pidfd := h.Args, h.Env, -1
	if len(args) == 0 {
		args = []string{h.Path}
	}
	if env == nil {
		env = []string{} // nil would be ours
	}
	pid, err := syscall.ForkExec(h.Path, args, &syscall.ProcAttr{
		Dir: dir, Env: env,
		Files: []uintptr{stdin.Fd(), theirs.Fd(), theirs.Fd()},
		// A group of its own, so that the deadline takes its children along. And not
		// longer alive than we are: it would make things behind the next delete's back.
		Sys: &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	theirs.Close()

	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		close(killed)
	})
	defer func() {
		if !stop() {
			<-killed // before the descriptor's number is another's
		}
	}()
	said, ended, err := watch(pidfd, int(output.Fd()), deadline)
	if !ended || ctx.Err() != nil {
		_ = unix.Kill(-pid, unix.SIGKILL)
	}
	status, waitErr := reap(pid)
	switch {
	case err != nil:
		return err
	case waitErr != nil:
		return waitErr
	case !ended:
		return fmt.Errorf("killed, for it did not end within %v%s", timeout, quote(said))
	case status.Signaled():
		return fmt.Errorf("killed by signal %d (%v)%s", int(status.Signal()), status.Signal(), quote(said))
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d%s", status.ExitStatus(), quote(said))
	}
	return nil
}

// memory holds the state as a file: a hook that does not read it cannot block us, and
// one that closes it cannot break a pipe.
func memory(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	if _, err = f.Write(data); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("memfd: %w", err)
	}
	return f, nil
}

// watch reads what the hook says until it ends or the deadline passes. It waits for the
// process and not for the end of its output: a daemon that the hook started may keep
// that open for days.
func watch(pidfd, output int, deadline time.Time) (said []byte, ended bool, err error) {
	if err := unix.SetNonblock(output, true); err != nil {
		return nil, false, err
	}
	fds := []unix.PollFd{{Fd: int32(output), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
	buf := make([]byte, 4096)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return said, false, nil
		}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return said, false, fmt.Errorf("poll: %w", err)
		}
		ended := fds[1].Revents != 0 // asked before the last read: what it said is in the pipe
		for fds[0].Fd >= 0 {
			n, err := unix.Read(output, buf)
			if n > 0 {
				said = append(said, buf[:min(n, outputKept-len(said))]...)
			} else if err == unix.EAGAIN {
				break
			} else if err != unix.EINTR {
				fds[0].Fd = -1 // end of output: poll would return at once for ever
			}
			if !ended {
				break // one that never stops talking must not hide the deadline
			}
			if len(said) == outputKept {
				break
			}
		}
		if ended {
			return said, true, nil
		}
	}
}

func reap(pid int) (status unix.WaitStatus, err error) {
	for {
		if _, err = unix.Wait4(pid, &status, 0, nil); err != unix.EINTR {
			return status, os.NewSyscallError("wait4", err)
		}
	}
}

// quote makes the output one line, to end an error with.
func quote(said []byte) string {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(string(said), "?")))
	if line == "" {
		return ""
	}
	return ": " + line
}
