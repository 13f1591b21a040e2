package libcontainer

import (
	"context"
	"errors"
	"fmt"

	"thinrun/image"
	"thinrun/libcontainer/state"
	"thinrun/rootfs/storage"
)

// CommitOptions are the flags of image commit.
type CommitOptions struct {
	Message, Author string
	Changes         []string // "CMD [...]", "ENV A=b", ... as a Dockerfile has them
}

// CommitContainer makes an image of what a container's root holds now, running or not.
// The container's lock is held for a moment only, so that its other verbs do not wait; a
// container that is deleted meanwhile makes the commit fail, and no more.
func (rt *Runtime) CommitContainer(ctx context.Context, id, name string, opt CommitOptions) (*image.Image, error) {
	if _, err := image.ParseName(name); err != nil {
		return nil, err
	}
	changes, err := parseChanges(opt.Changes)
	if err != nil {
		return nil, err
	}
	store, err := state.Open(rt.Root)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	rec, err := store.Read(id)
	if err != nil {
		return nil, err
	}
	switch {
	case rec.Storage.Image == "":
		return nil, fmt.Errorf("container %s: its root is a directory of its bundle, and no snapshot of an image", id)
	case rec.Phase != state.PhaseCreated:
		return nil, fmt.Errorf("container %s is still being created", id)
	}
	images := image.Open(rec.Storage.Storage)
	base, err := baseOf(images, rec.Storage)
	if err != nil {
		return nil, err
	}
	d, err := rt.driver(rec.Storage.Driver, rec.Storage.Storage)
	if err != nil {
		return nil, err
	}
	layer, err := rt.fork(store, rec, d)
	if err != nil {
		if layer != nil {
			err = errors.Join(err, layer.Abort())
		}
		return nil, err
	}
	commit := image.Commit{
		Name: name, Base: base, Layer: layer, Driver: rec.Storage.Driver, Layers: d, InUse: rt.usersOf,
		Message: opt.Message, Author: opt.Author, Changes: changes.apply, Labels: changes.labels, Expose: changes.expose, Note: rt.Warn,
	}
	img, err := images.Commit(ctx, commit)
	return img, errors.Join(noRoom(rec.Storage.Driver, err), layer.Abort())
}

// baseOf is the image that the container was made from: under the name that it had then,
// or another one of the same layers.
func baseOf(images *image.Store, claim storage.Claim) (*image.Image, error) {
	img, err := images.Get(claim.Image)
	if err == nil && img.Layer() == claim.Layer {
		return img, nil
	}
	list, bad := images.List()
	for i := range list {
		if list[i].Layer() == claim.Layer {
			return &list[i], nil
		}
	}
	return nil, errors.Join(fmt.Errorf("image %s is not there any more as it was when the container was made: what the container has changed cannot be told", claim.Image), bad)
}

// fork copies the container's root while it stands still. On dm-thin the driver freezes
// the file system for a create_snap; a copy of an overlay's directory takes longer and
// wants the processes frozen.
func (rt *Runtime) fork(store *state.Store, rec *state.Record, d imageDriver) (layer storage.Layer, err error) {
	mark, err := rt.markStill(store, rec)
	if err != nil {
		return nil, err
	}
	thaw := func() error { return nil }
	if rec.Storage.Driver == driverOverlay {
		thaw, err = rt.freeze(rec)
	}
	if err == nil {
		layer, err = d.Fork(rec.Storage)
	}
	if undo := thaw(); undo != nil {
		return layer, errors.Join(err, undo, mark.Close()) // the mark stays for who can do more
	}
	return layer, errors.Join(err, mark.Remove())
}

// markStill puts the mark in the container's directory, under its lock: a delete that has
// begun must not find a new file there.
func (rt *Runtime) markStill(store *state.Store, rec *state.Record) (*state.Still, error) {
	for {
		c, err := store.Lock(rec.ID)
		if err != nil {
			return nil, err
		}
		now, err := c.Load()
		if err == nil && now.Init != rec.Init {
			err = fmt.Errorf("container %s: %w (deleted, and made anew, meanwhile)", rec.ID, state.ErrNotExist)
		}
		var mark *state.Still
		var left bool
		if err == nil {
			mark, left, err = c.Still()
		}
		c.Close()
		switch {
		case errors.Is(err, state.ErrBusy): // another commit: its end is our turn
			if _, err := rt.goOn(store, rec.ID, true); err != nil {
				return nil, err
			}
			continue
		case err != nil:
			return nil, err
		}
		if left {
			if err := rt.letGo(rec); err != nil {
				return nil, errors.Join(err, mark.Close())
			}
		}
		return mark, nil
	}
}

// freeze stops the container's processes, unless somebody has done so before.
func (rt *Runtime) freeze(rec *state.Record) (thaw func() error, err error) {
	nothing := func() error { return nil }
	cg, err := openCgroup(rec)
	if err != nil {
		return nothing, err
	}
	alive, err := rec.Init.Alive()
	if err != nil || !alive {
		return nothing, err
	}
	if cg == nil {
		rt.Warn("commit: the container has no cgroup to freeze it in; what it writes meanwhile may be half in the image")
		return nothing, nil
	}
	if frozen, err := cg.Frozen(); err != nil || frozen {
		return nothing, err
	}
	done, err := rt.guard(rec.Storage.Storage, guardContainer, rec.ID)
	if err != nil {
		return nothing, err
	}
	if err := cg.Freeze(); err != nil { // which thaws when it fails
		done()
		return nothing, err
	}
	return func() error {
		err := cg.Thaw()
		if err == nil {
			done()
		}
		return err // without done the guardian tries when we have gone
	}, nil
}
