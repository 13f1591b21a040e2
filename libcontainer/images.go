package libcontainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"thinrun/image"
	"thinrun/libcontainer/state"
	"thinrun/rootfs"
	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper"
	"thinrun/rootfs/storage/dir"
	"thinrun/rootfs/storage/overlay"
)

// The drivers' names, as records and --storage-driver spell them.
const (
	driverAuto      = "auto"
	driverDevmapper = "devmapper"
	driverOverlay   = overlay.Name
	driverDir       = "dir"
)

// imageDriver is a driver that keeps images too.
type imageDriver interface {
	storage.Driver
	storage.LayerStore
}

// driver opens a driver by its name: the one switch over what storage there is.
func (rt *Runtime) driver(name, storageDir string) (imageDriver, error) {
	switch name {
	case driverDevmapper:
		return devmapper.Open(storageDir, devmapper.Options{StateRoot: rt.stateRoot()})
	case driverOverlay:
		return rt.overlay(storageDir), nil
	}
	return nil, fmt.Errorf("BUG: no storage driver %q", name)
}

func (rt *Runtime) overlay(storageDir string) overlay.Driver {
	return overlay.Driver{Storage: storageDir, StateRoot: rt.stateRoot()}
}

// chosenDriver is the one that a new image goes to: devmapper where the kernel has
// dm-thin and we are root, else overlay, with one line why.
func (rt *Runtime) chosenDriver() (string, error) {
	if rt.StorageDriver != driverAuto {
		return rt.StorageDriver, nil
	}
	if os.Geteuid() != 0 {
		rt.Warn("storage: overlay, because the device mapper is root's")
		return driverOverlay, nil
	}
	if err := devmapper.Supported(); err != nil {
		rt.Warn(fmt.Sprintf("storage: overlay, because %v", err))
		return driverOverlay, nil
	}
	return driverDevmapper, nil
}

// prepareRoot asks the driver for the container's root; the record names each thing
// that it takes before it takes it.
func (rt *Runtime) prepareRoot(c *state.Container, rec *state.Record, req storage.Request) (*os.File, error) {
	save := func(claim storage.Claim) error {
		if claim == rec.Storage {
			return nil
		}
		rec.Storage = claim
		return c.Save(rec)
	}
	if req.Image == "" {
		src, err := dir.Driver{}.Prepare(req, func(claim storage.Claim) error {
			rec.Storage = claim // nothing is acquired: the next Save is soon enough
			return nil
		})
		return src.Mount, err
	}
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, err
	}
	// Held until the record names the layer: rm and a new import of the name look there.
	img, release, err := image.Open(storageDir).Use(req.Image)
	if err != nil {
		return nil, err
	}
	defer release()
	if rt.StorageDriver != driverAuto && rt.StorageDriver != img.Driver {
		return nil, fmt.Errorf("image %s is kept by the %s driver, not by %s (import it again, or leave --storage-driver out)", img.Name, img.Driver, rt.StorageDriver)
	}
	d, err := rt.driver(img.Driver, storageDir)
	if err != nil {
		return nil, err
	}
	req.Layer = img.Layer()
	src, err := d.Prepare(req, save)
	return src.Mount, err
}

// mapRoot makes the files of an image belong to the container's user namespace: they
// are kept with the ids of the first one. Who is not root there keeps them as its own.
func (rt *Runtime) mapRoot(root *os.File, driver string, pid int) error {
	if driver == driverOverlay {
		// No kernel id-maps a whole overlay, only its layers, since Linux 5.19.
		rt.Warn("storage: overlay does not map the image's files into the user namespace; they belong to nobody there")
		return nil
	}
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return err
	}
	defer userns.Close()
	return new(rootfs.IDMap).Apply(root, userns)
}

// removeStorage gives back what the record's claim names.
func (rt *Runtime) removeStorage(rec *state.Record) error {
	claim := rec.Storage
	if claim.Driver == "" || claim.Driver == driverDir {
		return nil
	}
	d, err := rt.driver(claim.Driver, claim.Storage)
	if err != nil {
		return err
	}
	return d.Remove(claim)
}

func (rt *Runtime) storageDir() (string, error) { return filepath.Abs(rt.Storage) }

// stateRoot as an absolute path; a relative one cannot fail unless the working
// directory is gone, and then nothing else works either.
func (rt *Runtime) stateRoot() string {
	root, err := filepath.Abs(rt.Root)
	if err != nil {
		return rt.Root
	}
	return root
}

