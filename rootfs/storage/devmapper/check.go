package devmapper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/thinmeta"
)

// Report is what Check found.
type Report struct {
	OK       bool     `json:"ok"`
	Problems []string `json:"problems"` // what is wrong; not all, if there is a lot
	// Leaked data blocks are in use by nobody, as a power cut may leave them. They are lost
	// to the pool, and harm nothing.
	Leaked uint64 `json:"leakedBlocks"`
	// Cure is what to do when nothing is wrong that Repair could not put right.
	Cure string `json:"cure,omitempty"`

	Active     bool   `json:"active"`
	Layers     int    `json:"layers"`
	Containers int    `json:"containers"`
	Thins      int    `json:"thins"`
	Blocks     uint64 `json:"blocks"` // data blocks in use
	MetaBlocks uint64 `json:"metadataBlocks"`
}

// tooLong is how long a check may keep the containers of a pool from their disks.
const tooLong = 2 * time.Second

// Check reads all metadata: mappings, details and space maps against each other, and the
// records of layers and containers against the pool's list. It mends nothing, and an
// inactive pool stays inactive.
//
// Of an active pool it reads what was committed last, beside everything else. That is
// right if nobody commits meanwhile, and even then the kernel may have committed a block
// that it counts and has not mapped yet. So only an acquittal is believed. On anything
// else the pool is suspended, which has all I/O in flight done and committed, and read
// again; on one in use that takes longer than tooLong, Check gives up.
func (d *Driver) Check() (Report, error) {
	checked, err := d.checkBeside()
	if err != nil {
		return Report{}, err
	}
	p, err := d.open(unix.LOCK_EX)
	if err != nil {
		return Report{}, err
	}
	defer p.leave()
	if err := p.settle(); err != nil {
		return Report{}, err
	}
	err = p.look(dm.NoFlush)
	r := Report{Active: err == nil}
	cure := false
	switch {
	case errors.Is(err, errInactive):
		if err := p.finishRenewal(); err != nil {
			return r, err
		}
		if checked, err = p.check(0); err == nil {
			cure, err = p.cures(checked, 0)
		}
	case err == nil && checked == nil:
		checked, cure, err = p.checkStill()
	case err == nil:
		checked.Thins, err = p.thins() // as they are now
	}
	if err != nil {
		return r, err
	}
	r.Problems = append([]string{}, checked.Problems...) // in JSON a list, and never null
	if err := p.usable(); r.Active && err != nil && checked.OK() {
		r.Problems = append(r.Problems, err.Error()) // who could not write to it could not mark it either
	}
	r.Leaked = checked.Leaked
	if cure {
		r.Cure = "only counts are wrong, as a metadata snapshot of another tool or a failed write leaves them, and no data is lost: stop all containers of the pool and run `thinrun pool check --repair`"
	}
	r.Blocks, r.MetaBlocks, r.Thins = checked.Data, checked.Meta, len(checked.Thins)
	if err := p.checkRecords(&r, checked.Thins); err != nil {
		return r, err
	}
	r.OK = len(r.Problems) == 0
	return r, nil
}

// checkStill checks an active pool while nobody can write to it. cure: Repair would put
// right what it found.
func (p *pool) checkStill() (checked *thinmeta.Checked, cure bool, err error) {
	err = p.guarded(func() error {
		return p.still(func() (err error) {
			if checked, err = p.check(tooLong); err == nil {
				cure, err = p.cures(checked, tooLong)
			}
			return err
		})
	})
	return checked, cure, err
}

// cures tells if the metadata would be good with its counts worked out anew (recount).
func (p *pool) cures(checked *thinmeta.Checked, long time.Duration) (bool, error) {
	if checked.OK() {
		return false, nil
	}
	meta, err := p.metadata()
	if err != nil {
		return false, err
	}
	defer meta.Close()
	r := io.ReaderAt(meta)
	if long > 0 {
		r = hurried{meta, time.Now().Add(long)}
	}
	next := patched{r: r, blocks: map[uint64][]byte{}}
	err = thinmeta.Recount(r, p.data.bytes/p.blockBytes(), func(block uint64, content []byte) error {
		next.blocks[block] = bytes.Clone(content)
		return nil
	})
	if err != nil || len(next.blocks) == 0 {
		return false, nil // it is beyond that, or takes too long to tell
	}
	after, err := thinmeta.Check(next, p.data.bytes/p.blockBytes())
	return err == nil && after.OK(), nil
}

