package devmapper

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/thinmeta"
	"thinrun/rootfs/storage/flock"
)

// Trimmed is what Trim did.
type Trimmed struct {
	Bytes   uint64 `json:"bytes"`        // that the host has back
	Reserve uint64 `json:"reserveBytes"` // that are free in the pool and still there for it
}

const (
	// pause is about how long a trim keeps containers from their disks at a time.
	pause = 50 * time.Millisecond
	// punchMost is the most that is given back by one call, which cannot be interrupted.
	punchMost = 256 * mib
)

// Trim gives the host back what is free in the pool: holes in the file, or a discard of
// the device.
//
// A block that is free now may be somebody's a moment later, and what is written to it
// must not be lost. Nobody but the kernel knows what is free, and it says so only in what
// it has committed. So the pool is suspended: that has all I/O in flight done and
// committed, durably, before it returns, and until it is resumed no block is given to
// anybody. What the superblock says is free then is free in the kernel, and no power cut
// brings back a time at which it was not. All that is given back is given back in there,
// in slices of about a twentieth of a second (pause). Killed in between, nothing is lost:
// what is done is done, and the pool is resumed by the guardian or by the next command.
// Without a suspend there is only taking the blocks oneself, which means writing them.
//
// Between two slices the pool is anybody's: containers start and end, it grows, it may be
// taken down and activated again. So a slice takes nothing over from the one before but how
// far that came, and what is to stay.
//
// What it costs: a preallocated pool is safe from a host that fills up. Of a trimmed one
// that is true of all that is written already, and of the next lowBytes of new blocks,
// with which the pool stops to start anything: those stay preallocated (reserve). What
// containers write beyond fails when the host is full. A strict pool promises every free
// block, so its file is not trimmed.
func (d *Driver) Trim() (Trimmed, error) {
	turn, err := d.lockFile()
	if err != nil {
		return Trimmed{}, err
	}
	defer turn.Close()
	if err := flock.Byte(turn, trimByte, unix.F_WRLCK); err != nil { // two would make holes in what the other keeps
		return Trimmed{}, fmt.Errorf("lock %s: %w", turn.Name(), err)
	}
	var t trim
	defer func() { t.f.Close() }()
	for {
		began := time.Now()
		if err := t.slice(d); err != nil || t.at >= t.end {
			return t.done, err
		}
		d.step("let others in")
		time.Sleep(time.Since(began)) // they have the pool at least as long as they had to wait
	}
}

type trim struct {
	p    *pool          // as it is in this slice
	f    *os.File       // data, open to the end: udev looks at each device that a writer closes
	next uint64         // where the kernel takes new blocks from
	keep []thinmeta.Run // stays preallocated; in order
	at   uint64         // all blocks before are done
	end  uint64         // that there were at first; those by which it grows meanwhile are wanted
	done Trimmed
}

// slice has the pool alone for about as long as a pause is.
func (t *trim) slice(d *Driver) error {
	first := t.p == nil
	p, err := d.enterAlone()
	if err != nil {
		return err
	}
	defer p.leave()
	if !first && p.fingerprint != t.p.fingerprint {
		return p.fail("the one that was being trimmed has been removed, and this is another: %w", ErrForeign)
	}
	if err := p.usable(); err != nil {
		return err
	}
	if t.p = p; first {
		if err := t.begin(); err != nil || t.end == 0 {
			return err
		}
		if t.f, err = os.OpenFile(p.data.path, os.O_RDWR, 0); err != nil {
			return p.fail("%w", err)
		}
	}
	err = p.guarded(func() error {
		if first && t.reserves() {
			if err := p.still(t.reserve); err != nil {
				return err
			}
		}
		return p.still(t.step)
	})
	if err != nil || t.at < t.end {
		return err
	}
	return t.preallocate()
}

// begin finds out how far to go, and from where on not to.
func (t *trim) begin() (err error) {
	p := t.p
	if p.strict && p.data.ours && !p.returnSpace {
		return p.fail("%w to its containers: a strict pool's file is not trimmed", ErrPromised)
	}
	_ = p.cheapGC(p, cheapMany) // a killed trim's probe
	if p.kernel.dataUsed == p.kernel.dataTotal {
		return nil
	}
	if t.reserves() {
		t.next, err = p.nextBlock()
	}
	t.end = p.kernel.dataTotal
	return err
}

// reserves: the next new blocks stay preallocated.
func (t *trim) reserves() bool { return t.p.data.ours && !t.p.returnSpace }

// nextBlock finds where the kernel will take new blocks from: it goes round, from the
// last one on that it took (sm_disk.begin, since Linux 5.13), so it is made to take one.
func (p *pool) nextBlock() (uint64, error) {
	for range 1000 {
		p.step("claim")
		c, err := p.claim(owner{what: "trim", bytes: p.blockBytes()}, nil)
		if err != nil {
			return 0, err
		}
		p.step("create probe")
		err = p.message("create_thin %d", c.thin)
		if errors.Is(err, unix.EEXIST) {
			if err := c.discard(); err != nil {
				return 0, err
			}
			continue
		}
		if err != nil {
			return 0, errors.Join(err, p.unmake(c))
		}
		block, err := p.probe(c.thin)
		if e := p.giveBack(c.thin, record{}, true); e != nil {
			return 0, errors.Join(err, e, c.file.Close())
		}
		return block + 1, errors.Join(err, c.discard())
	}
	return 0, p.fail("1000 random ids are all taken: %w", unix.EEXIST)
}

