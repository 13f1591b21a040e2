package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/proc"
)

// containerd's shim learns by "does not exist" that a container is gone: delete is done then,
// and kill has nobody.
var (
	// ErrExists says that the id is taken.
	ErrExists = errors.New("container with given ID already exists")
	// ErrNotExist says that nobody has claimed the id.
	ErrNotExist = errors.New("container does not exist")
	// ErrNoRecord says that the id is claimed and nothing more is known: create was
	// killed before its first Save, or the power went before the record reached the disk.
	ErrNoRecord = errors.New("container has no readable record")
	// ErrBusy says that another command held the container's lock for too long.
	ErrBusy = errors.New("container is busy with another command")
)

// lockWait bounds how long a command waits for another one on the same container.
const lockWait = 10 * time.Second

// Store is the state directory. Each container is a directory in it, named by the id.
type Store struct {
	Path string
	// LockWait is how long Claim and Lock wait for another command.
	LockWait time.Duration

	dir    *os.File // nil: the directory does not exist
	bootID func() (string, error)
}

// Open opens the state directory, and refuses one that others could write to. It does
// not make it: asking for a container's state leaves no trace. Claim makes it.
func Open(root string) (*Store, error) {
	path, err := filepath.Abs(root) // also takes the trailing slash that O_NOFOLLOW would not see through
	if err != nil {
		return nil, fmt.Errorf("state directory %q: %w", root, err)
	}
	s := &Store{Path: path, LockWait: lockWait, bootID: sync.OnceValues(proc.BootID)}
	if err := s.open(); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	return s, nil
}

func (s *Store) open() error {
	dir, err := openDir(unix.AT_FDCWD, s.Path)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("state directory %q: is no directory (a symbolic link is not followed)", s.Path)
	}
	if err != nil {
		return fmt.Errorf("state directory %q: %w", s.Path, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		dir.Close()
		return fmt.Errorf("state directory %q: %w", s.Path, err)
	}
	if euid := os.Geteuid(); int(st.Uid) != euid || st.Mode&0o022 != 0 {
		dir.Close()
		return fmt.Errorf("state directory %q: belongs to uid %d with mode %04o, so others could change it; it must be uid %d's alone to write",
			s.Path, st.Uid, st.Mode&0o7777, euid)
	}
	s.dir = dir
	return nil
}

// Close releases the directory. Containers that came from it stay usable.
func (s *Store) Close() error {
	if s.dir == nil {
		return nil
	}
	return s.dir.Close()
}

// Claim makes the container's directory. mkdir is the claim: of any number of callers
// one wins, the others get ErrExists. The winner holds the lock.
func (s *Store) Claim(id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if s.dir == nil {
		if err := os.MkdirAll(s.Path, 0o700); err != nil {
			return nil, fmt.Errorf("state directory: %w", err)
		}
		if err := s.open(); err != nil {
			return nil, err
		}
	}
	for {
		err := unix.Mkdirat(int(s.dir.Fd()), id, 0o700)
		if errors.Is(err, unix.EEXIST) {
			return nil, ErrExists
		}
		if err != nil {
			return nil, fmt.Errorf("state directory %q: mkdir %q: %w", s.Path, id, err)
		}
		c, err := s.Lock(id)
		// A delete of the same id can take the lock between mkdir and here. It found
		// nothing and removed it: it came first, so the id is free again.
		if !errors.Is(err, ErrNotExist) {
			return c, err
		}
	}
}

// Lock opens a container for a command that changes it. Only one command at a time has
// it; ErrBusy after LockWait. The lock goes with Close or with the process.
//
// It is a flock on the container's directory itself, so there is no lock file that
// could outlive or miss the container.
func (s *Store) Lock(id string) (*Container, error) {
	deadline := time.Now().Add(s.LockWait)
	for {
		dir, err := s.find(id)
		if err != nil {
			return nil, err
		}
		if err := lock(dir, time.Until(deadline)); err != nil {
			return nil, fmt.Errorf("state of container %q: %w", id, err)
		}
		// While we waited the container may have been deleted, and another made under
		// its name: then our lock is on a directory that has no name any more.
		if same, err := s.isNamed(dir, id); err != nil || same {
			if err != nil {
				dir.Close()
				return nil, fmt.Errorf("state of container %q: %w", id, err)
			}
			return s.locked(id, dir)
		}
		dir.Close()
	}
}

