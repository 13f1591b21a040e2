package devmapper

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/flock"
)

// want is by how much the pool should become larger.
type want struct{ data, meta uint64 }

// admitOrGrow tells if something new may start that writes to a disk of so many bytes: now
// of them at once, to make the disk that large, the rest when it likes. It makes room
// before, where the pool is on files of ours: because it must, or early, while all goes on.
// Under strict admission the place is the caller's until it has its claim (settled) or
// leaves the pool.
func (p *pool) admitOrGrow(bytes, now uint64) error {
	var failed error // to grow
	for attempt := 0; ; attempt++ {
		if p.strict {
			if err := p.reserve(); err != nil {
				return err
			}
		}
		w, err := p.admit(bytes, now)
		if err != nil && !errors.Is(err, ErrFull) && !errors.Is(err, ErrMetaFull) && !errors.Is(err, ErrPromised) {
			return err
		}
		switch w.data, w.meta = p.room(w.data, p.data), p.room(w.meta, p.meta); {
		case failed != nil && err != nil:
			return fmt.Errorf("%w (%w)", err, failed)
		case failed != nil:
			p.warn(failed) // there is room yet
			return nil
		case w.data+w.meta == 0 || attempt == 2: // twice: others may take what we made
			return err
		}
		// This gives the lock up, and with it the place: what was admitted is looked at again.
		if failed, err = p.growLocked(w); err != nil {
			return err
		}
	}
}

// admit is the rule. Always: the pool is writable, its clock has not run through, a tenth of
// the metadata is free, and of the data lowBytes and what the start itself writes. That
// keeps work from starting on a pool that is nearly full, but running containers may still
// fill it.
//
// Strict: they may not. Free blocks have to cover the new disk and the promises: for each
// snapshot that can be written to (its device is active, or it is being made) its virtual
// size less the blocks that are certainly its own already. Those are its mapped blocks
// less the blocks that its origin had mapped when the snapshot was made, or that it had
// itself when it was last forked: a lower bound, because of the shared blocks it has
// overwritten nobody knows without reading its mappings. Data files are preallocated, so
// what is free in the pool is there. Metadata: 64 bytes for each block promised. A mapping
// takes 16 in leaves that are at least half full, and its reference count a little.
func (p *pool) admit(bytes, now uint64) (w want, err error) {
	if err := p.usable(); err != nil {
		return w, err
	}
	sb, err := p.superblock()
	if err != nil {
		return w, err
	}
	if sb.Clock >= clockLimit {
		return w, p.fail("%w: %d snapshots made of the %d that its metadata can tell apart; run `thinrun pool renew`", ErrWornOut, sb.Clock, 1<<24)
	}
	if sb.Clock >= clockWarn {
		p.warn(p.fail("%d %% of the %d snapshots that it can ever make are made; run `thinrun pool renew` before the last of them", sb.Clock/(clockLimit/100), clockLimit))
	}
	s := p.kernel
	free, metaFree := p.free(), s.metaTotal-s.metaUsed
	what := "free"
	if host := p.hostFree(); free > host {
		free, what = host, "left on the host (its file is sparse)"
	}
	if free < p.earlyBytes(s.dataTotal*p.blockBytes()) {
		w.data = growStep
	}
	if metaFree < s.metaTotal/2 { // early: without metadata not even delete works
		w.meta = max(p.meta.bytes, 16*mib)
	}
	switch {
	case s.mode != "rw" || free < p.lowBytes:
		err = p.fail("%w: %s of %s %s, nothing new starts below %s; remove containers or images (thinrun delete, thinrun image rm), or run `thinrun pool grow`",
			ErrFull, size(free), size(s.dataTotal*p.blockBytes()), what, size(p.lowBytes))
	case free < p.lowBytes+now:
		lack := p.lowBytes + now - free
		if w.data = max(w.data, lack); p.room(lack, p.data) < lack {
			w.data = 0 // it would not be enough
		}
		err = p.fail("%w: %s of %s %s, and a disk of %s takes up to %s of that before anything is on it; take a smaller --rootfs-size, or run `thinrun pool grow`",
			ErrFull, size(free), size(s.dataTotal*p.blockBytes()), what, size(bytes), size(now))
	case metaFree < s.metaTotal/10: // must never be reached: the kernel then refuses to delete
		err = p.fail("%w: %d of %d blocks used; remove containers or images, or run `thinrun pool grow`", ErrMetaFull, s.metaUsed, s.metaTotal)
	}
	if !p.strict {
		return w, err
	}
	promised, writers, e := p.promised()
	if e != nil {
		return w, e
	}
	need := promised + bytes
	if metaNeed := need/p.blockBytes()*64/4096 + s.metaTotal/10; metaFree < metaNeed {
		w.meta = max(w.meta, (metaNeed-metaFree)*4096)
		if err == nil {
			err = p.fail("%w: %d of %d blocks are free, its %d containers and layers at work and this one may take %d; run `thinrun pool grow`",
				ErrMetaFull, metaFree, s.metaTotal, writers, metaNeed)
		}
	}
	if free >= need {
		return w, err
	}
	w.data = max(w.data, need-free)
	if room := p.room(w.data, p.data); room < need-free {
		w.data = 0 // it would not be enough
		return w, p.fail("%w: %s are free, %s of that are promised to %d containers and layers at work, and this one may write %s; end some, take a smaller --rootfs-size, or run `thinrun pool grow`",
			ErrPromised, size(free), size(promised), writers, size(bytes))
	}
	return w, p.fail("%w: %s are free, %s are promised", ErrPromised, size(free), size(need))
}

