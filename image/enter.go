package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// place is a record on its way into the store, perhaps over one of the same name.
type place struct {
	img    *Image
	layers storage.LayerStore // of img.Driver
	inUse  func(layer string) []string
}

// mayEnter looks without the lock, so that a refusal does not come after the work.
func (s *Store) mayEnter(p place) error {
	old, err := s.Get(p.img.Name)
	if err != nil {
		return nil // none, or one whose damage enter tells
	}
	return s.mayReplace(old, p)
}

// mayReplace: our driver removes the old image's layers, so they must be its own.
func (s *Store) mayReplace(old *Image, p place) error {
	if old.Driver != p.img.Driver {
		return fmt.Errorf("image %s exists, kept by the %s driver and not by %s: remove it first", old.Name, old.Driver, p.img.Driver)
	}
	if len(p.img.Chains) > 0 && !slices.Contains(p.img.Chains, "") && slices.Equal(old.Chains, p.img.Chains) {
		return nil // the same layers once more
	}
	return s.refuseUsed(old, p.inUse)
}

// enter writes the record, in the place of an older one that nobody uses; it returns
// that. From then on the record has the layers, and release lets go of them, before anybody
// can replace or remove the record: who did and found them held would leave them to us.
func (s *Store) enter(p place, release func()) (*Image, error) {
	unlock, err := s.lock(lockRecords, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := s.enterLocked(p)
	if err == nil {
		release()
	}
	return old, err
}

func (s *Store) enterLocked(p place) (*Image, error) {
	old, err := s.Get(p.img.Name)
	if err == nil {
		err = s.mayReplace(old, p)
	} else if errors.Is(err, ErrNotFound) {
		old, err = nil, nil
	}
	if err == nil {
		err = s.put(p.img)
	}
	return old, err
}

// refuseUsed: only the top layer can be under a container of this very image; a lower
// one that is also somebody's top stays because that image's record has it. For the same
// reason a second name of the image may go while a container is on it.
func (s *Store) refuseUsed(img *Image, inUse func(layer string) []string) error {
	who := inUse(img.Layer())
	if len(who) == 0 {
		return nil
	}
	list, _ := s.List() // a damaged record is nobody's second name
	if slices.ContainsFunc(list, func(other Image) bool { return other.Name != img.Name && other.Layer() == img.Layer() }) {
		return nil
	}
	return fmt.Errorf("image %s: %w by container %s; delete it first", img.Name, ErrInUse, strings.Join(who, ", "))
}

// dropReplaced takes a former image's layers away, if there was one.
func (s *Store) dropReplaced(old *Image, layers storage.LayerStore) error {
	if old == nil {
		return nil
	}
	unlock, err := s.lock(lockRecords, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.drop(old, layers); err != nil {
		return fmt.Errorf("what was image %s: %w", old.Name, err)
	}
	return nil
}

// drop removes those of an image's layers that no record names, and that nobody is making
// or using for a record to come: that one drops them itself if it comes to nothing. The
// caller holds the records' lock alone.
func (s *Store) drop(img *Image, layers storage.LayerStore) error {
	known, err := s.layers()
	if err != nil {
		return fmt.Errorf("its layers stay until gc: %w", err)
	}
	l, err := s.locks()
	if err != nil {
		return err
	}
	defer l.close()
	for i, id := range slices.Backward(img.Layers) {
		if known[id] {
			continue
		}
		var free bool
		if i < len(img.Chains) && img.Chains[i] != "" { // others find it from when it is sealed
			free, err = l.abandoned(storage.LayerInfo{ID: id, Chain: img.Chains[i]})
		} else {
			free, err = l.try(unix.F_WRLCK, using(id))
		}
		if err != nil {
			return err
		}
		if !free {
			continue
		}
		if err := layers.RemoveLayer(id); err != nil {
			return fmt.Errorf("layer %s stays until gc: %w", id, err)
		}
	}
	return nil
}
