package overlay

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/flock"
)

// GC gives back what dead invocations left: half-made and half-removed layers, and
// directories of containers that nobody claims. It returns what it took. A sealed layer
// is an image's business.
//
// live is asked about a container's directory without a living owner, in the form that
// Claim.Dir has. It is asked after the directory has been seen, so it must look at the
// records then, not remember them: a record is written before the directory it names.
// When in doubt it says yes.
func (d Driver) GC(live func(string) bool) (gone []string, err error) {
	halves, err := d.finish(unix.LOCK_EX)
	gone, failed := halves, []error{err}
	orphans, err := d.orphans(live)
	failed = append(failed, err)
	for _, name := range orphans {
		was, err := d.removeLocked("containers", name)
		failed = append(failed, err)
		if was && err == nil {
			gone = append(gone, d.path("containers", name))
		}
	}
	return gone, errors.Join(failed...)
}

// orphans are the directories of containers that nobody claims. Who is about to write an
// owner holds the lock; an orphan stays one without it.
func (d Driver) orphans(live func(string) bool) (orphans []string, err error) {
	names, err := list(d.path("containers"))
	if err != nil || len(names) == 0 {
		return nil, err
	}
	unlock, err := d.lock(unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, name := range names {
		if !isID(name) {
			continue
		}
		if _, owned := d.living(name); !owned && !live(d.path("containers", name)) {
			orphans = append(orphans, name)
		}
	}
	return orphans, nil
}

// finish takes away the halves of layers whose makers or removers are dead. how is how it
// takes the lock: each new layer does it in passing, and waits for nobody.
func (d Driver) finish(how int) (gone []string, err error) {
	names, err := list(d.path("layers"))
	names = slices.DeleteFunc(names, func(name string) bool { return isID(name) })
	if err != nil || len(names) == 0 {
		return nil, err
	}
	dead, err := d.dead(names, how)
	failed := []error{err}
	for _, name := range dead {
		was, err := d.removeLocked("layers", name)
		failed = append(failed, err)
		if was && err == nil {
			gone = append(gone, d.path("layers", name))
		}
	}
	return gone, errors.Join(failed...)
}

// dead are those of the halves on which nobody has a lock. Between making a directory and
// locking it one has the big lock, shared.
func (d Driver) dead(names []string, how int) (dead []string, err error) {
	unlock, err := d.lock(how)
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, name := range names {
		_, id, _ := strings.Cut(name, "-")
		if (name == "new-"+id || name == "del-"+id) && isID(id) && !d.held(name) {
			dead = append(dead, name)
		}
	}
	return dead, nil
}

// held tells whether a layer's maker or remover lives.
func (d Driver) held(name string) bool {
	dir, err := os.Open(d.path("layers", name))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	defer dir.Close()
	return flock.Take(dir, unix.LOCK_EX|unix.LOCK_NB) != nil
}

func list(path string) ([]string, error) {
	dir, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}