// probe writes to a new thin device, and looks where that went.
func (p *pool) probe(id uint32) (uint64, error) {
	dev, err := p.raise(id, p.blockBytes())
	if err != nil {
		return 0, err
	}
	f, err := p.openThin(dev)
	if err != nil {
		return 0, p.fail("%w", err)
	}
	p.step("write probe")
	_, err = f.WriteAt([]byte{1}, 0)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return 0, p.fail("%w", err)
	}
	block, found := uint64(0), false
	err = p.consistent(20, func(meta io.ReaderAt, sb *thinmeta.Superblock) (err error) {
		block, found, err = sb.Mapping(meta, id, 0)
		return err
	})
	if err == nil && !found {
		err = p.fail("a block that was written is not in its metadata: %w", thinmeta.ErrDamaged)
	}
	return block, err
}

// preallocate fills the holes of an earlier trim in what is the reserve now. This takes
// nothing from anybody, whoever has the blocks: only holes are filled.
func (t *trim) preallocate() error {
	for _, run := range t.keep {
		from, n := run.From*t.p.blockBytes(), (run.To-run.From)*t.p.blockBytes()
		err := error(unix.EINTR)
		for err == unix.EINTR {
			err = unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, int64(from), int64(n))
		}
		if err != nil && err != unix.EOPNOTSUPP {
			return t.p.fail("%s are given back, but %s of the reserve of new blocks could not be preallocated again: %w", size(t.done.Bytes), size(n), err)
		}
		t.done.Reserve += n
	}
	return nil
}

// free reads the free blocks that are not done; the pool is suspended.
func (t *trim) free(each func(thinmeta.Run) (more bool, err error)) error {
	meta, err := t.p.metadata()
	if err != nil {
		return err
	}
	defer meta.Close()
	sb, err := thinmeta.ReadSuperblock(meta, 0)
	if err != nil {
		return t.p.inMetadata(err)
	}
	m, err := sb.FreeMap(meta)
	if err != nil {
		return t.p.inMetadata(err)
	}
	for i := int(t.at / thinmeta.PerBitmap); i < m.Bitmaps() && uint64(i)*thinmeta.PerBitmap < t.end; i++ {
		runs, err := m.Free(meta, i)
		if err != nil {
			return t.p.inMetadata(err)
		}
		for _, run := range runs {
			run = thinmeta.Run{From: max(run.From, t.at), To: min(run.To, t.end)}
			if run.From >= run.To {
				continue
			}
			if more, err := each(run); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// reserve chooses what stays: the next lowBytes that the kernel takes, from next on and
// round the end; and the first ones, because it begins there after the pool was inactive.
func (t *trim) reserve() error {
	want := t.p.blocks(t.p.lowBytes)
	var behind, before []thinmeta.Run
	first, later := want, want
	err := t.free(func(run thinmeta.Run) (bool, error) {
		if n := min(first, run.To-run.From); n > 0 {
			before = append(before, thinmeta.Run{From: run.From, To: run.From + n})
			first -= n
		}
		if from := max(run.From, t.next); from < run.To && later > 0 {
			n := min(later, run.To-from)
			behind = append(behind, thinmeta.Run{From: from, To: from + n})
			later -= n
		}
		return first+later > 0, nil
	})
	t.keep = before
	for _, run := range behind { // what lies in both, once
		t.keep = append(t.keep, without(run, before)...)
	}
	slices.SortFunc(t.keep, func(a, b thinmeta.Run) int { return cmp.Compare(a.From, b.From) })
	return err
}

// step gives back free blocks, for as long as a pause is; the pool is suspended.
func (t *trim) step() error {
	end := time.Now().Add(pause)
	before, err := t.held()
	if err != nil {
		return err
	}
	block := t.p.blockBytes()
	complete := true
	err = t.free(func(run thinmeta.Run) (bool, error) {
		for _, part := range without(run, t.keep) {
			for from := part.From; from < part.To; {
				to := min(part.To, from+max(1, punchMost/block))
				if err := t.give(from*block, (to-from)*block); err != nil {
					return false, err
				}
				from, t.at = to, to
				if time.Now().After(end) {
					complete = false
					return false, nil
				}
			}
		}
		t.at = run.To
		return true, nil
	})
	if err != nil {
		return err
	}
	if complete {
		t.at = t.end
	}
	if t.p.data.ours {
		after, err := t.held()
		if err != nil {
			return err
		}
		// Nobody else has written to the file meanwhile.
		t.done.Bytes += before - min(before, after)
	}
	return nil
}

// give punches a hole, or discards.
func (t *trim) give(at, n uint64) error {
	t.p.step("give back")
	if !t.p.data.ours {
		if err := discard(t.f, at, n); err != nil {
			return t.p.fail("%w", err)
		}
		t.done.Bytes += n
		return nil
	}
	for {
		err := unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(n))
		switch err {
		case nil:
			return nil
		case unix.EINTR:
			continue
		case unix.EOPNOTSUPP:
			return t.p.fail("the file system of %s cannot make holes: %w", t.p.data.path, err)
		}
		return t.p.fail("%s: %w", t.p.data.path, err)
	}
}

// held is what the host keeps for the file.
func (t *trim) held() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(t.f.Fd()), &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", t.f.Name(), err)
	}
	return uint64(st.Blocks) * 512, nil
}

// without is what is left of a run when others, in order, are cut out.
func without(run thinmeta.Run, others []thinmeta.Run) (left []thinmeta.Run) {
	i, _ := slices.BinarySearchFunc(others, run.From, func(o thinmeta.Run, from uint64) int { return cmp.Compare(o.To, from+1) })
	for ; i < len(others) && others[i].From < run.To; i++ {
		if run.From < others[i].From {
			left = append(left, thinmeta.Run{From: run.From, To: others[i].From})
		}
		run.From = others[i].To
	}
	if run.From < run.To {
		left = append(left, run)
	}
	return left
}
