// Package durable changes small files so that a power cut leaves the state before or the
// state after.
//
// The order is content, name, directory. The content is on the disk before the name leads
// to it: a file system is free to write a rename first, and the power cut then leaves an
// empty file under the good name (ext4 mends that with auto_da_alloc, others do not). The
// directory is on the disk before the return, so that what the caller does next cannot be
// there without it: fsync of a file says nothing of its name (fsync(2)).
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Write replaces the file by way of path + ".tmp", which a kill can leave behind for the
// caller's collector. The caller holds a lock: nobody else writes path.
func Write(path string, content []byte) error { return WriteVia(path+".tmp", path, content) }

// WriteVia is Write for a directory whose collector knows another temporary name.
func WriteVia(tmp, path string, content []byte) error {
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Remove removes a file, which may be gone already; it is gone for good when this returns.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes names last that were made, changed or removed in a directory.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some file systems cannot
		return err
	}
	return nil
}
