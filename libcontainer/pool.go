package libcontainer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"thinrun/image"
	"thinrun/libcontainer/state"
	"thinrun/rootfs/storage/devmapper"
)

// PoolOptions are the flags of pool create.
type PoolOptions = devmapper.PoolOptions

// PoolStatus is what pool status prints, and PoolSpace its data or metadata.
type (
	PoolStatus = devmapper.Status
	PoolSpace  = devmapper.Space
)

// GrowOptions are the flags of pool grow, and Grown is what came of them.
type (
	GrowOptions = devmapper.GrowOptions
	Grown       = devmapper.Grown
)

// Trimmed is what pool trim gave back.
type Trimmed = devmapper.Trimmed

// PoolReport is what pool check found.
type PoolReport = devmapper.Report

func (rt *Runtime) pool() (*devmapper.Driver, error) {
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, err
	}
	return rt.devmapper(storageDir)
}

// withPool calls one of the pool's verbs.
func withPool[T any](rt *Runtime, verb func(*devmapper.Driver) (T, error)) (T, error) {
	d, err := rt.pool()
	if err != nil {
		var none T
		return none, err
	}
	defer d.Close()
	return verb(d)
}

// CreatePool makes the thin pool below --storage, which the first image would also do.
func (rt *Runtime) CreatePool(o PoolOptions) error {
	_, err := withPool(rt, func(d *devmapper.Driver) (struct{}, error) { return struct{}{}, d.CreatePool(o) })
	return err
}

// PoolStatus asks the pool how full and how old it is.
func (rt *Runtime) PoolStatus() (PoolStatus, error) {
	return withPool(rt, (*devmapper.Driver).Status)
}

// GrowPool makes it larger, while containers run.
func (rt *Runtime) GrowPool(o GrowOptions) (Grown, error) {
	return withPool(rt, func(d *devmapper.Driver) (Grown, error) { return d.Grow(o) })
}

// TrimPool gives what nobody uses back to the host.
func (rt *Runtime) TrimPool() (Trimmed, error) {
	return withPool(rt, (*devmapper.Driver).Trim)
}

// CheckPool reads all of the pool's metadata and mends nothing.
func (rt *Runtime) CheckPool() (PoolReport, error) {
	return withPool(rt, (*devmapper.Driver).Check)
}

// RepairPool brings a pool back that the kernel has made read-only; nothing may be in use.
func (rt *Runtime) RepairPool() error {
	_, err := withPool(rt, func(d *devmapper.Driver) (struct{}, error) { return struct{}{}, d.Repair() })
	return err
}

// RenewPool gives the pool's clock its time back; nothing may be in use.
func (rt *Runtime) RenewPool() error {
	_, err := withPool(rt, func(d *devmapper.Driver) (struct{}, error) { return struct{}{}, d.Renew() })
	return err
}

// DestroyPool removes the pool. It refuses while a container is in it, and while images
// are unless force is set: then their records go first, so that none is listed that is
// not there.
func (rt *Runtime) DestroyPool(force bool) error {
	storageDir, err := rt.storageDir()
	if err != nil {
		return err
	}
	d, err := rt.pool()
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.Status(); errors.Is(err, devmapper.ErrNoPool) {
		return d.Destroy() // perhaps there is half of one
	}
	may := func(names []string) error {
		if len(names) > 0 && !force {
			return fmt.Errorf("pool %s: %w: it has the images %s; remove them first, or say --force", storageDir, devmapper.ErrInUse, strings.Join(names, ", "))
		}
		return d.Unused() // by containers: before the first image is forgotten
	}
	return image.Open(storageDir).Forget(driverDevmapper, may, d.Destroy)
}

// watchPool has the pool of a container grow while a foreground run waits for its program:
// without it only starts would see that the pool fills. A short program never comes to
// that, and does not pay for it. The watch has ended when enough returns.
func (rt *Runtime) watchPool(rec *state.Record) (enough func()) {
	if rec.Storage.Driver != driverDevmapper {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	timer := time.AfterFunc(time.Second, func() {
		defer close(done)
		d, err := rt.devmapper(rec.Storage.Storage)
		if err == nil {
			defer d.Close()
			err = d.Watch(ctx)
		}
		if err != nil {
			rt.Warn("the pool is not watched: " + err.Error())
		}
	})
	return func() {
		cancel()
		if !timer.Stop() {
			<-done // it may be growing the pool
		}
	}
}
