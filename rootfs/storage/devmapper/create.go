package devmapper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/base"
	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/thinmeta"
	"thinrun/rootfs/storage/durable"
)

// PoolOptions say how a pool is made. All zero values are chosen by what the storage's
// file system has free.
type PoolOptions struct {
	DataBytes, MetaBytes       uint64 // sizes of the files; devices have their own
	DataDevice, MetadataDevice string // block devices instead of files: both or none
	BlockSectors               uint32 // 128: 64 KiB
	BaseBytes                  uint64 // a container's disk unless --rootfs-size: one of base.Sizes; 10 GiB
	LowWater                   uint64 // bytes; with less free nothing new starts
	MaxBytes                   uint64 // the data file does not grow by itself beyond; 0: while the host keeps a fifth free
	Strict                     bool   // nothing starts unless all that runs fits, however much it writes
	ReturnSpace                bool   // data file sparse, and shrunk when containers go; else preallocated
}

const (
	mib = uint64(1) << 20
	gib = uint64(1) << 30
	// growStep is how much the data file starts with and grows by: large enough to be
	// rare, small enough that a host with one container does not miss it.
	growStep  = 2 * gib
	baseBytes = 10 * gib // a container's disk
)

// check refuses what cannot be.
func (o PoolOptions) check() error {
	if (o.DataDevice == "") != (o.MetadataDevice == "") {
		return errors.New("data and metadata: give a device for both or for none")
	}
	if o.BlockSectors%128 != 0 || o.BlockSectors > 2<<20 {
		return fmt.Errorf("block size of %s: dm-thin takes multiples of 64 KiB up to 1 GiB", size(uint64(o.BlockSectors)*512))
	}
	if o.BaseBytes != 0 && !slices.Contains(base.Sizes(), o.BaseBytes) {
		return fmt.Errorf("a base of %s: there are only those of 1, 10 and 100 GiB", size(o.BaseBytes))
	}
	if o.DataDevice != "" {
		if o.DataBytes+o.MetaBytes+o.MaxBytes != 0 {
			return errors.New("sizes are for pools on files; devices are used up to their ends")
		}
		return nil
	}
	if o.Strict && o.ReturnSpace {
		return errors.New("strict admission promises space, and a sparse data file (return-space) has none to promise: choose one of them")
	}
	if o.DataBytes != 0 && o.DataBytes < minData || o.MetaBytes != 0 && o.MetaBytes < minMeta {
		return fmt.Errorf("data of %s and metadata of %s: at least 64 MiB and 2 MiB are needed", size(o.DataBytes), size(o.MetaBytes))
	}
	if o.MetaBytes > maxMeta {
		return fmt.Errorf("metadata of %s: dm-thin uses at most %s", size(o.MetaBytes), size(maxMeta))
	}
	if o.MaxBytes != 0 && o.MaxBytes < max(o.DataBytes, minData) {
		return fmt.Errorf("a maximum of %s is below the %s to begin with", size(o.MaxBytes), size(max(o.DataBytes, minData)))
	}
	if o.MaxBytes != 0 {
		return o.holdsOne(o.MaxBytes)
	}
	return nil
}

const minData, minMeta = 64 * mib, 2 * mib

// holdsOne refuses a strict pool that has never more than so many bytes of data, if not even
// the first disk would fit: each import and each start is promised a whole one, besides what
// the empty file system takes.
func (o PoolOptions) holdsOne(most uint64) error {
	if o.BaseBytes == 0 {
		o.BaseBytes = baseBytes
	}
	if !o.Strict || most >= o.BaseBytes+minData {
		return nil
	}
	return fmt.Errorf("strict admission promises each container its whole disk, here of %s, and the pool cannot have more than %s of data (%s are needed): nothing would ever start; choose a smaller --base-size or more data", size(o.BaseBytes), size(most), size(o.BaseBytes+minData))
}

