package overlay

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// GC gives back what dead invocations left: half-made and half-removed layers,
// sealed layers that no image has, and directories of containers that nobody claims.
// It returns what it took.
//
// live is asked about a container's directory without a living owner, in the form that
// Claim.Dir has; keep about a sealed layer's id on which no living writer stands. Both are asked after the thing has been seen, so they must
// look at the records then, not remember them: a record is written before the
// directory it names. When in doubt they say yes.
func (d Driver) GC(live, keep func(string) bool) (gone []string, err error) {
	var failed []error
	dead, err := d.deadLayers(keep)
	if err != nil {
		failed = append(failed, err)
	}
	take := func(kind, name string) {
		if err := d.removeTree(kind, name); err != nil {
			failed = append(failed, err)
			return
		}
		gone = append(gone, d.path(kind, name))
	}
	for _, name := range dead {
		take("layers", name)
	}
	orphans, err := d.orphans(live)
	if err != nil {
		failed = append(failed, err)
	}
	for _, name := range orphans {
		take("containers", name)
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

// deadLayers renames dead layers to del-ID, so that the slow part needs no lock.
func (d Driver) deadLayers(keep func(string) bool) (dead []string, err error) {
	names, err := list(d.path("layers"))
	if err != nil || len(names) == 0 {
		return nil, err
	}
	unlock, err := d.lock(unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// A writer's parents are not an image yet: a pull makes one layer after the other.
	writing := map[string]bool{}
	for _, name := range names {
		if id, half := strings.CutPrefix(name, "new-"); !half || !isID(id) || !d.held(name) {
			continue
		}
		writing[name] = true
		below, err := d.below(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // committed or aborted meanwhile
			return nil, err
		}
		for _, id := range below {
			writing[id] = true
		}
	}
	for _, name := range names {
		id, half := strings.CutPrefix(name, "new-")
		switch {
		case strings.HasPrefix(name, "del-"):
			dead = append(dead, name)
			continue
		case !isID(id) || writing[name] || !half && keep(id):
			continue
		}
		err := os.Rename(d.path("layers", name), d.path("layers", "del-"+id))
		if errors.Is(err, os.ErrNotExist) { // committed or removed while we looked
			continue
		}
		if err != nil {
			return dead, err
		}
		dead = append(dead, "del-"+id)
	}
	return dead, nil
}

// held tells whether a layer's writer lives.
func (d Driver) held(name string) bool {
	dir, err := os.Open(d.path("layers", name))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	defer dir.Close()
	return flock(dir, unix.LOCK_EX|unix.LOCK_NB) != nil
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
