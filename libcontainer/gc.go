package libcontainer

import (
	"errors"
	"fmt"

	"thinrun/image"
	"thinrun/libcontainer/state"
	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper"
)

// GC gives back what dead invocations left: containers whose create was killed, and
// storage that no record names.
func (rt *Runtime) GC() (freed []string, err error) {
	freed, err = rt.gcContainers()
	errs := []error{err}
	storageDir, err := rt.storageDir()
	if err != nil {
		return freed, err
	}
	gone, err := rt.gcStorage(storageDir)
	return append(freed, gone...), errors.Join(append(errs, err)...)
}

// abandoned tells, of a container whose lock is free, that nobody will delete it: its
// create was killed, or the run that would have is gone, and its program has ended or was
// never started, which only that run would have done.
func abandoned(rec *state.Record, gateHeld func() (bool, error)) bool {
	if rec.Phase != state.PhaseCreated {
		return true
	}
	if !rec.Ephemeral {
		return false
	}
	if alive, err := rec.Runtime.Alive(); alive || err != nil {
		return false
	}
	if alive, err := rec.Init.Alive(); !alive || err != nil {
		return err == nil
	}
	held, err := gateHeld()
	return held && err == nil
}

// gcContainers tears down abandoned containers. A create holds the lock as long as it
// lives, so who gets the lock knows that it is dead.
func (rt *Runtime) gcContainers() (freed []string, err error) {
	store, err := state.Open(rt.Root)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	store.LockWait = 0
	ids, err := store.List()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, id := range ids {
		if left, err := rt.goOn(store, id, false); err != nil {
			errs = append(errs, fmt.Errorf("container %q: %w", id, err))
		} else if left {
			freed = append(freed, fmt.Sprintf("container %q, which a killed commit had left standing still", id))
		}
		gateHeld := func() (bool, error) { return store.GateHeld(id) }
		if rec, err := store.Read(id); err == nil && !abandoned(rec, gateHeld) || errors.Is(err, state.ErrNotExist) {
			continue
		} else if err != nil && !errors.Is(err, state.ErrNoRecord) {
			errs = append(errs, err) // a newer thinrun's, say
			continue
		}
		c, err := store.Lock(id)
		if errors.Is(err, state.ErrBusy) || errors.Is(err, state.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// Under the lock, once more: it may have become a container meanwhile.
		if rec, err := c.Load(); errors.Is(err, state.ErrNoRecord) || err == nil && abandoned(rec, c.GateHeld) {
			if err := rt.delete(store, c, true); err != nil {
				errs = append(errs, fmt.Errorf("container %q: %w", id, err))
			} else {
				freed = append(freed, fmt.Sprintf("container %q, whose create or run had died", id))
			}
		}
		c.Close()
	}
	return freed, errors.Join(errs...)
}

// gcStorage collects both drivers' garbage below one storage directory: the kernel may
// have had dm-thin yesterday. First what dead commands left half-made, then the layers
// that no image names.
func (rt *Runtime) gcStorage(storageDir string) (freed []string, err error) {
	images := image.Open(storageDir)
	sweep := func(layers storage.LayerStore) error {
		gone, err := images.Sweep(layers)
		for _, id := range gone {
			freed = append(freed, "layer "+id+", which no image names")
		}
		return err
	}
	o := rt.overlay(storageDir)
	freed, err = o.GC(rt.claimed)
	errs := []error{err, sweep(o)}
	if devmapper.Supported() != nil {
		return freed, errors.Join(errs...)
	}
	d, err := rt.pool()
	if err != nil {
		return freed, errors.Join(append(errs, err)...)
	}
	defer d.Close()
	gone, err := d.GC()
	if errors.Is(err, devmapper.ErrNoPool) {
		return freed, errors.Join(errs...)
	}
	for _, id := range gone.Removed {
		freed = append(freed, fmt.Sprintf("thin device %d, which nobody names", id))
	}
	for _, id := range gone.Busy {
		rt.Warn(fmt.Sprintf("thin device %d, which nobody names, is in use; try again later", id))
	}
	for _, id := range gone.Missing {
		rt.Warn(fmt.Sprintf("layer %s is not in the pool any more; images that have it cannot run (see thinrun pool check)", id))
	}
	if err == nil {
		err = sweep(d)
	}
	return freed, errors.Join(append(errs, err)...)
}

// claimed tells whether some container's record names the directory. When in doubt yes.
func (rt *Runtime) claimed(dir string) bool {
	store, err := state.Open(rt.Root)
	if err != nil {
		return true
	}
	defer store.Close()
	ids, err := store.List()
	if err != nil {
		return true
	}
	for _, id := range ids {
		rec, err := store.Read(id)
		if err == nil && rec.Storage.Dir == dir || err != nil && !isUnclaimed(err) {
			return true
		}
	}
	return false
}
