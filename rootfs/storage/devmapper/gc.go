package devmapper

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/thinmeta"
)

// cheapMany is how many unfinished claims a command looks at in passing: there are only
// as many as commands are at work, plus those that were killed. Which ones, chance says: a
// directory lists them in the same order each time, and the first may be those at work.
const cheapMany = 16

// Collected is what a collection did.
type Collected struct {
	Removed []uint32 `json:"removed"` // thin ids given back
	Busy    []uint32 `json:"busy"`    // garbage that somebody still has open
	Missing []string `json:"missing"` // layers whose thin id is not in the pool
}

// GC gives back all that nobody has a right to: every id in the pool that no layer and no
// living claim names. Snapshots of stopped containers are kept with their state. A pool
// that is not ready goes: who makes or destroys it has the lock alone until the end, so
// that one is dead.
func (d *Driver) GC() (Collected, error) {
	p, err := d.openAny(unix.LOCK_EX)
	if errors.Is(err, ErrNoPool) {
		lock, err := d.locked(unix.LOCK_EX)
		if errors.Is(err, ErrNoPool) {
			return Collected{}, nil
		}
		if err != nil {
			return Collected{}, err
		}
		defer lock.Close()
		return Collected{}, d.collectTemporary() // a killed CreatePool's first record
	}
	if err != nil {
		return Collected{}, err
	}
	defer p.leave()
	if !p.ready {
		return Collected{}, errors.Join(d.collectTemporary(), d.undo(p.made))
	}
	if err := p.activate(); err != nil {
		return Collected{}, err
	}
	thins, err := p.thins()
	if err != nil {
		return Collected{}, err
	}
	return p.collect(thins)
}

// CheapGC looks at no more than n unfinished claims and gives back those whose maker is
// dead. It makes nothing active and waits for nothing.
func (d *Driver) CheapGC(n int) error {
	p, err := d.open(unix.LOCK_SH)
	if errors.Is(err, ErrNoPool) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.leave()
	if err := p.look(unix.DM_NOFLUSH_FLAG); err != nil {
		if errors.Is(err, errInactive) {
			return nil // the next activation collects everything
		}
		return err
	}
	return d.cheapGC(p, n)
}

func (d *Driver) cheapGC(p *pool, n int) error {
	ids, err := claimIDs(d.openDir())
	if err != nil {
		return p.fail("%w", err)
	}
	var failed error
	from := 0
	if len(ids) > n {
		from = int(random() % uint64(len(ids)))
	}
	for i := range min(n, len(ids)) {
		failed = errors.Join(failed, p.finish(ids[(from+i)%len(ids)]))
	}
	return failed
}

// finish gives back what an unfinished claim of a dead maker names.
func (p *pool) finish(id uint32) error {
	path := p.openPath(id)
	f, r, err := p.lockClaim(path, unix.LOCK_EX|unix.LOCK_NB)
	if f == nil {
		return err
	}
	defer f.Close()
	if r.str("what") == "container" && alive(r) {
		return nil // its maker failed but lives, or its state is there: delete has it
	}
	if free, err := p.thawOrigin(r); !free || err != nil {
		return err
	}
	// A kept claim or a layer of the same id: this one was taken by mistake, or was not
	// yet dropped by a layer that is sealed, or by one that is not yet removed.
	if !exists(p.claimPath(id)) && !exists(p.layerPath(id)) {
		if err := p.giveBack(id, r, false); err != nil {
			return err
		}
	}
	// Its maker may have died over the layer's record, which nobody writes without the claim.
	for _, path := range []string{p.layerPath(id) + ".tmp", path} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.fail("%w", err)
		}
	}
	return nil
}

// collect compares the pool's ids with what has a right to them. The caller holds the
// lock alone, so the only ones at work are writers of layers, with their flocks.
func (p *pool) collect(thins []thinmeta.Thin) (c Collected, err error) {
	if err := p.collectTemporary(); err != nil {
		return c, err
	}
	inPool := map[uint32]bool{}
	for _, t := range thins {
		inPool[t.ID] = true
	}
	layers, err := p.layers() // any doubt here ends it: a layer must never be taken for garbage
	if err != nil {
		return c, err
	}
	for _, l := range layers {
		if !inPool[l.thin] {
			c.Missing = append(c.Missing, l.id())
		}
	}
	keep, dead, err := p.rights(layers)
	defer func() {
		for _, d := range dead {
			d.file.Close()
		}
	}()
	if err != nil {
		return c, err
	}
	garbage, err := p.garbage(thins, keep, dead)
	if err != nil {
		return c, err
	}
	for _, d := range dead {
		// The lock is ours alone, so no fork is at work.
		if err := p.thaw(d.record.str("origin")); err != nil {
			return c, err
		}
	}
	for id, r := range garbage {
		err := p.giveBack(id, r, false)
		switch {
		case errors.Is(err, unix.EBUSY):
			c.Busy = append(c.Busy, id)
		case err != nil:
			return c, err
		case inPool[id]:
			c.Removed = append(c.Removed, id)
		}
	}
	slices.Sort(c.Removed)
	slices.Sort(c.Busy)
	for _, d := range dead { // last: who comes after a kill needs what they say
		if slices.Contains(c.Busy, d.id) {
			continue
		}
		if e := os.Remove(d.path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, p.fail("%w", e))
		}
	}
	return c, err
}

// deadClaim is one whose maker is gone. The file has its lock.
type deadClaim struct {
	id     uint32
	path   string
	record record
	file   *os.File
}

// rights are the ids of layers and of living claims. Dead claims come locked, and with an
// error those up to it.
func (p *pool) rights(layers []layer) (keep map[uint32]bool, dead []deadClaim, err error) {
	keep = map[uint32]bool{}
	for _, l := range layers {
		keep[l.thin] = true
	}
	err = p.eachClaim(func(id uint32, path string, f *os.File, r record) error {
		switch {
		case f == nil: // somebody is at work on it
			keep[id] = true
		case r.str("what") == "container" && alive(r):
			keep[id] = true
			f.Close()
		default:
			dead = append(dead, deadClaim{id, path, r, f})
		}
		return nil
	})
	return keep, dead, err
}

// garbage is every id that is in the pool, a device or in a dead claim and has no right to
// it, with what its claim says.
func (p *pool) garbage(thins []thinmeta.Thin, keep map[uint32]bool, dead []deadClaim) (map[uint32]record, error) {
	devices, err := p.ctl.List()
	if err != nil {
		return nil, p.fail("%w", err)
	}
	ids := map[uint32]record{}
	for _, t := range thins {
		ids[t.ID] = nil
	}
	for _, dev := range devices {
		if id, ok := p.thinOf(dev.Name); ok {
			ids[id] = nil
		}
	}
	for _, d := range dead {
		ids[d.id] = d.record
	}
	for id := range keep {
		delete(ids, id)
	}
	return ids, nil
}

// collectTemporary removes the halves of records: who writes one has the pool's lock, and
// the caller has it alone.
func (d *Driver) collectTemporary() error {
	names, err := filepath.Glob(filepath.Join(d.layersDir(), "*.tmp"))
	if err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	for _, name := range append(names, d.recordPath()+".tmp") {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("pool: %w", err)
		}
	}
	return nil
}

// thins lists the pool's thin devices. The caller holds the lock alone, so only what
// containers write is committed meanwhile.
func (p *pool) thins() (list []thinmeta.Thin, err error) {
	p.step("list thin devices")
	err = p.consistent(20, func(r io.ReaderAt, sb *thinmeta.Superblock) (err error) {
		list, err = sb.Thins(r)
		return err
	})
	return list, err
}
