package state

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// stillFile is there while a commit holds the container's processes or its file system
// still. Its maker has it locked, so a mark whose lock is free says that the maker was
// killed, and that somebody has to let the container go on.
const stillFile = "still"

// Still is the mark, locked.
type Still struct{ dir, file *os.File }

// Still makes the mark before anything is made to stand still. ErrBusy: another commit of
// the container is at work. left says that it is the mark of one that was killed.
func (c *Container) Still() (s *Still, left bool, err error) {
	s, left, err = still(c.dir, unix.O_CREAT, unix.F_OFD_SETLK)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, false, ErrBusy
	}
	if err != nil {
		return nil, false, fmt.Errorf("state of container %q: %s: %w", c.ID, stillFile, err)
	}
	return s, left, nil
}

// LeftStill is the mark that a killed commit has left; nil when there is none, or when its
// maker lives. With wait it waits for the maker's end.
func (s *Store) LeftStill(id string, wait bool) (*Still, error) {
	dir, err := s.find(id)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return leftStill(dir, id, wait)
}

// LeftStill is Store.LeftStill for a container that is locked already.
func (c *Container) LeftStill() (*Still, error) { return leftStill(c.dir, c.ID, false) }

func leftStill(dir *os.File, id string, wait bool) (*Still, error) {
	how := unix.F_OFD_SETLK
	if wait {
		how = unix.F_OFD_SETLKW
	}
	mark, _, err := still(dir, 0, how)
	switch {
	case err == nil:
		return mark, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
		return nil, nil
	}
	return nil, fmt.Errorf("state of container %q: %s: %w", id, stillFile, err)
}

// still locks the mark that has the name by then: whoever had it before may have taken it
// away.
func still(dir *os.File, create, lock int) (_ *Still, left bool, err error) {
	own, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, false, err
	}
	s := &Still{dir: os.NewFile(uintptr(own), dir.Name())}
	for {
		left = true
		s.file, err = openFile(own, stillFile, unix.O_RDWR, 0)
		if errors.Is(err, unix.ENOENT) && create != 0 {
			left = false
			s.file, err = openFile(own, stillFile, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
			if errors.Is(err, unix.EEXIST) {
				continue
			}
		}
		if err != nil {
			s.dir.Close()
			return nil, false, err
		}
		err = unix.EINTR
		for errors.Is(err, unix.EINTR) {
			err = unix.FcntlFlock(s.file.Fd(), lock, &unix.Flock_t{Type: unix.F_WRLCK})
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(int(s.file.Fd()), &st)
		}
		if err == nil && st.Nlink > 0 {
			return s, left, nil
		}
		s.file.Close()
		if err != nil {
			s.dir.Close()
			return nil, false, err
		}
	}
}

// Remove takes the mark away: everything goes on. The directory may be gone by now.
func (s *Still) Remove() error {
	err := unix.Unlinkat(int(s.dir.Fd()), stillFile, 0)
	if errors.Is(err, unix.ENOENT) {
		err = nil
	}
	return errors.Join(err, s.Close())
}

// Close leaves the mark for somebody who can do more.
func (s *Still) Close() error { return errors.Join(s.file.Close(), s.dir.Close()) }
