// Package dir is the storage driver that stores nothing: the container's root is a
// directory of the bundle, as in runc. Whoever made it removes it.
package dir

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// Name is what Claim.Driver says.
const Name = "dir"

// Driver has no state.
type Driver struct{}

// Prepare clones the tree at req.Path, with the mounts below it, out of the mount
// table: open_tree(2). Managers mount the root file system themselves and hand over
// its path, so a symlink in it is theirs and is followed, as runc does.
func (Driver) Prepare(req storage.Request, save func(storage.Claim) error) (storage.Source, error) {
	if !filepath.IsAbs(req.Path) {
		return storage.Source{}, fmt.Errorf("rootfs %q: not an absolute path", req.Path)
	}
	if err := save(storage.Claim{Driver: Name, Dir: req.Path}); err != nil {
		return storage.Source{}, err
	}
	// open_tree takes a file as well; pivot_root would complain much later.
	dir, err := unix.Open(req.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return storage.Source{}, fmt.Errorf("rootfs %s: %w", req.Path, err)
	}
	defer unix.Close(dir)
	fd, err := unix.OpenTree(dir, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return storage.Source{}, fmt.Errorf("rootfs %s: open_tree: %w", req.Path, err)
	}
	return storage.Source{Mount: os.NewFile(uintptr(fd), req.Path)}, nil
}

// Remove does nothing: the directory was here before the container.
func (Driver) Remove(storage.Claim) error { return nil }