// ImportImage makes an image out of a directory or a tar.
func (rt *Runtime) ImportImage(ctx context.Context, name, source string, stdin io.Reader) (*image.Image, error) {
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, err
	}
	if _, err := image.ParseName(name); err != nil {
		return nil, err
	}
	driver, err := rt.chosenDriver()
	if err != nil {
		return nil, err
	}
	d, err := rt.driver(driver, storageDir)
	if err != nil {
		return nil, err
	}
	src, err := image.Plain(source, stdin)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return image.Open(storageDir).Import(ctx, image.Import{
		Name: name, Source: src, Driver: driver, Layers: d, InUse: rt.usersOf, Note: rt.Warn,
	})
}

// Images lists the images by name.
func (rt *Runtime) Images() ([]image.Image, error) {
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, err
	}
	return image.Open(storageDir).List()
}

// RemoveImage removes an image that no container uses.
func (rt *Runtime) RemoveImage(name string) error {
	storageDir, err := rt.storageDir()
	if err != nil {
		return err
	}
	store := image.Open(storageDir)
	img, err := store.Get(name)
	if err != nil {
		return err
	}
	d, err := rt.driver(img.Driver, storageDir)
	if err != nil {
		return err
	}
	return store.Remove(name, d, rt.usersOf)
}

// usersOf lists the containers that are on layer: those of our own state directory by
// their records, and those of all others that overlay knows. A snapshot does not need its
// layer any more. A record that is not there claims nothing that outlived its create; one
// that cannot be read may.
func (rt *Runtime) usersOf(layer string) []string {
	store, err := state.Open(rt.Root)
	if err != nil {
		return nil
	}
	defer store.Close()
	ids, err := store.List()
	if err != nil {
		return nil
	}
	var users []string
	for _, id := range ids {
		rec, err := store.Read(id)
		if err == nil && rec.Storage.Layer == layer || err != nil && !isUnclaimed(err) {
			users = append(users, id)
		}
	}
	if len(users) > 0 {
		return users
	}
	storageDir, err := rt.storageDir()
	if err == nil {
		users, err = rt.overlay(storageDir).Users(layer)
	}
	if err != nil {
		return []string{err.Error()}
	}
	return users
}

// isUnclaimed: there is no container, or none that has come to claim something.
func isUnclaimed(err error) bool {
	return errors.Is(err, state.ErrNotExist) || errors.Is(err, state.ErrNoRecord)
}

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
// create was killed, or the run that would have is gone and so is its program.
func abandoned(rec *state.Record) bool {
	if rec.Phase != state.PhaseCreated {
		return true
	}
	if !rec.Ephemeral {
		return false
	}
	for _, p := range []state.Process{rec.Runtime, rec.Init} {
		if alive, err := p.Alive(); alive || err != nil {
			return false
		}
	}
	return true
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
		if rec, err := store.Read(id); err == nil && !abandoned(rec) || errors.Is(err, state.ErrNotExist) {
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
		if rec, err := c.Load(); errors.Is(err, state.ErrNoRecord) || err == nil && abandoned(rec) {
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
// have had dm-thin yesterday.
func (rt *Runtime) gcStorage(storageDir string) (freed []string, err error) {
	images := image.Open(storageDir)
	var errs []error
	errs = append(errs, images.Sweep(func(keep func(string) bool) error {
		gone, err := rt.overlay(storageDir).GC(rt.claimed, keep)
		freed = append(freed, gone...)
		return err
	}))
	if devmapper.Supported() != nil {
		return freed, errors.Join(errs...)
	}
	d, err := rt.pool()
	if err != nil {
		return freed, errors.Join(append(errs, err)...)
	}
	defer d.Close()
	errs = append(errs, images.Sweep(func(keep func(string) bool) error {
		gone, err := d.GC()
		if errors.Is(err, devmapper.ErrNoPool) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, id := range gone.Removed {
			freed = append(freed, fmt.Sprintf("thin device %d, which nobody names", id))
		}
		layers, err := d.Layers()
		if err != nil {
			return err
		}
		for _, l := range layers {
			if keep(l.ID) {
				continue
			}
			if err := d.RemoveLayer(l.ID); err != nil {
				return err
			}
			freed = append(freed, "layer "+l.ID+", which no image names")
		}
		return nil
	}))
	return freed, errors.Join(errs...)
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
