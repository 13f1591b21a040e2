package libcontainer

import (
	"fmt"
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
	storage.Meter
}

// driver opens a driver by its name: the one switch over what storage there is.
func (rt *Runtime) driver(name, storageDir string) (imageDriver, error) {
	switch name {
	case driverDevmapper:
		return rt.devmapper(storageDir)
	case driverOverlay:
		return rt.overlay(storageDir), nil
	}
	return nil, fmt.Errorf("BUG: no storage driver %q", name)
}

// devmapper is the pool below storageDir. Open touches nothing.
func (rt *Runtime) devmapper(storageDir string) (*devmapper.Driver, error) {
	return devmapper.Open(storageDir, devmapper.Options{
		StateRoot: rt.stateRoot(), Warn: rt.Warn,
		Guard: func(device string) (func(), error) { return rt.guard(storageDir, guardDevice, device) },
	})
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

func (rt *Runtime) storageDir() (string, error) {
	dir, err := filepath.Abs(rt.Storage)
	if err != nil {
		return "", fmt.Errorf("storage %q, which is relative: %w", rt.Storage, err)
	}
	return dir, nil
}

// stateRoot as an absolute path; a relative one cannot fail unless the working
// directory is gone, and then nothing else works either.
func (rt *Runtime) stateRoot() string {
	root, err := filepath.Abs(rt.Root)
	if err != nil {
		return rt.Root
	}
	return root
}

// prepareRoot asks the driver for the container's root; the record names each thing
// that it takes before it takes it. held is the image if the caller holds it; it is let go here.
func (rt *Runtime) prepareRoot(c *state.Container, rec *state.Record, req storage.Request, held *heldImage) (*os.File, error) {
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
	if held == nil {
		img, release, err := image.Open(storageDir).Start(req.Image)
		if err != nil {
			return nil, err
		}
		held = &heldImage{img, release}
	}
	// Until the record names the layer: rm and a new import of the name look there. And no
	// longer: who wants to change a record waits for us, and all later starts for that one.
	defer held.release()
	img := held.Image
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
