// Package storage says what a storage driver is. A driver answers with a Source; it
// never mounts into a mount table, so nothing of it can be left there.
package storage

import "os"

// Request asks for a container's root.
type Request struct {
	ContainerID string
	Image       string // name of an image; "" for the dir driver
	Layer       string // its top layer, as Layer.Commit named it; the caller looked it up
	Path        string // dir driver: root.path
	SizeBytes   uint64 // --rootfs-size; 0: the image's own
}

// Claim names every resource of one container's root. It is saved in the container's
// record before any of them is made, and Remove works from it alone.
type Claim struct {
	Driver  string `json:"driver"`            // devmapper, overlay, dir
	Storage string `json:"storage,omitempty"` // --storage at create time
	Image   string `json:"image,omitempty"`
	Layer   string `json:"layer,omitempty"`  // top layer's chain id, or what the driver calls it
	Pool    string `json:"pool,omitempty"`   // dm name of the pool
	ThinID  uint32 `json:"thinId,omitempty"` // 24-bit id in the pool
	Device  string `json:"device,omitempty"` // dm name of the snapshot
	Dir     string `json:"dir,omitempty"`    // overlay: upper and work; dir: root.path
	Key     string `json:"key,omitempty"`    // random: tells this use of a reused name from a later one
}

// Source is a container's root, as a detached mount (fsmount or open_tree): a mount
// that is in no mount table and goes with its last descriptor.
type Source struct {
	Mount *os.File
	// Device is the block device below it ("/dev/dm-3"), if any.
	Device string
}

// Driver makes and removes container roots.
type Driver interface {
	// Prepare makes the root. It calls save with the full claim before each thing it
	// acquires (so more than once when a random id was taken); when save fails, Prepare
	// stops. What it leaves on failure, Remove(claim) takes away.
	Prepare(req Request, save func(Claim) error) (Source, error)
	// Remove gives everything in the claim back. It is idempotent and content to find
	// nothing. What it cannot remove it names in the error.
	Remove(Claim) error
}

// LayerStore is the other half of a driver that keeps images: layers are trees that
// are written once, sealed, and then the origin of snapshots.
type LayerStore interface {
	// NewLayer starts a layer on top of parent ("" = an empty file system). Nothing of it
	// is an image until Commit; a half-made layer is garbage that GC takes. A layer that is
	// only read and then aborted is a view of its parent.
	NewLayer(parent string) (Layer, error)
	// Fork starts a layer that holds what a container's root holds now, running or not; its
	// parent is the container's layer. While it is taken nobody writes to the root.
	Fork(Claim) (Layer, error)
	// Layers lists the sealed layers.
	Layers() ([]LayerInfo, error)
	// RemoveLayer gives a sealed layer back; the caller knows that nobody uses it.
	RemoveLayer(id string) error
}

// LayerInfo is a sealed layer.
type LayerInfo struct {
	ID     string
	Parent string // "" at the bottom
	Chain  string // as Commit was given it
}

// Layer is being written.
type Layer interface {
	// Root is a directory descriptor of the layer's whole tree, parent's files included.
	Root() *os.File
	// Room is how many bytes may be written to the tree before it is asked again. It counts
	// what was written, and makes room where it can; an error says that more would take what
	// those need who are running.
	Room() (bytes uint64, err error)
	// Commit makes all of it durable and seals it; the id is what Prepare and NewLayer take.
	// chain is the layer's OCI chain id ("sha256:..."), by which another image finds and
	// shares it; "" for a layer that nobody will look for. It is part of the layer's own
	// record, so a sealed layer and its chain id cannot get lost from each other.
	Commit(chain string) (id string, err error)
	// Abort throws it away. After Commit it does nothing.
	Abort() error
}

// Meter is a driver that knows how much space things take.
type Meter interface {
	// DisksOf measures the disks of containers, in the order of their claims. nil is a disk
	// of which it cannot tell: of another driver, or coming or going just now. What all have
	// in common is paid once; the rest of the cost is in what each has written.
	DisksOf([]Claim) ([]*Disk, error)
	// Exclusive is, per group of layers, how many bytes would come back if all of the group
	// were removed and nothing else. It reads the metadata of everything there is.
	Exclusive(groups map[string][]string) (map[string]uint64, error)
}

// Disk is a container's root in bytes.
type Disk struct {
	Size uint64 // the most that it may hold; 0: no limit of its own
	Used uint64 // its own: not shared with its image
}
