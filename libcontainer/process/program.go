package process

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Why a program cannot be run. Docker and Podman make exit codes 126 and 127 out of
// these texts, which are those of Go's os/exec.
var (
	errNotFound = errors.New("executable file not found in $PATH")
	errDot      = errors.New("cannot run executable found relative to current directory")
)

// LookPath finds the program with the rights of the calling thread, so after Become and
// Chdir. A name with a slash is a path; others are looked for in the container's PATH,
// never the caller's.
func (c *Config) LookPath() (string, error) {
	if len(c.Args) == 0 {
		return "", errors.New("process.args: there is no program to run")
	}
	name := c.Args[0]
	path, err := lookPath(name, c.Env)
	if err != nil {
		return "", fmt.Errorf("exec: %q: %w", name, err)
	}
	return path, nil
}

func lookPath(name string, env []string) (string, error) {
	switch {
	case strings.IndexByte(name, '/') >= 0:
		return name, executable(name)
	case name == "", name == ".", name == "..":
		return "", errNotFound
	}
	path := ""
	for _, kv := range env {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = value
		}
	}
	if path == "" {
		return "", errNotFound
	}
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		file := strings.TrimSuffix(dir, "/") + "/" + name
		if executable(file) != nil {
			continue
		}
		if dir[0] != '/' {
			return "", errDot
		}
		return file, nil
	}
	return "", errNotFound
}

// executable is execve's own question, as far as it can be asked ahead: a file on a
// noexec mount is refused here too.
func executable(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return unix.EISDIR
	}
	err := unix.Faccessat2(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		// A seccomp filter that is older than the call (5.8). The mode has to do.
		err = nil
		if st.Mode&0o111 == 0 {
			err = unix.EACCES
		}
	}
	return err
}

// CloseFDs is the last look at what goes along: descriptors and limits. Behind the
// preserved ones every descriptor closes at the execve; those that a path could lead
// through close now, because the kernel resolves the program and its #! interpreter
// while they are still there (CVE-2024-21626). Sockets, locks and the Go runtime's poll
// descriptors stay until the execve: a failure can still be told. No file may be used
// after this, and it comes before a seccomp filter that may not allow its calls.
func (c *Config) CloseFDs() error {
	first := 3 + c.PreserveFDs
	if err := closeOnExec(first); err != nil {
		return fmt.Errorf("mark descriptors from %d to close: %w", first, err)
	}
	// Numbers are given out lowest first: behind a long gap there is nothing to spare.
	for fd, gap := first, 0; ; fd++ {
		if gap == 64 {
			_ = unix.CloseRange(uint(fd), ^uint(0)>>32, 0)
			break
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			gap++
			continue
		}
		gap = 0
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFDIR || kind == unix.S_IFREG && st.Mode&0o111 != 0 {
			unix.Close(fd)
		}
	}
	return c.setLimits()
}

func closeOnExec(first int) error {
	err := unix.CloseRange(uint(first), ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return err
	}
	// A seccomp filter that is older than the call (5.9, the flag 5.11).
	for fd, gap := first, 0; gap < 1024; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			gap++
			continue
		}
		gap = 0
	}
	return nil
}

// Execve runs the program at path in place of the calling process. It returns only when
// that failed.
//
// syscall.Exec is execve on the calling thread, after it has made sure that the runtime
// is not just starting a thread: the kernel kills a clone during execve, and Go dies of
// that. It also puts back the soft RLIMIT_NOFILE that Go raised at its start, which is
// right if the config names none; else CloseFDs has made it forget.
func (c *Config) Execve(path string) error {
	err := syscall.Exec(path, c.Args, c.Env)
	if errors.Is(err, unix.ENOENT) && executable(path) == nil {
		return fmt.Errorf("exec %s: %w (the file is there: its interpreter or loader is not)", path, err)
	}
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("exec %s: %w (process.args and process.env together, or one of them)", path, err)
	}
	return &os.PathError{Op: "exec", Path: path, Err: err}
}