// refusal is why a container of an ordinary size would not start now.
func (p *pool) refusal() error {
	w, err := p.admit(p.baseBytes, 0)
	switch {
	case errors.Is(err, ErrMetaFull) && p.room(w.meta, p.meta) > 0,
		(errors.Is(err, ErrFull) || errors.Is(err, ErrPromised)) && p.room(w.data, p.data) > 0:
		return nil // it grows then
	}
	return err
}

// hostFree is what the host can give to a sparse data file.
func (p *pool) hostFree() uint64 {
	var st unix.Statfs_t
	if !p.returnSpace || !p.data.ours || unix.Statfs(p.dir, &st) != nil {
		return 1<<64 - 1
	}
	return st.Bavail * uint64(st.Bsize)
}

func (p *pool) free() uint64 { return (p.kernel.dataTotal - p.kernel.dataUsed) * p.blockBytes() }

// earlyBytes: with less free the pool grows, so that there is room to write while it does.
func (m *made) earlyBytes(total uint64) uint64 { return max(m.lowBytes, min(growStep/2, total/4)) }

// promised is how much the writable snapshots may still take, and how many there are.
func (p *pool) promised() (bytes uint64, writers int, err error) {
	devices, err := p.ctl.List()
	if err != nil {
		return 0, 0, p.fail("%w", err)
	}
	active := map[uint32]string{}
	for _, dev := range devices {
		if id, ok := p.thinOf(dev.Name); ok {
			active[id] = dev.Name
		}
	}
	seen := map[uint32]bool{}
	for _, dir := range []string{p.openDir(), p.claimsDir()} { // a claim moves this way
		ids, err := claimIDs(dir)
		if err != nil {
			return 0, 0, p.fail("%w", err)
		}
		for _, id := range ids {
			if seen[id] || dir == p.claimsDir() && active[id] == "" {
				continue // of a container that has ended: nobody writes to it again
			}
			r, err := readRecord(claimIn(dir, id))
			if err != nil || r.str("what") == "remove layer" {
				continue // gone meanwhile, or of one who was killed before it had anything
			}
			seen[id] = true
			writers++
			promise := r.num("bytes")
			if active[id] != "" {
				own := p.mapped(active[id])
				own -= min(own, r.num("shared"))
				promise -= min(promise, own*p.blockBytes())
			}
			bytes += promise
		}
	}
	return bytes, writers, nil
}

// mapped is how many blocks an active thin device has; 0 when the kernel does not say.
func (p *pool) mapped(device string) uint64 {
	_, targets, err := p.ctl.Status(device, dm.NoFlush)
	if err != nil || len(targets) != 1 {
		return 0
	}
	sectors, _, _ := strings.Cut(targets[0].Params, " ")
	n, _ := strconv.ParseUint(sectors, 10, 64)
	return n / p.blockSector
}

// reserve makes admission and the claim that follows one step, as seen by others who want
// the same place: a record lock on the pool's lock file, which goes with the descriptor.
func (p *pool) reserve() error { return p.admission(unix.F_WRLCK) }

// settled lets the next one in: the claim is there and counts.
func (p *pool) settled() {
	if p.strict {
		_ = p.admission(unix.F_UNLCK)
	}
}

func (p *pool) admission(how int16) error {
	if err := flock.Byte(p.lock, admissionByte, how); err != nil {
		return p.fail("admission: %w", err)
	}
	return nil
}

// warn tells people, each thing once.
func (d *Driver) warn(err error) {
	line := err.Error()
	d.mu.Lock()
	said := d.warned[line]
	if d.warned == nil {
		d.warned = map[string]bool{}
	}
	d.warned[line] = true
	d.mu.Unlock()
	if d.opts.Warn != nil && !said {
		d.opts.Warn(line)
	}
}
