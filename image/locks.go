package image

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// lockChains is a file of which only byte ranges are locked: it stays empty, and the
// kernel forgets the locks of who dies.
const lockChains = ".chains"

// locks are one import's, commit's, export's, removal's or sweep's words about layers.
// There are two kinds, a byte for each chain or layer:
//
//   - making a chain (alone): a second import of the same layer waits for the first, and
//     then shares what that has made, or goes on where it died. Layers without a chain,
//     which nobody else makes, have one byte together (shared);
//   - using a layer (shared): from before it is counted on until a record names it. Who
//     takes layers away wants the byte alone, and leaves what it does not get: then the
//     last user sees that no record names it.
//
// A layer's name is not known before it is sealed, so who makes it lets go of the first
// byte only when it has the second: a layer whose two bytes are free is nobody's (abandoned).
//
// Open file description locks, not flock: those have no ranges; and not POSIX's, which
// another Close in the process would drop.
type locks struct{ f *os.File }

func (s *Store) locks() (locks, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, lockChains), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	return locks{f}, err
}

// close drops them all.
func (l locks) close() { l.f.Close() }

// at is the byte of a chain or a layer. Two that meet in 61 bits wait for each other.
func at(kind int64, name string) int64 {
	sum := sha256.Sum256([]byte(name))
	return int64(binary.BigEndian.Uint64(sum[:])>>3)<<1 | kind
}

func making(chain string) int64 { return at(0, chain) }

func using(layer string) int64 { return at(1, layer) }

// try takes a lock (F_RDLCK, F_WRLCK), changes it or drops it (F_UNLCK), at once.
func (l locks) try(kind int16, at int64) (bool, error) {
	lk := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: at, Len: 1}
	err := unix.FcntlFlock(l.f.Fd(), unix.F_OFD_SETLK, &lk)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", l.f.Name(), err)
	}
	return true, nil
}

// wait takes a lock when its holders have let go or died. When ctx ends first, the
// goroutine that waits ends with the process, or with the holder.
func (l locks) wait(ctx context.Context, kind int16, at int64) error {
	if got, err := l.try(kind, at); got || err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		lk := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: at, Len: 1}
		err := unix.EINTR
		for errors.Is(err, unix.EINTR) {
			err, _ = unix.FcntlFlock(l.f.Fd(), unix.F_OFD_SETLKW, &lk).(unix.Errno)
		}
		if err != 0 {
			done <- fmt.Errorf("lock %s: %w", l.f.Name(), err)
		}
		close(done)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// abandoned tells whether nobody makes or uses a sealed layer that no record names, and
// then holds it. The caller keeps the records as they are meanwhile.
func (l locks) abandoned(layer storage.LayerInfo) (bool, error) {
	alone, err := l.try(unix.F_WRLCK, making(layer.Chain))
	if !alone || err != nil {
		return false, err
	}
	defer l.drop(making(layer.Chain))
	return l.try(unix.F_WRLCK, using(layer.ID))
}

// drop cannot fail but for a bad argument.
func (l locks) drop(at int64) { _, _ = l.try(unix.F_UNLCK, at) }