// checkBeside checks an active pool without getting in anybody's way; nil: not known.
func (d *Driver) checkBeside() (*thinmeta.Checked, error) {
	p, err := d.open(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer p.leave()
	for range 3 {
		if err := p.look(0); errors.Is(err, errInactive) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		before, err := p.superblock()
		if err != nil {
			return nil, nil // damaged, or just being written
		}
		checked, err := p.check(0)
		after, e := p.superblock()
		if err == nil && e == nil && *before == *after && checked.OK() && checked.Leaked+checked.LeakedMeta == 0 {
			return checked, nil
		}
	}
	return nil, nil
}

// check checks the metadata as it is, in no more than so long; 0: as long as it takes.
func (p *pool) check(long time.Duration) (*thinmeta.Checked, error) {
	meta, err := p.metadata()
	if err != nil {
		return nil, err
	}
	defer meta.Close()
	var r io.ReaderAt = meta
	if long > 0 {
		r = hurried{meta, time.Now().Add(long)}
	}
	c, err := thinmeta.Check(r, p.data.bytes/p.blockBytes())
	if errors.Is(err, errTooLong) {
		return nil, p.fail("%w of its containers' way; stop them and check again: %w", err, ErrInUse)
	}
	if err != nil {
		return nil, p.inMetadata(err)
	}
	if sb, err := thinmeta.ReadSuperblock(meta, 0); err == nil && sb.Transaction != p.fingerprint {
		c.Problems = append(c.Problems, p.foreign(sb.Transaction).Error())
	}
	return c, nil
}

// errTooLong: the metadata is too large to be read while others wait.
var errTooLong = errors.New("its metadata takes too long to read, out")

// hurried reads until a time.
type hurried struct {
	r     io.ReaderAt
	until time.Time
}

func (h hurried) ReadAt(b []byte, at int64) (int, error) {
	if time.Now().After(h.until) {
		return 0, errTooLong
	}
	return h.r.ReadAt(b, at)
}

// checkRecords compares the records beside the pool with its list. The caller holds the
// lock alone, so nobody makes or removes anything. Ids without a record are garbage, and
// no fault: GC takes them.
func (p *pool) checkRecords(r *Report, thins []thinmeta.Thin) error {
	inPool := map[uint32]thinmeta.Thin{}
	for _, t := range thins {
		inPool[t.ID] = t
	}
	layers, err := p.layers()
	if err != nil {
		r.Problems = append(r.Problems, err.Error())
	}
	known := map[string]bool{}
	for _, l := range layers {
		known[l.id()] = true
		if !l.base {
			r.Layers++
		}
		switch t, ok := inPool[l.thin]; {
		case !ok:
			r.Problems = append(r.Problems, fmt.Sprintf("layer %s has a record and is not in the pool", l.id()))
		case t.Created != l.created:
			r.Problems = append(r.Problems, fmt.Sprintf("layer %s: what the pool has of that id was made at %d", l.id(), t.Created))
		}
	}
	if err == nil && !known[p.base] {
		r.Problems = append(r.Problems, fmt.Sprintf("the empty base layer %s has no record", p.base))
	}
	ids, err := claimIDs(p.claimsDir())
	if err != nil {
		return p.fail("%w", err)
	}
	for _, id := range ids {
		c, err := readRecord(p.claimPath(id))
		if err != nil || c.str("what") != "container" || !alive(c) {
			continue
		}
		r.Containers++
		if _, ok := inPool[id]; !ok {
			r.Problems = append(r.Problems, fmt.Sprintf("the disk %06x of container %q is not in the pool", id, c.str("container")))
		}
	}
	return nil
}

// guarded has somebody watch over the pool who resumes it if this process is killed while
// it is suspended; without a guardian the next command does (settle).
func (p *pool) guarded(fn func() error) error {
	if p.opts.Guard == nil {
		return fn()
	}
	done, err := p.opts.Guard(p.name())
	if err != nil {
		return p.fail("nobody watches over the suspended pool: %w", err)
	}
	if err = fn(); !errors.Is(err, errSuspended) {
		done()
	}
	return err
}

// still holds all I/O of a pool back while fn runs: what was in flight is done and
// committed, so metadata and data are what the superblock says. The caller holds the lock
// alone, and is guarded.
func (p *pool) still(fn func() error) (err error) {
	defer holdSignals()()
	p.step("suspend pool")
	if err := p.ctl.Suspend(p.name(), dm.NoFlush); err != nil {
		return p.fail("%w", err)
	}
	err = p.quiet()
	if err == nil {
		p.step("pool is suspended")
		err = fn()
	}
	p.step("resume pool")
	if _, e := p.ctl.Resume(p.name()); e != nil {
		return errors.Join(err, p.fail("%w: %w", e, errSuspended)) // the guardian tries again
	}
	return err
}

// quiet makes sure that the commit that comes with a suspend was kept.
func (p *pool) quiet() error {
	_, targets, err := p.ctl.Status(p.name(), dm.NoFlush)
	if err != nil || len(targets) != 1 {
		return p.fail("status while suspended: %v, %w", targets, err)
	}
	s, err := parseStatus(targets[0].Params)
	if err != nil {
		return p.fail("%w", err)
	}
	sb, err := p.superblock()
	if err != nil {
		return err
	}
	if sb.Data.Used != s.dataUsed || sb.Transaction != s.transaction {
		return p.fail("%w: the kernel counts %d blocks in use, the metadata %d, though it was committed", ErrReadOnly, s.dataUsed, sb.Data.Used)
	}
	return nil
}
