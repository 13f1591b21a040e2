package state

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Names in a container's directory.
const (
	recordFile = "record.json"
	gateFile   = "gate"
	gateSocket = "start.sock"
)

// Container is a container's directory, with its lock held.
type Container struct {
	ID   string
	Path string

	root, dir *os.File
}

// Close gives the lock back.
func (c *Container) Close() error {
	c.root.Close()
	return c.dir.Close()
}

// Save replaces the record, at once for all readers.
//
// There is no fsync. It would cost milliseconds at each step of create where the state
// directory is on a disk, and buy nothing: what the record names (processes, cgroups,
// devices) dies with the power, snapshots and upper directories are found again by
// enumeration, and a record that comes back empty or cut is ErrNoRecord, which delete
// clears.
func (c *Container) Save(rec *Record) error {
	rec.Version = Version
	return c.WriteFile(recordFile, encode(rec))
}

// Load returns the record; ErrNoRecord when there is none.
func (c *Container) Load() (*Record, error) { return load(c.dir, c.ID) }

// WriteFile writes a file of the container's directory, all or nothing. Name is one
// of ours, with no slash in it.
func (c *Container) WriteFile(name string, data []byte) error {
	tmp := name + ".tmp" // the lock is held: nobody else writes it
	if err := c.writeTmp(tmp, data); err != nil {
		return fmt.Errorf("state of container %q: write %s: %w", c.ID, name, err)
	}
	if err := unix.Renameat(c.fd(), tmp, c.fd(), name); err != nil {
		return fmt.Errorf("state of container %q: rename %s: %w", c.ID, tmp, err)
	}
	return nil
}

func (c *Container) writeTmp(name string, data []byte) error {
	f, err := openFile(c.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// ReadFile reads what WriteFile wrote.
func (c *Container) ReadFile(name string) ([]byte, error) {
	data, err := readFile(c.dir, name)
	if err != nil {
		return nil, fmt.Errorf("state of container %q: read %s: %w", c.ID, name, err)
	}
	return data, nil
}

func readFile(dir *os.File, name string) ([]byte, error) {
	f, err := openFile(int(dir.Fd()), name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, 0, 4096) // a record fits; io.ReadAll begins with 512
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		if len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
	}
}

// Remove removes the container's directory, and with it the claim. The record goes
// last, so that a Remove that was killed can be repeated by whoever locks next.
//
// It does not walk: files and empty directories of ours go, one level below too (a
// bundle that we made), anything else stays and is named. A mount point that is still
// mounted on makes rmdir say EBUSY; nothing behind it is touched.
func (c *Container) Remove() error {
	if err := emptyDir(c.dir, 1, recordFile); err != nil {
		return fmt.Errorf("state of container %q: remove %w", c.ID, err)
	}
	err := unix.Unlinkat(c.fd(), recordFile, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		err = unix.Unlinkat(int(c.root.Fd()), c.ID, unix.AT_REMOVEDIR)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("state of container %q: remove %q: %w", c.ID, c.Path, err)
	}
	return nil
}

// emptyDir removes what is in dir, but for keep; depth levels of directories below.
func emptyDir(dir *os.File, depth int, keep string) error {
	list, err := openDir(int(dir.Fd()), ".") // own offset: Remove may be called again
	if err != nil {
		return err
	}
	defer list.Close()
	entries, err := list.ReadDir(-1)
	if err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: the directory itself is removed
		return err
	}
	for _, e := range entries {
		flags := 0
		switch {
		case e.Name() == keep:
			continue
		case e.IsDir():
			flags = unix.AT_REMOVEDIR
			if depth > 0 {
				if err := emptySub(dir, e.Name(), depth-1); err != nil {
					return err
				}
			}
		}
		if err := unix.Unlinkat(int(dir.Fd()), e.Name(), flags); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%q: %w", e.Name(), err)
		}
	}
	return nil
}

// emptySub does not go through a mount point: what is mounted there is not ours.
func emptySub(dir *os.File, name string, depth int) error {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	}
	fd, err := unix.Openat2(int(dir.Fd()), name, &how)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	sub := os.NewFile(uintptr(fd), name)
	defer sub.Close()
	if err := emptyDir(sub, depth, ""); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (c *Container) fd() int { return int(c.dir.Fd()) }
