package devmapper

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper/thinmeta"
	"thinrun/rootfs/storage/flock"
)

var _ storage.Meter = (*Driver)(nil)

// DisksOf compares each container's mappings with those of its layer, reading only what
// the two do not share. The pool commits once; each disk is as it was at one commit, and
// not all have to be of the same one. An inactive pool stays inactive, and a busy one is not
// held up: a disk that changes too fast to be read is not told.
func (d *Driver) DisksOf(claims []storage.Claim) ([]*storage.Disk, error) {
	p, err := d.openSoon()
	if err != nil {
		return nil, err
	}
	defer p.leave()
	last, err := p.committed()
	if err != nil {
		return nil, err
	}
	defer last.meta.Close()
	origins := map[string]layer{}
	disks := make([]*storage.Disk, len(claims))
	for i, c := range claims {
		if disk, err := last.diskOf(c, origins); err == nil {
			disks[i] = &disk
		}
	}
	return disks, nil
}

// patience is enough for one who activates or grows the pool.
const patience = 200 * time.Millisecond

// openSoon is open for who only looks: a check, or the first activation after a boot, may
// have the pool alone for long, and the callers of state do not expect to wait.
func (d *Driver) openSoon() (*pool, error) {
	for end := time.Now().Add(patience); ; time.Sleep(patience / 20) {
		p, err := d.open(unix.LOCK_SH | unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			return p, err
		}
	}
}

// diskOf is the disk of one container; origins has the layers that were looked up before.
func (m *committed) diskOf(c storage.Claim, origins map[string]layer) (disk storage.Disk, err error) {
	if c.Driver != Name {
		return disk, fmt.Errorf("claim of driver %q is not for %s", c.Driver, Name)
	}
	r, err := readRecord(m.claimPath(c.ThinID))
	if err != nil || r.str("key") != c.Key {
		r, err = readRecord(m.openPath(c.ThinID)) // still being made
	}
	if err != nil || r.str("key") != c.Key {
		return disk, m.fail("snapshot %06x of the container: %w", c.ThinID, fs.ErrNotExist)
	}
	origin, known := origins[c.Layer]
	if !known {
		if origin, err = m.layer(c.Layer); err != nil && !errors.Is(err, ErrNoLayer) {
			return disk, err
		}
		origins[c.Layer] = origin
	}
	var blocks uint64
	var there bool
	done, err := m.beside(20, func(meta io.ReaderAt, sb *thinmeta.Superblock) error {
		thin, ok, err := sb.Thin(meta, c.ThinID)
		if there = ok; err != nil || !ok {
			return err
		}
		if blocks = thin.Mapped; origin.created == 0 && origin.thin == 0 {
			return nil // the layer was removed: what it shared with the container is now its own
		}
		_, ok, err = sb.Thin(meta, origin.thin)
		if err == nil && ok {
			blocks, err = sb.Differ(meta, c.ThinID, origin.thin)
		}
		return err
	})
	switch {
	case err != nil:
		return disk, err
	case !done:
		return disk, m.fail("its metadata changes too fast to be read")
	case !there:
		return disk, m.inMetadata(fmt.Errorf("thin device %d is not in it: %w", c.ThinID, fs.ErrNotExist))
	}
	return storage.Disk{Size: r.num("bytes"), Used: blocks * m.blockBytes()}, nil
}

