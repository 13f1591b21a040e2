package state

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Gate returns the gate, shut: a lock that lives as long as this open file. Init keeps
// it until execve, where close-on-exec drops it, or until it dies. So whether the
// user's program runs is told by the kernel, and no one has to write it down.
//
// It is a read lock of an open file description (fcntl(2), F_OFD_SETLK): that needs no
// writable descriptor, so a process that spies on init finds none, and it can be asked
// for without being taken, which flock cannot.
func (c *Container) Gate() (*os.File, error) {
	f, err := openFile(c.fd(), gateFile, unix.O_RDONLY|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state of container %q: gate: %w", c.ID, err)
	}
	lk := unix.Flock_t{Type: unix.F_RDLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		f.Close()
		return nil, fmt.Errorf("state of container %q: shut the gate: %w", c.ID, err)
	}
	return f, nil
}

// GateHeld tells whether someone holds the gate shut: init has not yet executed the
// user's program. It takes no lock.
func (s *Store) GateHeld(id string) (bool, error) {
	if err := CheckID(id); err != nil {
		return false, err
	}
	if s.dir == nil {
		return false, nil
	}
	dir, err := openDir(int(s.dir.Fd()), id)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("state of container %q: %w", id, err)
	}
	defer dir.Close()
	return gateHeld(dir, id)
}

// GateHeld is Store.GateHeld for a container that is locked already.
func (c *Container) GateHeld() (bool, error) { return gateHeld(c.dir, c.ID) }

func gateHeld(dir *os.File, id string) (bool, error) {
	f, err := openFile(int(dir.Fd()), gateFile, unix.O_RDONLY, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("state of container %q: gate: %w", id, err)
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil {
		return false, fmt.Errorf("state of container %q: ask the gate: %w", id, err)
	}
	return lk.Type != unix.F_UNLCK, nil
}

// Listen makes the socket on which init waits for start. The descriptor is blocking and
// close-on-exec: once the user's program runs, connecting is refused.
func (c *Container) Listen() (*os.File, error) {
	if err := unix.Unlinkat(c.fd(), gateSocket, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("state of container %q: %s: %w", c.ID, gateSocket, err)
	}
	sock, err := c.socket()
	if err != nil {
		return nil, err
	}
	// The directory is 0700, so nobody can connect between bind and chmod.
	if err = unix.Bind(int(sock.Fd()), c.address()); err == nil {
		if err = unix.Fchmodat(c.fd(), gateSocket, 0o600, 0); err == nil {
			err = unix.Listen(int(sock.Fd()), 1)
		}
	}
	if err != nil {
		sock.Close()
		return nil, fmt.Errorf("state of container %q: listen on %s: %w", c.ID, gateSocket, err)
	}
	return sock, nil
}

// Dial connects to init. ECONNREFUSED: nobody waits there any more.
func (c *Container) Dial() (*os.File, error) {
	sock, err := c.socket()
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Connect(int(sock.Fd()), c.address())
		if err == nil {
			return sock, nil
		}
		if err != unix.EINTR {
			sock.Close()
			return nil, fmt.Errorf("state of container %q: connect to %s: %w", c.ID, gateSocket, err)
		}
	}
}

func (c *Container) socket() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("state of container %q: socket: %w", c.ID, err)
	}
	return os.NewFile(uintptr(fd), gateSocket), nil
}

// address goes through our descriptor: unix(7) allows 108 bytes, a state directory may
// be deeper.
func (c *Container) address() *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(c.fd()) + "/" + gateSocket}
}
