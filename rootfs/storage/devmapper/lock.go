package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"thinrun/rootfs/storage/flock"
)

// The pool's lock is on its lock file, whose bytes have words of their own; byte 1 is the
// gate before the lock.
const (
	admissionByte = 0 // strict admission, see reserve
	trimByte      = 2 // one who trims has it to the end, and the pool's lock only at times
)

// locked takes the pool's lock; how is unix.LOCK_SH, with LOCK_NB or not, or LOCK_EX. The
// descriptor is the lock, and a killed process gives it back, and the gate.
func (d *Driver) locked(how int) (*os.File, error) {
	f, err := d.lockFile()
	if err != nil {
		return nil, err
	}
	if err := flock.Gated(f, how); err != nil {
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
