// Package devmapper gives each container a snapshot in a device-mapper thin pool, and
// keeps image layers as sealed snapshots in the same pool.
//
// The pool is the truth: it lists its thin devices, and each of them is referenced by a
// layer record or by a claim, or it is garbage. The files beside the pool are only an
// index, so starting a container needs no fsync of ours and no process has to watch.
//
//	<storage>/pool/pool         what the pool is made of; written when it is made or grown
//	<storage>/pool/lock         flock: shared to make and remove, exclusive to activate, grow, collect
//	<storage>/pool/meta, data   the pool's two files, unless devices were given
//	<storage>/pool/layers/ID    a sealed layer (durable before its claim is dropped)
//	<storage>/pool/claims/ID    a container's snapshot
//	<storage>/pool/claims/open/ID  something being made; its maker holds a flock on it
//
// Claims lie beside the pool and not below --root: containerd, Podman and a shell each
// bring a state directory of their own, and to each of them the others' snapshots would
// look like garbage. Nothing in a claim must survive a reboot (a claim of another boot is
// dead), so there is no fsync there either.
//
// The package never mounts into a mount table and starts no process.
package devmapper

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
)

// Why a pool takes no new work. Running containers go on with all of them.
var (
	ErrUnsupported = dm.ErrUnsupported // the kernel has no device-mapper or no thin-pool
	ErrNoPool      = errors.New("there is no pool yet")
	ErrFull        = errors.New("the pool's data is nearly full")
	ErrMetaFull    = errors.New("the pool's metadata is nearly full")
	ErrPromised    = errors.New("the pool's space is promised") // strict admission
	ErrReadOnly    = errors.New("the pool is read-only")
	ErrNeedsCheck  = errors.New("the pool needs a check")
	ErrWornOut     = errors.New("the pool is worn out")                  // its 24-bit clock of snapshots has nearly run through
	ErrForeign     = errors.New("the pool is not the one on record")     // another fingerprint
	ErrTruncated   = errors.New("a pool file is shorter than on record") // nothing is touched then
	ErrInUse       = errors.New("the pool is in use")
)

// Options of a Driver. The zero value is good.
type Options struct {
	// StateRoot has one directory per container, by its id (--root). A claim holds as long
	// as the directory that it was made for; without one, as long as its maker lives.
	StateRoot string
	// Pool is what the first layer makes when there is no pool.
	Pool PoolOptions

	// Guard is called before a device is suspended: a container's for a fork, the pool's to
	// grow or to be checked. It starts what resumes the device (ResumeSuspended) if this
	// process ends before it has called done. What it starts inherits no descriptor of ours:
	// the locks are theirs. nil: the next command that looks does it, and whoever writes to
	// the device waits until then.
	Guard func(device string) (done func(), err error)
	// Warn takes one line for people about a pool that will need them; nil: nobody.
	Warn func(line string)

	// RemoveWait bounds the wait for the last user of a device that is to go; 0: 2 s.
	RemoveWait time.Duration

	// Step is called before each step, NewID instead of a random id: for tests, which
	// die between steps and force collisions.
	Step  func(name string)
	NewID func() uint32
}

// Driver is the pool below one storage directory. Its methods may be called from many
// goroutines and many processes at once.
type Driver struct {
	storage string
	dir     string // <storage>/pool
	opts    Options
	nodes   devnode.Nodes

	mu      sync.Mutex
	control *dm.Control
	warned  map[string]bool
	sealed  map[uint32]seen // by thin id
}

// Open touches nothing: a pool that is not active is activated by the first call that
// needs it, one that is not there is made by the first layer.
func Open(storageDir string, opts Options) (*Driver, error) {
	dir, err := filepath.Abs(storageDir)
	if err != nil {
		return nil, fmt.Errorf("storage %q: %w", storageDir, err)
	}
	return &Driver{storage: dir, dir: filepath.Join(dir, "pool"), opts: opts}, nil
}

// Close gives the descriptors back. Nothing else ends: the pool stays active.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.nodes.Close()
	if d.control != nil {
		err = errors.Join(d.control.Close(), err)
		d.control = nil
	}
	return err
}

// Supported tells in one line why this kernel cannot do it, or nil. It may load modules.
func Supported() error {
	var nodes devnode.Nodes
	defer nodes.Close()
	c, err := dm.Open(&nodes)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, target := range []string{"thin-pool", "thin"} {
		if _, err := c.TargetVersion(target); err != nil {
			return err
		}
	}
	return nil
}

func (d *Driver) dm() (*dm.Control, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.control == nil {
		c, err := dm.Open(&d.nodes)
		if err != nil {
			return nil, err
		}
		d.control = c
	}
	return d.control, nil
}

func (d *Driver) step(name string) {
	if d.opts.Step != nil {
		d.opts.Step(name)
	}
}

const maxID = 1<<24 - 1 // the kernel takes 0 to this

// newID is a random id from 1 to maxID-1.
func (d *Driver) newID() uint32 {
	if d.opts.NewID != nil {
		return d.opts.NewID()
	}
	return 1 + uint32(random()%(maxID-1))
}

func random() uint64 {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return binary.LittleEndian.Uint64(b[:])
}
