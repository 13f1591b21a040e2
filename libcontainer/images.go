package libcontainer

import (
	"context"
	"errors"

	"thinrun/image"
	"thinrun/libcontainer/state"
)

// ImportImage makes an image of what src holds; who opened src closes it. progress may be
// nil.
func (rt *Runtime) ImportImage(ctx context.Context, name string, src *image.Source, progress func(image.Progress)) (*image.Image, error) {
	storageDir, err := rt.storageDir()
	if err != nil {
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
	return image.Open(storageDir).Import(ctx, image.Import{
		Name: name, Source: src, Driver: driver, Layers: d, InUse: rt.usersOf, Note: rt.Warn, Progress: progress,
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
