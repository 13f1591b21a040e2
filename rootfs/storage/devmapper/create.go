package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/base"
	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/durable"
)

// CreatePool makes the pool. Kill it anywhere: the next call starts over, because a pool
// exists only once its record says "ready".
func (d *Driver) CreatePool(o PoolOptions) error {
	if err := o.check(); err != nil {
		return fmt.Errorf("pool %s: %w", d.dir, err)
	}
	if err := Supported(); err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	lock, err := d.locked(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	m, err := d.record()
	switch {
	case err == nil && m.ready:
		return fmt.Errorf("pool %s: %w: it is on %s and %s; `thinrun pool destroy` takes it away with its images", d.dir, fs.ErrExist, m.data.path, m.meta.path)
	case err == nil:
		err = d.undo(m)
	case errors.Is(err, ErrNoPool):
		err = nil
	}
	if err != nil {
		return err
	}
	m, err = d.plan(o)
	if err != nil {
		return fmt.Errorf("pool %s: %w", d.dir, err)
	}
	if err := d.build(m); err != nil {
		return errors.Join(err, d.undo(m))
	}
	return nil
}

// plan decides what the pool is made of; it writes nothing.
func (d *Driver) plan(o PoolOptions) (made, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return made{}, err
	}
	free := st.Bavail * uint64(st.Bsize)
	o, err := o.fill(free)
	if err != nil {
		return made{}, err
	}
	m := made{
		fingerprint: random() | 1<<63, // never 0, which is what a new pool has
		blockSector: uint64(o.BlockSectors),
		data:        backing{filepath.Join(d.dir, "data"), true, o.DataBytes},
		meta:        backing{filepath.Join(d.dir, "meta"), true, o.MetaBytes},
		baseBytes:   o.BaseBytes, lowBytes: o.LowWater, maxBytes: o.MaxBytes,
		strict: o.Strict, returnSpace: o.ReturnSpace,
	}
	if o.DataDevice == "" {
		if need := o.DataBytes + o.MetaBytes; need > free {
			return m, fmt.Errorf("%s needed, %s free: %w", size(need), size(free), unix.ENOSPC)
		}
		spare := free - o.DataBytes - o.MetaBytes
		return m, o.holdsOne(o.DataBytes + spare - min(spare, st.Blocks*uint64(st.Bsize)/5)) // see room
	}
	for _, b := range []struct {
		to   *backing
		path string
	}{{&m.data, o.DataDevice}, {&m.meta, o.MetadataDevice}} {
		path, err := filepath.Abs(b.path)
		if err != nil {
			return m, err
		}
		bytes, err := blank(path)
		if err != nil {
			return m, err
		}
		*b.to = backing{path, false, bytes}
	}
	if same, err := sameDevice(m.data.path, m.meta.path); err != nil || same {
		return m, errors.Join(err, fmt.Errorf("%s and %s are one device: data and metadata need one each", m.data.path, m.meta.path))
	}
	if m.meta.bytes < minMeta || m.data.bytes < minData {
		return m, fmt.Errorf("%s has %s and %s has %s: at least 64 MiB of data and 2 MiB of metadata are needed", m.data.path, size(m.data.bytes), m.meta.path, size(m.meta.bytes))
	}
	if err := o.holdsOne(m.data.bytes); err != nil {
		return m, err
	}
	o, err = o.low(m.data.bytes)
	m.lowBytes = o.LowWater
	return m, err
}

// build makes the pool, its base layer, and last the record that says ready.
func (d *Driver) build(m made) error {
	d.step("record new pool")
	if err := durable.Write(d.recordPath(), m.encode()); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	for _, dir := range []string{d.layersDir(), d.openDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("pool: %w", err)
		}
	}
	ctl, err := d.dm()
	if err != nil {
		return err
	}
	p := &pool{Driver: d, made: m, ctl: ctl}
	d.step("allocate")
	for _, b := range []backing{m.meta, m.data} {
		if b.ours {
			if err := p.allocate(b, m.returnSpace && b == m.data); err != nil {
				return p.fail("%w", err)
			}
		}
	}
	if err := p.start(); err != nil {
		return err
	}
	d.step("fingerprint")
	if err := p.message("set_transaction_id 0 %d", m.fingerprint); err != nil {
		return err
	}
	l, err := p.makeBase(m.baseBytes)
	if err != nil {
		return err
	}
	p.base, p.ready = l.id(), true
	d.step("pool ready")
	if err := durable.Write(d.recordPath(), p.encode()); err != nil {
		return fmt.Errorf("pool: %w", err)
	}
	return nil
}

// makeBase fills the first thin device with the empty file system.
func (p *pool) makeBase(bytes uint64) (layer, error) {
	l := layer{thin: p.newID(), bytes: bytes, base: true}
	p.step("create base")
	if err := p.message("create_thin %d", l.thin); err != nil {
		return l, err
	}
	dev, err := p.raise(l.thin, bytes)
	if err != nil {
		return l, err
	}
	p.step("write base")
	f, err := p.openThin(dev)
	if err == nil {
		err = base.Write(f, bytes)
		if err == nil {
			err = f.Sync()
		}
		err = errors.Join(err, f.Close())
	}
	if err = errors.Join(err, p.removeDevice(p.thinName(l.thin))); err != nil {
		return l, p.fail("base: %w", err)
	}
	if err := p.look(dm.NoFlush); err != nil {
		return l, err
	}
	if err := p.usable(); err != nil {
		return l, err
	}
	thin, err := p.thin(l.thin)
	if err != nil {
		return l, err
	}
	l.created, l.mapped = thin.Created, thin.Mapped
	return l, p.writeLayer(l)
}
