// Package overlay is the storage driver for kernels without dm-thin: layers are
// directories, a container's root is an overlay mount on top of them.
//
// Below --storage it owns overlay/:
//
//	layers/ID/fs         a sealed layer's own files, in overlayfs's words (trusted.overlay.*)
//	layers/ID/lower      the ids below it, nearest first, one a line
//	layers/ID/chain      its OCI chain id, if it has one
//	layers/new-ID        a layer being written; its writer holds a lock on the directory
//	layers/del-ID        a layer being removed; its remover holds a lock on the directory
//	containers/NAME/     upper and work of one container; the claim names the directory
//	containers/NAME/owner  its layer and its state directory
//	lock                 held while one of the above appears or is judged dead
//
// The mount is made by fsopen and never enters a mount table: it is gone with the last
// descriptor or namespace that has it, whoever dies. What stays is the container's
// directory, and the claim names that. Quotas are not its business: SizeBytes is
// refused, since nothing here could hold a container to it.
package overlay

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// Name is what Claim.Driver says.
const Name = "overlay"

// ErrNoLayer is returned for a layer that does not exist.
var ErrNoLayer = errors.New("no such layer")

// Driver keeps layers and containers below Storage/overlay. The zero of the rest is
// right for root.
type Driver struct {
	Storage string // --storage, absolute
	// UserXattr: we are root of a user namespace only, where trusted.* cannot be written
	// and overlayfs keeps its marks in user.overlay.* (Linux 5.11). A storage is used
	// one way or the other, never both.
	UserXattr bool
	// StateRoot has one directory per container, by its id (--root): a container's
	// directory here holds as long as that one. Without, GC's live alone tells.
	StateRoot string
}

func (d Driver) path(elem ...string) string {
	return filepath.Join(append([]string{d.Storage, "overlay"}, elem...)...)
}

// Prepare makes an overlay of the layer's chain and a directory of the container's own.
func (d Driver) Prepare(req storage.Request, save func(storage.Claim) error) (storage.Source, error) {
	if req.SizeBytes != 0 {
		return storage.Source{}, fmt.Errorf("image %s: the overlay driver cannot limit a container's disk; leave --rootfs-size out or use the devmapper driver", req.Image)
	}
	lower, err := d.openChain(req.Layer)
	if err != nil {
		return storage.Source{}, fmt.Errorf("image %s: %w", req.Image, err)
	}
	defer closeAll(lower)
	dir := d.path("containers", newID())
	if err := save(storage.Claim{Driver: Name, Storage: d.Storage, Image: req.Image, Layer: req.Layer, Dir: dir}); err != nil {
		return storage.Source{}, err
	}
	if err := d.makeOwned(dir, req); err != nil {
		return storage.Source{}, err
	}
	mnt, err := d.mountOn(dir, "upper", lower)
	if err != nil {
		return storage.Source{}, err
	}
	return storage.Source{Mount: mnt}, nil
}

// mountOn makes an upper of that name and a work directory in dir, and mounts them on top
// of lower, whose first is the uppermost.
func (d Driver) mountOn(dir, name string, lower []*os.File) (*os.File, error) {
	upper, work := filepath.Join(dir, name), filepath.Join(dir, "work")
	// The root of an overlay has the upper directory's owner, mode and times.
	if err := mkdirLike(upper, lower[0]); err != nil {
		return nil, err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return nil, err
	}
	return d.mount(lower, upper, work)
}

// mkdirLike makes a directory with the attributes of another.
func mkdirLike(path string, like *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(like.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", like.Name(), err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(path, st.Mode&0o7777); err != nil { // os.Chmod has other words for the upper three bits
		return fmt.Errorf("chmod %s: %w", path, err)
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, 0); err != nil {
		return fmt.Errorf("times of %s: %w", path, err)
	}
	return nil
}

// Remove takes the container's directory away; the mount went with its last user.
func (d Driver) Remove(c storage.Claim) error {
	if c.Driver == Name && c.Dir == "" {
		return nil
	}
	name, err := d.container(c)
	if err != nil {
		return err
	}
	return d.removeTree("containers", name)
}

// container is the name of a claim's directory below containers. A claim is a file that
// somebody may have edited: it names nothing else.
func (d Driver) container(c storage.Claim) (name string, err error) {
	if c.Driver != Name {
		return "", fmt.Errorf("the claim is of the %q driver, not of overlay", c.Driver)
	}
	name = filepath.Base(c.Dir)
	if c.Dir != d.path("containers", name) || !isID(name) {
		return "", fmt.Errorf("claim names %s, which is no container's directory below %s", c.Dir, d.path("containers"))
	}
	return name, nil
}

// openChain opens the fs directories of a layer and of all below it, uppermost first.
func (d Driver) openChain(id string) (list []*os.File, err error) {
	defer func() {
		if err != nil {
			closeAll(list)
		}
	}()
	chain, err := d.chain(id)
	if err != nil {
		return nil, err
	}
	for _, id := range chain {
		path := d.path("layers", id, "fs")
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return list, fmt.Errorf("layer %s below %s: %w", id, d.path("layers"), ErrNoLayer)
		}
		if err != nil {
			return list, fmt.Errorf("layer %s: %w", path, err)
		}
		list = append(list, os.NewFile(uintptr(fd), path))
	}
	return list, nil
}

// chain reads the ids of a layer and of all below it, uppermost first.
func (d Driver) chain(id string) ([]string, error) {
	if !isID(id) {
		return nil, fmt.Errorf("layer %q: %w: an overlay layer's id has 32 hex digits", id, ErrNoLayer)
	}
	below, err := d.below(id)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("layer %s below %s: %w", id, d.path("layers"), ErrNoLayer)
	}
	return append([]string{id}, below...), err
}

// eachChain shows the chain of each sealed layer; what is removed meanwhile is passed over.
func (d Driver) eachChain(see func(chain []string) error) error {
	names, err := list(d.path("layers"))
	if err != nil {
		return err
	}
	for _, id := range names {
		if !isID(id) {
			continue
		}
		chain, err := d.chain(id)
		if errors.Is(err, ErrNoLayer) {
			continue
		}
		if err == nil {
			err = see(chain)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// below reads what a directory of layers says it stands on.
func (d Driver) below(name string) ([]string, error) {
	path := d.path("layers", name, "lower")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	ids := strings.Fields(string(data))
	for _, id := range ids {
		if !isID(id) {
			return nil, fmt.Errorf("%s: damaged: %q is no layer's id", path, id)
		}
	}
	return ids, nil
}

func closeAll(list []*os.File) {
	for _, f := range list {
		f.Close()
	}
}

// newID is 128 random bits: nobody has to ask whether a name is taken. Not crypto/rand,
// whose packages initialise in every start. getrandom(2) of so few bytes neither fails
// nor stops half-way, once the kernel's pool is ready.
func newID() string {
	var b [16]byte
	if _, err := unix.Getrandom(b[:], 0); err != nil {
		panic("getrandom: " + err.Error())
	}
	return hex.EncodeToString(b[:])
}

func isID(s string) bool {
	return len(s) == 32 && strings.Trim(s, "0123456789abcdef") == ""
}
