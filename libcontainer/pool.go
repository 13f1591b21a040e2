package libcontainer

import (
	"thinrun/rootfs/storage/devmapper"
)

// PoolOptions are the flags of pool create.
type PoolOptions = devmapper.PoolOptions

// PoolStatus is what pool status prints.
type PoolStatus = devmapper.Status

func (rt *Runtime) pool() (*devmapper.Driver, error) {
	return devmapper.Open(rt.Storage, devmapper.Options{StateRoot: rt.stateRoot()})
}

// CreatePool makes the thin pool below --storage, which the first image would also do.
func (rt *Runtime) CreatePool(o PoolOptions) error {
	d, err := rt.pool()
	if err != nil {
		return err
	}
	defer d.Close()
	return d.CreatePool(o)
}

// PoolStatus asks the pool how full and how old it is.
func (rt *Runtime) PoolStatus() (PoolStatus, error) {
	d, err := rt.pool()
	if err != nil {
		return PoolStatus{}, err
	}
	defer d.Close()
	return d.Status()
}

// DestroyPool removes the pool with all its images; it refuses while it is in use.
func (rt *Runtime) DestroyPool() error {
	d, err := rt.pool()
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Destroy()
}
