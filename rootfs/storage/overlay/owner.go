package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/proc"
)

// owner is what a container's directory says about the one it was made for. It lies here
// and not only in the container's record, because containerd, Podman and a shell each
// bring a state directory of their own, and a collector reads the records of one.
type owner struct {
	layer string
	state string // the container's directory below --root
	inode uint64 // of it: a later container of that id has another
	boot  string // in which it was made; "": an older thinrun did not say
}

// makeOwned makes a container's directory with its owner in it, before GC can look.
func (d Driver) makeOwned(dir string, req storage.Request) error {
	unlock, err := d.lock(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	err = os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(dir), 0o700); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if err != nil || d.StateRoot == "" {
		return err
	}
	state := filepath.Join(d.StateRoot, req.ContainerID)
	inode, err := inodeOf(state)
	if err != nil {
		return err
	}
	boot, err := proc.BootID()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "owner"), fmt.Appendf(nil, "%s %d %q %s\n", req.Layer, inode, state, boot), 0o600)
}

// living is a container's owner while its state directory is there; when in doubt it is.
func (d Driver) living(name string) (o owner, is bool) {
	text, err := os.ReadFile(d.path("containers", name, "owner"))
	if err != nil {
		return o, !errors.Is(err, os.ErrNotExist)
	}
	if n, _ := fmt.Sscanf(string(text), "%s %d %q %s\n", &o.layer, &o.inode, &o.state, &o.boot); n < 3 {
		return o, false // cut short: its create was killed, or the power went
	}
	now, err := inodeOf(o.state)
	if err != nil {
		return o, !errors.Is(err, unix.ENOENT)
	}
	return o, now == o.inode && !o.beforeBoot()
}

// beforeBoot: a state directory in memory is of this boot, and inodes are numbered anew there:
// after each boot the first containers have the same ones.
func (o *owner) beforeBoot() bool {
	var fs unix.Statfs_t
	if o.boot == "" || unix.Statfs(o.state, &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
		return false
	}
	boot, err := proc.BootID()
	return err == nil && boot != o.boot
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return st.Ino, nil
}

// Users are the state directories of the containers on a layer, of any --root.
func (d Driver) Users(layer string) (users []string, err error) {
	names, err := list(d.path("containers"))
	for _, name := range names {
		if o, is := d.living(name); is && o.layer == layer {
			users = append(users, o.state)
		}
	}
	return users, err
}
