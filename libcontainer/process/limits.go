package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetRlimits makes room: it raises the hard limits of pid where the config asks for
// more than there is. The parent does this, because raising takes CAP_SYS_RESOURCE on
// the host, which init in a user namespace has not; and before init becomes its user,
// because prlimit(2) wants equal ids. The limits themselves are set by CloseFDs, just
// before the execve: under a small RLIMIT_AS or RLIMIT_NPROC the Go runtime of the init
// stage could not get to it.
func (c *Config) SetRlimits(pid int) error {
	if err := c.keepOpenFiles(pid); err != nil {
		return err
	}
	for _, r := range c.Rlimits {
		var now unix.Rlimit
		err := unix.Prlimit(pid, r.Resource, nil, &now)
		if errors.Is(err, unix.EPERM) {
			continue // it has other ids by now and we no CAP_SYS_RESOURCE: it has to do with what it has
		}
		if err != nil {
			return fmt.Errorf("read %s of process %d: %w", rlimitName(r.Resource), pid, err)
		}
		if r.Hard <= now.Max {
			continue
		}
		err = unix.Prlimit(pid, r.Resource, &unix.Rlimit{Cur: now.Cur, Max: r.Hard}, nil)
		if err != nil {
			return fmt.Errorf("raise the hard limit %s from %s to %s: %w%s",
				rlimitName(r.Resource), limitText(now.Max), limitText(r.Hard), err, whyNoRaise(r, err))
		}
	}
	return nil
}

// keepOpenFiles gives pid the soft RLIMIT_NOFILE of our caller, if the config names none.
// Go raises its own at its start (syscall/rlimit.go) and puts it back for what it starts,
// but our init stage is forked by hand. Nobody may ask Go what it was; a syscall.Exec
// that fails puts it back, too.
func (c *Config) keepOpenFiles(pid int) error {
	if slices.ContainsFunc(c.Rlimits, func(r Rlimit) bool { return r.Resource == unix.RLIMIT_NOFILE }) {
		return nil
	}
	var raised, callers unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &raised)
	if err == nil {
		_ = syscall.Exec("", []string{""}, nil)
		err = unix.Getrlimit(unix.RLIMIT_NOFILE, &callers)
	}
	if err != nil {
		return fmt.Errorf("read RLIMIT_NOFILE: %w", err)
	}
	// Not by unix.Setrlimit: Go would forget what to put back for hooks.
	unix.RawSyscall6(unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&raised)), 0, 0, 0)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &callers, nil); err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("set RLIMIT_NOFILE of process %d: %w", pid, err)
	}
	return nil
}

func whyNoRaise(r Rlimit, err error) string {
	switch {
	case !errors.Is(err, unix.EPERM):
		return ""
	case r.Resource == unix.RLIMIT_NOFILE:
		return " (it takes CAP_SYS_RESOURCE, and no more than /proc/sys/fs/nr_open)"
	}
	return " (it takes CAP_SYS_RESOURCE; ask for no more than the caller has)"
}

// setLimits sets the limits of our own process, room having been made.
func (c *Config) setLimits() error {
	for _, r := range c.Rlimits {
		// For RLIMIT_NOFILE this also makes Go forget the soft limit that it found at
		// its start. syscall.Exec would put that one back over ours.
		if err := unix.Prlimit(0, r.Resource, &unix.Rlimit{Cur: r.Soft, Max: r.Hard}, nil); err != nil {
			return fmt.Errorf("set %s to %s:%s: %w%s", rlimitName(r.Resource), limitText(r.Soft), limitText(r.Hard), err, whyNoRaise(r, err))
		}
	}
	return nil
}

// SetOOMScoreAdj tells the OOM killer about pid; the parent's side, for the same reason.
func (c *Config) SetOOMScoreAdj(pid int) error {
	if c.OOMScoreAdj == nil {
		return nil
	}
	want := strconv.Itoa(*c.OOMScoreAdj)
	path := "/proc/" + strconv.Itoa(pid) + "/oom_score_adj"
	err := os.WriteFile(path, []byte(want), 0)
	if err == nil {
		return nil
	}
	if now, readErr := os.ReadFile(path); readErr == nil && strings.TrimSpace(string(now)) == want {
		return nil // below the caller's own minimum even the same value is refused
	}
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("oomScoreAdj %s: %w (less than the caller has takes CAP_SYS_RESOURCE)", want, err)
	}
	return fmt.Errorf("oomScoreAdj %s: %w", want, err)
}

// FirstToDie has the OOM killer take pid before any other of its cgroup, until restore: the
// stage of an exec needs more memory than most programs, and a container that is at its
// limit must not die of it. A process that cannot be told has mostly ended. The file stays
// open: once the stage is not dumpable it is root's of its user namespace.
func FirstToDie(pid int) (restore func() error) {
	nothing := func() error { return nil }
	f, err := os.OpenFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", os.O_RDWR, 0)
	if err != nil {
		return nothing
	}
	own := make([]byte, len("-1000\n"))
	n, err := f.ReadAt(own, 0)
	if err == nil || err == io.EOF {
		_, err = f.WriteAt([]byte("1000"), 0)
	}
	if err != nil {
		f.Close()
		return nothing
	}
	return func() error {
		_, err := f.WriteAt(own[:n], 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("give process %d its oom_score_adj back: %w", pid, err)
		}
		return nil
	}
}

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// rlimitName is the config's word for a resource; the index is RLIMIT_*, which is the
// same on amd64 and arm64.
func rlimitName(resource int) string {
	names := [...]string{
		"RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS",
		"RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS",
		"RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
	}
	if resource >= 0 && resource < len(names) {
		return names[resource]
	}
	return "rlimit " + strconv.Itoa(resource)
}
