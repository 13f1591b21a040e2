// Package flock takes flock(2) locks. The kernel prefers nobody: as long as those who share
// a lock overlap, as starts do, one who wants it alone waits without end. Gated is for such
// locks.
package flock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Take is flock(2), whatever signal comes.
func Take(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// gate is a byte of the lock's own file. Its users may lock others for their own ends.
const gate = 1

// Gated is Take with a gate before the lock: who wants it alone, and can wait, shuts the
// gate until it has the lock; who wants to share it goes through. Whoever holds the lock must
// never wait for one who is about to take it.
//
// A shared lock is given up before the wait at the gate: of two who hold one and want it
// alone, the one inside would wait for the one outside. flock(2) does it as well.
func Gated(f *os.File, how int) error {
	switch {
	case how == unix.LOCK_EX:
		err := Take(f, unix.LOCK_UN)
		if err == nil {
			err = Byte(f, gate, unix.F_WRLCK)
		}
		if err == nil {
			err = errors.Join(Take(f, how), Byte(f, gate, unix.F_UNLCK))
		}
		return err
	case how&unix.LOCK_SH != 0:
		if err := pass(f, how); err != nil {
			return err
		}
	}
	return Take(f, how)
}

// pass only looks at the gate: if each had to take it, even for a moment, a stream of them
// could keep the one who wants to shut it out.
func pass(f *os.File, how int) error {
	look := unix.Flock_t{Type: unix.F_RDLCK, Start: gate, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &look); err != nil {
		return err
	}
	switch {
	case look.Type == unix.F_UNLCK:
		return nil
	case how&unix.LOCK_NB != 0:
		return unix.EWOULDBLOCK
	}
	return errors.Join(Byte(f, gate, unix.F_RDLCK), Byte(f, gate, unix.F_UNLCK))
}

// Byte waits for the lock of one byte (F_RDLCK, F_WRLCK), which goes with the descriptor, or
// gives it back (F_UNLCK).
func Byte(f *os.File, at int64, how int16) error {
	lock := unix.Flock_t{Type: how, Start: at, Len: 1}
	for {
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &lock); err != unix.EINTR {
			return err
		}
	}
}
