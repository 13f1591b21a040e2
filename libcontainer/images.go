package libcontainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

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
	img, err := image.Open(storageDir).Import(ctx, image.Import{
		Name: name, Source: src, Driver: driver, Layers: d, InUse: rt.usersOf, Note: rt.Warn, Progress: progress,
	})
	return img, noRoom(driver, err)
}

// noRoom says where to look when a layer could not be written. A full pool gives ENOSPC or
// EIO to a file system, which soon is read-only and says nothing but that.
func noRoom(driver string, err error) error {
	if driver == driverDevmapper && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EIO) || errors.Is(err, unix.EROFS)) {
		return fmt.Errorf("%w (its disk or the pool has no room: see thinrun pool status)", err)
	}
	return err
}

// ListedImage is an image and what its removal would give back.
type ListedImage struct {
	image.Image
	// Exclusive is in bytes; nil when nobody can tell.
	Exclusive *uint64 `json:"exclusive,omitempty"`
}

// Images lists the images by name; briefly: without looking at what each takes. Damaged
// records are in the error; the others still come.
func (rt *Runtime) Images(briefly bool) ([]ListedImage, error) {
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, err
	}
	images, bad := image.Open(storageDir).List()
	if images == nil && bad != nil {
		return nil, bad
	}
	var exclusive map[string]uint64
	if !briefly {
		exclusive = rt.exclusive(storageDir, images, images)
	}
	list := []ListedImage{}
	for _, img := range images {
		l := ListedImage{Image: img}
		if n, known := exclusive[img.Name]; known {
			l.Exclusive = &n
		}
		list = append(list, l)
	}
	return list, bad
}

// exclusive asks each driver once, about some of all images. A layer that a second image
// names is nobody's alone.
func (rt *Runtime) exclusive(storageDir string, all, some []image.Image) map[string]uint64 {
	named := map[string]int{}
	for _, img := range all {
		for _, id := range img.Layers {
			named[id]++
		}
	}
	groups := map[string]map[string][]string{} // driver, image
	for _, img := range some {
		own := slices.DeleteFunc(slices.Clone(img.Layers), func(id string) bool { return named[id] > 1 })
		if groups[img.Driver] == nil {
			groups[img.Driver] = map[string][]string{}
		}
		groups[img.Driver][img.Name] = own
	}
	sums := map[string]uint64{}
	for name, group := range groups {
		d, err := rt.driver(name, storageDir)
		if err == nil {
			var part map[string]uint64
			part, err = d.Exclusive(group)
			maps.Copy(sums, part)
		}
		if err != nil {
			rt.Warn("how much an image takes for itself is not known: " + err.Error())
		}
	}
	return sums
}

// InspectedImage is all that is known of an image.
type InspectedImage struct {
	ListedImage
	Layers     []InspectedLayer `json:"layers"`
	Containers []string         `json:"containers"` // that are on it
	OCI        json.RawMessage  `json:"oci,omitempty"`
}

// InspectedLayer is one of its layers.
type InspectedLayer struct {
	ID     string `json:"id"` // as the driver calls it
	Chain  string `json:"chain,omitempty"`
	DiffID string `json:"diffId,omitempty"`
	Size   int64  `json:"size"`
}

// InspectImage tells all about an image.
func (rt *Runtime) InspectImage(name string) (*InspectedImage, error) {
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, err
	}
	store := image.Open(storageDir)
	found, err := store.Get(name)
	if err != nil {
		return nil, err
	}
	all, _ := store.List() // of others' damage image list tells
	img := &InspectedImage{ListedImage: ListedImage{Image: *found}, OCI: found.OCI}
	if n, known := rt.exclusive(storageDir, all, []image.Image{*found})[found.Name]; known {
		img.Exclusive = &n
	}
	for i, id := range img.Image.Layers {
		l := InspectedLayer{ID: id}
		if i < len(img.Chains) {
			l.Chain = img.Chains[i]
		}
		if i < len(img.DiffIDs) {
			l.DiffID = img.DiffIDs[i]
		}
		if i < len(img.Sizes) {
			l.Size = img.Sizes[i]
		}
		img.Layers = append(img.Layers, l)
	}
	if img.Containers, err = rt.containersOn(img.Layer()); err != nil {
		return nil, err
	}
	return img, nil
}

// TagImage gives an image a second name. What had that name goes, unless a container is on it.
func (rt *Runtime) TagImage(name, second string) error {
	store, d, err := rt.imageAndDriver(name)
	if err != nil {
		return err
	}
	_, err = store.Tag(name, second, d, rt.usersOf)
	return err
}

// ExportImage has an image written somewhere. While write is at work the image's layers
// stay, whatever happens to its name.
func (rt *Runtime) ExportImage(ctx context.Context, name string, write func(*image.Export) error) error {
	store, d, err := rt.imageAndDriver(name)
	if err != nil {
		return err
	}
	export, err := store.Export(name, d, rt.Warn)
	if err != nil {
		return err
	}
	return errors.Join(write(export), export.Close())
}

// RemoveImage removes an image that no container uses.
func (rt *Runtime) RemoveImage(name string) error {
	store, d, err := rt.imageAndDriver(name)
	if err != nil {
		return err
	}
	return store.Remove(name, d, rt.usersOf)
}

// imageAndDriver is the store, and the driver that keeps the image.
func (rt *Runtime) imageAndDriver(name string) (*image.Store, imageDriver, error) {
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, nil, err
	}
	store := image.Open(storageDir)
	img, err := store.Get(name)
	if err != nil {
		return nil, nil, err
	}
	d, err := rt.driver(img.Driver, storageDir)
	return store, d, err
}

// usersOf is containersOn for those who must not be told "nobody" when it is not known.
func (rt *Runtime) usersOf(layer string) []string {
	users, err := rt.containersOn(layer)
	if err != nil {
		return append(users, fmt.Sprintf("that nobody can tell (%v)", err))
	}
	return users
}

// containersOn lists the containers that are on layer: those of our own state directory by
// their records, and those of all others that overlay knows. A snapshot does not need its
// layer any more. A record that is not there claims nothing that outlived its create; one
// that cannot be read may.
func (rt *Runtime) containersOn(layer string) ([]string, error) {
	store, err := state.Open(rt.Root)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	ids, err := store.List()
	if err != nil {
		return nil, err
	}
	users := []string{}
	for _, id := range ids {
		rec, err := store.Read(id)
		if err == nil && rec.Storage.Layer == layer || err != nil && !isUnclaimed(err) {
			users = append(users, id)
		}
	}
	if len(users) > 0 {
		return users, nil
	}
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, err
	}
	owners, err := rt.overlay(storageDir).Users(layer)
	for _, owner := range owners {
		if filepath.Dir(owner) == rt.stateRoot() { // made since the records were read
			owner = filepath.Base(owner)
		}
		users = append(users, owner)
	}
	return users, err
}

// isUnclaimed: there is no container, or none that has come to claim something.
func isUnclaimed(err error) bool {
	return errors.Is(err, state.ErrNotExist) || errors.Is(err, state.ErrNoRecord)
}
