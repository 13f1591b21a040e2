package rootfs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Seal hides and write-protects what the container may not use, then the root itself,
// and gives all descriptors back. It is the last step below the root.
func (r *Root) Seal() error {
	defer r.Close()
	if err := r.mask(); err != nil {
		return err
	}
	for _, path := range r.cfg.ReadonlyPaths {
		if err := r.protect(path); err != nil {
			return fmt.Errorf("read-only path %q: %w", path, err)
		}
	}
	for _, mount := range r.late {
		if err := setattr(mount, false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make a tmpfs read-only: %w", err)
		}
	}
	var last unix.MountAttr
	if r.cfg.Readonly {
		last.Attr_set = unix.MOUNT_ATTR_RDONLY
	}
	switch kind := r.cfg.Propagation &^ unix.MS_REC; kind {
	case unix.MS_SHARED, unix.MS_UNBINDABLE: // not before: see propagation
		last.Propagation = kind
	}
	if err := setattr(r.fd, false, last); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// mask covers files with the null device and directories with one empty read-only
// tmpfs. A masked path that is a symlink masks what it leads to, inside the root.
//
// Both covers are clones of a mount that must be attached to be cloned (before Linux
// 6.15), so the first cover of a kind is the original and the others are its clones.
func (r *Root) mask() error {
	null, empty := r.null, -1
	r.null = -1
	nullUsed, emptyUsed := false, false
	defer func() { closeAll(null, empty) }()
	for _, path := range r.cfg.MaskedPaths {
		target, err := r.existing(path)
		if target < 0 && err == nil {
			continue
		}
		if err == nil {
			var st unix.Stat_t
			if st, err = fstat(target); err == nil {
				if isDir(st) {
					if empty < 0 {
						empty, err = emptyDir()
					}
					if err == nil {
						err = cover(empty, target, &emptyUsed)
					}
				} else {
					err = cover(null, target, &nullUsed)
				}
			}
			unix.Close(target)
		}
		if err != nil {
			return fmt.Errorf("masked path %q: %w", path, err)
		}
	}
	return nil
}

// cover attaches the mount, or once it is attached a clone of it.
func cover(mount, target int, used *bool) error {
	if !*used {
		*used = true
		return moveOnto(mount, target)
	}
	clone, err := unix.OpenTree(mount, "", unix.OPEN_TREE_CLONE|unix.O_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(clone)
	return moveOnto(clone, target)
}

// emptyDir is a file system with nothing in it and no way to put something there.
func emptyDir() (int, error) {
	return newFS("tmpfs", "tmpfs", []option{"size=1", "nr_inodes=1", "mode=0555"}, unix.MS_RDONLY,
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// protect puts a read-only clone of what is at path over it; mounts below it keep their
// own flags.
func (r *Root) protect(path string) error {
	target, err := r.existing(path)
	if target < 0 {
		return err
	}
	defer unix.Close(target)
	clone, err := unix.OpenTree(target, "", unix.OPEN_TREE_CLONE|unix.O_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(clone)
	if err := setattr(clone, false, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	return moveOnto(clone, target)
}

// existing opens a path to be covered; -1 and no error if there is nothing to cover.
func (r *Root) existing(path string) (int, error) {
	fd, err := r.open(path, unix.O_PATH)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	return fd, nil
}
