package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/durable"
)

// Forget removes the records of all images that driver keeps, durably, and calls destroy,
// which takes the layers away in one go; may has the images' names first and can refuse.
// Meanwhile no image is made, removed or taken into use; ErrBusy if one is being made or
// exported now, whose layers no record names.
func (s *Store) Forget(driver string, may func(names []string) error, destroy func() error) error {
	if _, err := os.Stat(s.dir); errors.Is(err, os.ErrNotExist) {
		if err := may(nil); err != nil {
			return err
		}
		return destroy()
	}
	release, err := s.alone()
	if err != nil {
		return err
	}
	defer release()
	list, err := s.List()
	if err != nil {
		return err // whose layers a damaged record names is unknown
	}
	var names []string
	for _, img := range list {
		if img.Driver == driver {
			names = append(names, img.Name)
		}
	}
	if err := may(names); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(s.dir, fileName(name))); err != nil {
			return err
		}
	}
	if len(names) > 0 {
		if err := durable.SyncDir(s.dir); err != nil {
			return err
		}
	}
	return destroy()
}

// alone waits until nobody takes an image into use or changes a record, and does not wait
// for who makes or exports an image: those have their lock when they wait for the records'.
func (s *Store) alone() (release func(), err error) {
	records, err := s.lock(lockRecords, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	imports, err := s.lock(lockImports, unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		records()
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: %w; try again when it is done", s.storage, ErrBusy)
	}
	if err != nil {
		return nil, err
	}
	return func() { imports(); records() }, nil
}
