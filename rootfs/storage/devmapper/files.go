package devmapper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/thinmeta"
)

func sameDevice(a, b string) (bool, error) {
	var sa, sb unix.Stat_t
	err := errors.Join(unix.Stat(a, &sa), unix.Stat(b, &sb))
	return sa.Rdev == sb.Rdev, err
}

// blank makes sure that a device is nobody's: not in use, and nothing at its start.
func blank(path string) (bytes_ uint64, err error) {
	f, _, err := openDevice(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// O_EXCL on a block device: EBUSY when it is mounted or below another device. O_DIRECT:
	// the device's own cache may be older than what a pool has written beside it.
	x, err := os.OpenFile(path, os.O_RDONLY|os.O_EXCL|unix.O_DIRECT, 0)
	if err != nil {
		return 0, fmt.Errorf("%s is in use: %w", path, err)
	}
	defer x.Close()
	head := make([]byte, thinmeta.BlockSize)
	for at := int64(0); at < 1<<20; at += thinmeta.BlockSize {
		n, err := direct{x}.ReadAt(head, at)
		if err != nil && err != io.EOF {
			return 0, err
		}
		if !bytes.Equal(head[:n], make([]byte, n)) {
			return 0, fmt.Errorf("%s is not blank: its first MiB holds data; wipe it first (blkdiscard -z, or dd) if nobody needs that", path)
		}
	}
	return deviceBytes(f)
}

// allocate makes a file of zeros with all its blocks: a sparse file on a host that fills
// up makes every container of the pool fail, not only the one that writes.
func (p *pool) allocate(b backing, sparse bool) error {
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if sparse {
		err = f.Truncate(int64(b.bytes))
	} else {
		err = extend(f, 0, b.bytes)
	}
	if err == nil {
		p.sign(f)
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// The metadata has the pool's fingerprint inside, the data has none: both files carry it
// as an attribute too, where the host's file system keeps attributes.
const signature = "trusted.thinrun.pool"

func (p *pool) sign(f *os.File) {
	_ = unix.Fsetxattr(int(f.Fd()), signature, fmt.Appendf(nil, "%016x", p.fingerprint), 0)
}

// signed refuses a file that another pool has signed; one that nobody has is good.
func (p *pool) signed(f *os.File) error {
	var b [16]byte
	n, err := unix.Fgetxattr(int(f.Fd()), signature, b[:])
	if want := fmt.Sprintf("%016x", p.fingerprint); err == nil && string(b[:n]) != want {
		return fmt.Errorf("%s is a file of pool %s, the record says %s: %w", f.Name(), b[:n], want, ErrForeign)
	}
	return nil
}

// extend adds preallocated zeros from one size to another.
func extend(f *os.File, from, to uint64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, int64(from), int64(to-from))
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EOPNOTSUPP: // overlayfs, NFS: the long way
			zeros := make([]byte, mib)
			for at := from; at < to; at += mib {
				if _, err := f.WriteAt(zeros[:min(mib, to-at)], int64(at)); err != nil {
					return err
				}
			}
			return nil
		case err != nil:
			return fmt.Errorf("%s: %s more: %w", f.Name(), size(to-from), err)
		}
		return nil
	}
}