// locked is the container whose locked directory is dir. Its way to its own name must not
// end with the store's: run keeps the container, and not the store, until its start.
func (s *Store) locked(id string, dir *os.File) (*Container, error) {
	fd, err := unix.FcntlInt(s.dir.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		dir.Close()
		return nil, fmt.Errorf("state directory %q: %w", s.Path, err)
	}
	return &Container{ID: id, Path: filepath.Join(s.Path, id), root: os.NewFile(uintptr(fd), s.Path), dir: dir}, nil
}

// isNamed tells whether dir is what the name id leads to now.
func (s *Store) isNamed(dir *os.File, id string) (bool, error) {
	var here, there unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &here); err != nil {
		return false, err
	}
	err := unix.Fstatat(int(s.dir.Fd()), id, &there, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return here.Dev == there.Dev && here.Ino == there.Ino, err
}

// lock takes an exclusive flock(2), and closes dir when it cannot.
//
// flock has no deadline. Asking again and again with LOCK_NB would be a sleep loop, so a
// goroutine waits in the kernel. Nothing can call it back from there: after the deadline
// it stays until the lock comes, which it then gives up by closing, or the process ends.
func lock(dir *os.File, wait time.Duration) error {
	fd := int(dir.Fd())
	err := flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		dir.Close()
		return err
	}
	locked, late := make(chan error), make(chan struct{})
	go func() {
		err := flock(fd, unix.LOCK_EX)
		select {
		case locked <- err:
		case <-late:
			dir.Close()
		}
	}()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case err := <-locked:
		if err != nil {
			dir.Close()
		}
		return err
	case <-timer.C:
		close(late)
		return ErrBusy
	}
}

func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

// Read returns a container's record without taking the lock: Save replaces the file
// at once, so a reader sees one record or the other. ErrNotExist, ErrNoRecord.
func (s *Store) Read(id string) (*Record, error) {
	dir, err := s.find(id)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return load(dir, id)
}

// find opens a container's directory. ErrNotExist.
func (s *Store) find(id string) (*os.File, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if s.dir == nil {
		return nil, ErrNotExist
	}
	dir, err := openDir(int(s.dir.Fd()), id)
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("state of container %q: %w", id, err)
	}
	return dir, nil
}

// ReadFile reads what the container's WriteFile wrote, without the lock.
func (s *Store) ReadFile(id, name string) ([]byte, error) {
	dir, err := s.find(id)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	data, err := readFile(dir, name)
	if err != nil {
		return nil, fmt.Errorf("state of container %q: read %s: %w", id, name, err)
	}
	return data, nil
}

func load(dir *os.File, id string) (*Record, error) {
	data, err := readFile(dir, recordFile)
	if errors.Is(err, unix.ENOENT) {
		return nil, ErrNoRecord
	}
	if err != nil {
		return nil, fmt.Errorf("state of container %q: %w", id, err)
	}
	rec := new(Record)
	if !decode(data, rec) || rec.Version == 0 {
		return nil, ErrNoRecord // see Save on power cuts
	}
	if rec.Version > Version {
		return nil, fmt.Errorf("state of container %q: its record has version %d, this thinrun knows %d; use the newer one", id, rec.Version, Version)
	}
	return rec, nil
}

// List returns the claimed ids, sorted.
func (s *Store) List() ([]string, error) {
	if s.dir == nil {
		return nil, nil
	}
	dir, err := openDir(int(s.dir.Fd()), ".") // own offset
	if err != nil {
		return nil, fmt.Errorf("state directory %q: %w", s.Path, err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("state directory %q: %w", s.Path, err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && CheckID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// openDir opens a directory, never through a link. The descriptor is blocking, so
// that os.File does not start the poller for it.
func openDir(at int, name string) (*os.File, error) {
	return openFile(at, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func openFile(at int, name string, flags int, mode uint32) (*os.File, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}
