package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The pool's lock is flock(2) on its lock file, which prefers nobody: as long as starts
// overlap, one that wants it alone would wait without end. So there is a gate before it,
// a byte of the same file: who wants the lock alone shuts it until it has the lock, and who
// wants to share it goes through. Who holds the lock, shared or not, must never wait for
// one who is about to take it.
const (
	admissionByte = iota // strict admission, see reserve
	gateByte
	trimByte // one who trims has it to the end, and the pool's lock only at times
)

// locked takes the pool's lock; how is unix.LOCK_SH, with LOCK_NB or not, or LOCK_EX. The
// descriptor is the lock, and a killed process gives it back, and the gate.
func (d *Driver) locked(how int) (*os.File, error) {
	f, err := d.lockFile()
	if err != nil {
		return nil, err
	}
	if how == unix.LOCK_EX {
		err = lockAlone(f)
	} else {
		err = lockShared(f, how)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, nil
}

func (d *Driver) lockFile() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(d.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", d.dir, ErrNoPool)
	}
	if err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	return f, nil
}

// lockAlone gives a shared lock up before it waits at the gate: of two who hold one and
// want it alone, the one inside would wait for the one outside. flock(2) does it as well.
func lockAlone(f *os.File) error {
	err := flock(f, unix.LOCK_UN)
	if err == nil {
		err = lockByte(f, gateByte, unix.F_WRLCK)
	}
	if err == nil {
		err = errors.Join(flock(f, unix.LOCK_EX), lockByte(f, gateByte, unix.F_UNLCK))
	}
	return err
}

// lockShared only looks at the gate: if each had to take it, even for a moment, a stream of
// them could keep the one who wants to shut it out.
func lockShared(f *os.File, how int) error {
	gate := byteLock(gateByte, unix.F_RDLCK)
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &gate); err != nil {
		return err
	}
	if gate.Type != unix.F_UNLCK {
		if how&unix.LOCK_NB != 0 {
			return unix.EWOULDBLOCK
		}
		if err := errors.Join(lockByte(f, gateByte, unix.F_RDLCK), lockByte(f, gateByte, unix.F_UNLCK)); err != nil {
			return err
		}
	}
	return flock(f, how)
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

func byteLock(at int64, how int16) unix.Flock_t { return unix.Flock_t{Type: how, Start: at, Len: 1} }

// lockByte waits for the lock of one byte, which goes with the descriptor.
func lockByte(f *os.File, at int64, how int16) error {
	lock := byteLock(at, how)
	for {
		if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLKW, &lock); err != unix.EINTR {
			return err
		}
	}
}