// Exclusive reads all mappings once, for any number of groups.
func (d *Driver) Exclusive(groups map[string][]string) (map[string]uint64, error) {
	p, err := d.open(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer p.leave()
	names := make([]string, 0, len(groups))
	of := map[uint32][]int{}
	for name, ids := range groups {
		for _, id := range ids {
			l, err := d.layer(id)
			if errors.Is(err, ErrNoLayer) {
				continue // removed meanwhile
			}
			if err != nil {
				return nil, err
			}
			if !slices.Contains(of[l.thin], len(names)) {
				of[l.thin] = append(of[l.thin], len(names))
			}
		}
		names = append(names, name)
	}
	var counts []uint64
	err = p.consistent(3, func(meta io.ReaderAt, sb *thinmeta.Superblock) (err error) {
		counts, err = sb.Exclusive(meta, len(names), func(id uint32) []int { return of[id] })
		return err
	})
	if err != nil {
		return nil, err
	}
	bytes := make(map[string]uint64, len(names))
	for i, name := range names {
		bytes[name] = counts[i] * p.blockBytes()
	}
	return bytes, nil
}

// consistent has mappings and details read as they were at one commit; the space maps are
// not part of it. Nobody has to wait for it, and nothing is written, when the pool is at
// rest: first it is read as it is, at most so many times, see created. When somebody
// commits again and again, all writers are held up while it is read, for no longer than
// tooLong.
//
// The kernel has metadata snapshots for this, and they are not safe: reserve and release
// change held_root in the superblock, and the next commit writes that superblock once
// before the reference counts that belong to it (dm_tm_pre_commit flushes all there is,
// Linux 6.1). After a power cut between the two writes a release takes blocks away that
// the live trees use, and the pool is lost.
func (p *pool) consistent(times int, read func(io.ReaderAt, *thinmeta.Superblock) error) error {
	last, err := p.committed()
	if err != nil {
		return err
	}
	defer last.meta.Close()
	if done, err := last.beside(times, read); done || err != nil {
		return err
	}
	return last.heldUp(read)
}

// committed is a pool that has written down what was done until now, and its metadata.
type committed struct {
	*pool
	meta     metadata
	inactive bool // nobody can activate it: that takes the lock that we share
}

func (p *pool) committed() (*committed, error) {
	err := p.look(0) // 0: the pool commits
	m := &committed{pool: p, inactive: errors.Is(err, errInactive)}
	if err != nil && !m.inactive {
		return nil, err
	}
	m.meta, err = p.metadata()
	return m, err
}

// heldUp reads while nobody can write. The lock is not shared any more after it.
func (m *committed) heldUp(read func(io.ReaderAt, *thinmeta.Superblock) error) error {
	p, meta := m.pool, m.meta
	if p.usable() != nil { // it takes no messages, and so no commits
		return p.inMetadata(m.once(meta, read))
	}
	if err := m.alone(); err != nil {
		return err
	}
	if m.inactive { // it was taken down just now
		return p.inMetadata(m.once(meta, read))
	}
	err := p.guarded(func() error {
		return p.still(func() error {
			return p.inMetadata(m.once(hurried{meta, time.Now().Add(tooLong)}, read))
		})
	})
	if errors.Is(err, errTooLong) {
		return fmt.Errorf("%w of the way of what runs; try again when less does: %w", err, ErrInUse)
	}
	return err
}

// beside reads while others write, at most so many times; done: and can be believed.
func (m *committed) beside(times int, read func(io.ReaderAt, *thinmeta.Superblock) error) (done bool, err error) {
	p, meta := m.pool, m.meta
	for range times {
		before, err := thinmeta.ReadSuperblock(meta, 0)
		if err != nil {
			return false, p.inMetadata(err)
		}
		if m.inactive && before.Transaction != p.fingerprint {
			return false, p.foreign(before.Transaction)
		}
		failed := read(meta, before)
		if m.inactive {
			return true, p.inMetadata(failed)
		}
		after, err := thinmeta.ReadSuperblock(meta, 0)
		if err != nil {
			return false, p.inMetadata(err)
		}
		// With the same superblock there may have been two commits, the second with the
		// blocks of the first but one. That does not last: what is damaged is read again.
		if *before == *after && failed == nil {
			return true, nil
		}
	}
	return false, nil
}

func (m *committed) once(meta io.ReaderAt, read func(io.ReaderAt, *thinmeta.Superblock) error) error {
	sb, err := thinmeta.ReadSuperblock(meta, 0)
	if err != nil {
		return err
	}
	return read(meta, sb)
}

// alone makes the shared lock exclusive, for good. Beside others no one may suspend the
// pool: to who sends it a message it would not be there, and if its suspender was killed,
// nobody could lock it to resume it as long as another holds the lock and waits for I/O.
func (m *committed) alone() error {
	if !m.sole {
		if err := flock.Gated(m.lock, unix.LOCK_EX); err != nil {
			return m.fail("lock: %w", err)
		}
		m.sole = true
	}
	// The lock was free for a moment.
	now, err := m.record()
	if err == nil && (now.fingerprint != m.fingerprint || !now.ready) {
		err = m.fail("%w: somebody has removed it just now", ErrNoPool)
	}
	if err != nil {
		return err
	}
	m.made = now
	if err := m.settle(); err != nil {
		return err
	}
	err = m.look(0)
	m.inactive = errors.Is(err, errInactive)
	if m.inactive {
		return m.finishRenewal()
	}
	return err
}