// fill decides what was left open, for a file system with free bytes.
func (o PoolOptions) fill(free uint64) (PoolOptions, error) {
	if err := o.check(); err != nil {
		return o, err
	}
	if o.BlockSectors == 0 {
		o.BlockSectors = 128 // 4 KiB written to a shared block costs 35 us; with 1 MiB blocks 322
	}
	if o.BaseBytes == 0 {
		o.BaseBytes = baseBytes
	}
	if o.DataDevice != "" {
		return o, nil
	}
	if o.DataBytes == 0 {
		o.DataBytes = min(growStep, max(free/2, 128*mib)) / (64 * mib) * (64 * mib)
		if o.MaxBytes != 0 {
			o.DataBytes = min(o.DataBytes, o.MaxBytes)
		}
	}
	if o.MetaBytes == 0 {
		o.MetaBytes = min(128*mib, max(8*mib, o.DataBytes/16))
	}
	unit := uint64(o.BlockSectors) * 512
	o.DataBytes = o.DataBytes / unit * unit
	o.MetaBytes = o.MetaBytes / 4096 * 4096
	if o.DataBytes < minData {
		return o, fmt.Errorf("data of %s in blocks of %s: too small", size(o.DataBytes), size(unit))
	}
	return o.low(o.DataBytes)
}

// low is fill for the low water mark of a pool with so much data.
func (o PoolOptions) low(data uint64) (PoolOptions, error) {
	if o.LowWater == 0 {
		o.LowWater = min(gib, data/10)
	}
	if o.LowWater > data/2 {
		return o, fmt.Errorf("a low water mark of %s is more than half of the data's %s: hardly anything would ever start", size(o.LowWater), size(data))
	}
	return o, nil
}

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

func sameDevice(a, b string) (bool, error) {
	var sa, sb unix.Stat_t
	err := errors.Join(unix.Stat(a, &sa), unix.Stat(b, &sb))
	return sa.Rdev == sb.Rdev, err
}

// blank makes sure that a device is nobody's: not in use, and nothing at its start.
func blank(path string) (bytes_ uint64, err error) {
	f, _, err := openDevice(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	// O_EXCL on a block device: EBUSY when it is mounted or below another device. O_DIRECT:
	// the device's own cache may be older than what a pool has written beside it.
	x, err := os.OpenFile(path, os.O_RDONLY|os.O_EXCL|unix.O_DIRECT, 0)
	if err != nil {
		return 0, fmt.Errorf("%s is in use: %w", path, err)
	}
	defer x.Close()
	head := make([]byte, thinmeta.BlockSize)
	for at := int64(0); at < 1<<20; at += thinmeta.BlockSize {
		n, err := direct{x}.ReadAt(head, at)
		if err != nil && err != io.EOF {
			return 0, err
		}
		if !bytes.Equal(head[:n], make([]byte, n)) {
			return 0, fmt.Errorf("%s is not blank: its first MiB holds data; wipe it first (blkdiscard -z, or dd) if nobody needs that", path)
		}
	}
	return deviceBytes(f)
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

// allocate makes a file of zeros with all its blocks: a sparse file on a host that fills
// up makes every container of the pool fail, not only the one that writes.
func (p *pool) allocate(b backing, sparse bool) error {
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if sparse {
		err = f.Truncate(int64(b.bytes))
	} else {
		err = extend(f, 0, b.bytes)
	}
	if err == nil {
		p.sign(f)
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// The metadata has the pool's fingerprint inside, the data has none: both files carry it
// as an attribute too, where the host's file system keeps attributes.
const signature = "trusted.thinrun.pool"

func (p *pool) sign(f *os.File) {
	_ = unix.Fsetxattr(int(f.Fd()), signature, fmt.Appendf(nil, "%016x", p.fingerprint), 0)
}

// signed refuses a file that another pool has signed; one that nobody has is good.
func (p *pool) signed(f *os.File) error {
	var b [16]byte
	n, err := unix.Fgetxattr(int(f.Fd()), signature, b[:])
	if want := fmt.Sprintf("%016x", p.fingerprint); err == nil && string(b[:n]) != want {
		return fmt.Errorf("%s is a file of pool %s, the record says %s: %w", f.Name(), b[:n], want, ErrForeign)
	}
	return nil
}

// extend adds preallocated zeros from one size to another.
func extend(f *os.File, from, to uint64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, int64(from), int64(to-from))
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EOPNOTSUPP: // overlayfs, NFS: the long way
			zeros := make([]byte, mib)
			for at := from; at < to; at += mib {
				if _, err := f.WriteAt(zeros[:min(mib, to-at)], int64(at)); err != nil {
					return err
				}
			}
			return nil
		case err != nil:
			return fmt.Errorf("%s: %s more: %w", f.Name(), size(to-from), err)
		}
		return nil
	}
}
