package state

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/proc"
)

// ErrGone says that the process has ended, reaped or not, or that its pid belongs to
// another one now.
var ErrGone = errors.New("container not running")

// Self returns this process.
func Self() (Process, error) { return Of(os.Getpid()) }

// Of returns the process that has pid now; ErrGone when none has. Whoever holds a pidfd
// or is the parent knows that it is the one meant.
func Of(pid int) (Process, error) {
	pidfd, err := openPID(pid)
	if err != nil {
		return Process{}, err
	}
	defer pidfd.Close()
	return identify(pidfd, pid, proc.BootID)
}

// Open returns a pidfd of the process, for pidfd_send_signal and poll; ErrGone when it is
// not that process any more.
func (p Process) Open() (*os.File, error) { return p.open(proc.BootID) }

func (p Process) open(bootID func() (string, error)) (*os.File, error) {
	if p.PID <= 0 {
		return nil, ErrGone
	}
	pidfd, err := openPID(p.PID)
	if err != nil {
		return nil, err
	}
	now, err := identify(pidfd, p.PID, bootID)
	if p.Inode == 0 {
		now.Inode = 0
	}
	if err == nil && now != p {
		err = ErrGone
	}
	if err == nil {
		err = stillRuns(int(pidfd.Fd()))
	}
	if err != nil {
		pidfd.Close()
		return nil, err
	}
	return pidfd, nil
}

func openPID(pid int) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		// EINVAL: the number is that of a thread now, or of a group whose leader has ended.
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	return os.NewFile(uintptr(fd), "pidfd"), nil
}

// identify says who pid is. It looks after the pidfd is open: then what it sees is the
// pidfd's process or a later one, never an earlier one (pidfd_open(2)).
func identify(pidfd *os.File, pid int, bootID func() (string, error)) (Process, error) {
	stat, err := proc.Read(pid)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return Process{}, ErrGone
	}
	if err != nil {
		return Process{}, err
	}
	boot, err := bootID()
	if err != nil {
		return Process{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(pidfd.Fd()), &st); err != nil {
		return Process{}, fmt.Errorf("process %d: fstat of its pidfd: %w", pid, err)
	}
	return Process{PID: pid, StartTime: stat.Start, BootID: boot, Inode: st.Ino}, nil
}

// Alive tells whether the process still runs; a zombie does not.
func (p Process) Alive() (bool, error) { return p.alive(proc.BootID) }

// Alive is Process.Alive for those who ask for many containers: the boot is looked up once.
func (s *Store) Alive(p Process) (bool, error) { return p.alive(s.bootID) }

func (p Process) alive(bootID func() (string, error)) (bool, error) {
	pidfd, err := p.open(bootID)
	if errors.Is(err, ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, pidfd.Close()
}

// stillRuns asks the pidfd and not the state in /proc/PID/stat: a process whose first
// thread has ended shows Z there while the others go on.
func stillRuns(pidfd int) error {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("poll pidfd: %w", err)
		case n > 0:
			return ErrGone
		default:
			return nil
		}
	}
}
