package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/durable"
	"thinrun/rootfs/storage/flock"
)

type layer struct {
	d    Driver
	id   string
	dir  *os.File // layers/new-ID, locked; nil when over
	root *os.File
}

// NewLayer starts a layer. Until Commit it is layers/new-ID with a lock on it.
func (d Driver) NewLayer(parent string) (storage.Layer, error) {
	_, _ = d.finish(unix.LOCK_EX | unix.LOCK_NB) // the next command tries again
	return d.newLayer(parent, nil)
}

// newLayer starts a layer that holds what a container's upper directory holds, if given.
func (d Driver) newLayer(parent string, upper *os.File) (_ storage.Layer, err error) {
	var chain []string
	if parent != "" {
		if chain, err = d.chain(parent); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(d.path("layers"), 0o700); err != nil {
		return nil, err
	}
	l := &layer{d: d, id: newID()}
	if l.dir, err = d.makeLocked("new-"+l.id, chain); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.Abort()
		}
	}()
	var lower []*os.File
	if parent != "" {
		if lower, err = d.openChain(parent); err != nil {
			return nil, err
		}
		defer closeAll(lower)
	}
	if err := d.probeXattr(l.dir); err != nil {
		return nil, err
	}
	fs := filepath.Join(l.dir.Name(), "fs")
	if parent == "" {
		if err := os.Mkdir(fs, 0o755); err != nil {
			return nil, err
		}
		if err := os.Chmod(fs, 0o755); err != nil { // whatever the umask
			return nil, err
		}
		if l.root, err = os.Open(fs); err != nil {
			return nil, err
		}
		return l, nil
	}
	work := filepath.Join(l.dir.Name(), "work")
	if err := mkdirLike(fs, lower[0]); err != nil {
		return nil, err
	}
	if upper != nil {
		if err := forkTree(l.dir, upper); err != nil {
			return nil, err
		}
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		return nil, err
	}
	if l.root, err = d.mount(lower, fs, work); err != nil {
		return nil, err
	}
	return l, nil
}

// makeLocked makes a directory below layers, takes the lock on it and says in it what it
// stands on, before GC can look: finish holds the big lock alone while it judges.
func (d Driver) makeLocked(name string, chain []string) (*os.File, error) {
	unlock, err := d.lock(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer unlock()
	path := d.path("layers", name)
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = flock.Take(dir, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = os.WriteFile(filepath.Join(path, "lower"), []byte(strings.Join(chain, "\n")), 0o600)
	}
	if err != nil {
		dir.Close() // GC takes the directory
		return nil, err
	}
	return dir, nil
}

// probeXattr says early, and not in the middle of a container's life, that a file
// system cannot hold overlayfs's marks: without them a removed and re-made directory
// shows its old content again.
func (d Driver) probeXattr(dir *os.File) error {
	attr := "trusted.overlay.thinrun"
	if d.UserXattr {
		attr = "user.overlay.thinrun"
	}
	err := unix.Fsetxattr(int(dir.Fd()), attr, []byte("y"), 0)
	if err == nil {
		err = unix.Fremovexattr(int(dir.Fd()), attr)
	}
	if err == nil {
		return nil
	}
	var fs unix.Statfs_t
	if unix.Fstatfs(int(dir.Fd()), &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("%s is itself on an overlay, which cannot carry another: put --storage on ext4, xfs or tmpfs", filepath.Dir(dir.Name()))
	}
	if errors.Is(err, unix.EPERM) && !d.UserXattr {
		return fmt.Errorf("%s: overlay layers need extended attribute %s: %w: run as root", filepath.Dir(dir.Name()), attr, err)
	}
	return fmt.Errorf("%s: overlay layers need extended attribute %s: %w: put --storage on ext4, xfs or tmpfs", filepath.Dir(dir.Name()), attr, err)
}

// Root is the layer's tree, its parent's files included.
func (l *layer) Root() *os.File { return l.root }

// Commit makes the layer durable: its files first, then its name.
func (l *layer) Commit(chain string) (string, error) {
	if l.dir == nil {
		return "", errors.New("layer: already committed or aborted")
	}
	// The overlay's mount, if any, has to be off the upper directory before it is a lower.
	if err := l.root.Close(); err != nil {
		return "", fmt.Errorf("layer %s: %w", l.id, err)
	}
	name := "new-" + l.id
	if err := removeBelow(int(l.dir.Fd()), l.dir.Name(), "work"); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(l.dir.Name(), "chain"), []byte(chain), 0o600); err != nil {
		return "", err
	}
	if err := unix.Syncfs(int(l.dir.Fd())); err != nil {
		return "", fmt.Errorf("syncfs %s: %w", l.dir.Name(), err)
	}
	if err := os.Rename(l.d.path("layers", name), l.d.path("layers", l.id)); err != nil {
		return "", err
	}
	l.dir.Close()
	l.dir = nil
	if err := durable.SyncDir(l.d.path("layers")); err != nil {
		return "", err
	}
	return l.id, nil
}

// Abort removes what there is.
func (l *layer) Abort() error {
	if l.dir == nil {
		return nil
	}
	if l.root != nil {
		l.root.Close()
	}
	err := l.d.removeTree("layers", "new-"+l.id)
	l.dir.Close() // and with it the lock, so that GC does not meet us
	l.dir = nil
	return err
}

// Layers lists the sealed layers.
func (d Driver) Layers() (infos []storage.LayerInfo, err error) {
	err = d.eachChain(func(layers []string) error {
		info := storage.LayerInfo{ID: layers[0]}
		if len(layers) > 1 {
			info.Parent = layers[1]
		}
		chain, err := os.ReadFile(d.path("layers", info.ID, "chain"))
		if err != nil && !errors.Is(err, os.ErrNotExist) { // layers of before have none
			return err
		}
		info.Chain = string(chain)
		infos = append(infos, info)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return infos, nil
}

// RemoveLayer removes a sealed layer. One that is not there is content to be gone.
func (d Driver) RemoveLayer(id string) error {
	if !isID(id) {
		return fmt.Errorf("layer %q: %w: an overlay layer's id has 32 hex digits", id, ErrNoLayer)
	}
	// Renamed first: half a layer must not pass for one.
	err := os.Rename(d.path("layers", id), d.path("layers", "del-"+id))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil {
		if err := durable.SyncDir(d.path("layers")); err != nil {
			return err
		}
	}
	_, err = d.removeLocked("layers", "del-"+id)
	return err
}

// removeLocked removes overlay/kind/name under a lock on it: two that remove the same tree
// would stumble over each other.
func (d Driver) removeLocked(kind, name string) (was bool, err error) {
	dir, err := os.Open(d.path(kind, name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer dir.Close()
	if err := flock.Take(dir, unix.LOCK_EX); err != nil {
		return true, fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	return true, d.removeTree(kind, name)
}

// lock takes overlay/lock. The kernel drops it when its holder dies.
func (d Driver) lock(how int) (unlock func(), err error) {
	f, err := os.OpenFile(d.path("lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock.Gated(f, how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}
