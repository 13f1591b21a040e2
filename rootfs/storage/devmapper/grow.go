package devmapper

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/loop"
	"thinrun/rootfs/storage/devmapper/thinmeta"
	"thinrun/rootfs/storage/durable"
)

// maxMeta is the most that dm-thin uses: 255 bitmaps of 16192 blocks (0x3f8040 of 4 KiB).
const maxMeta = 0x3f8040 * 4096

// ErrNoRoom: the pool cannot become larger, or not by that much.
var ErrNoRoom = errors.New("no room to grow")

// GrowOptions say how large the pool shall be. All zero: a file grows by one step, and a
// device is taken up to the end that it now has.
type GrowOptions struct {
	DataBytes, MetaBytes uint64 // the new size
	AddData, AddMeta     uint64 // or how much is added
	MaxBytes             uint64 // a new limit for growing by itself; 0: the limit stays
}

// Grown is what it had and what it has.
type Grown struct {
	DataFrom uint64 `json:"dataFromBytes"`
	DataTo   uint64 `json:"dataToBytes"`
	MetaFrom uint64 `json:"metadataFromBytes"`
	MetaTo   uint64 `json:"metadataToBytes"`
}

// Grow makes the pool larger while containers run. It may be killed anywhere: the files
// may then be longer than the pool, and the next Grow takes that up.
func (d *Driver) Grow(o GrowOptions) (Grown, error) {
	p, err := d.enterAlone()
	if err != nil {
		return Grown{}, err
	}
	defer p.leave()
	if err := p.usable(); err != nil && (p.kernel.needsCheck || p.kernel.dead()) {
		return Grown{}, err
	}
	from := p.made
	next, err := p.larger(o)
	if err == nil {
		err = p.growTo(next)
	}
	return Grown{from.data.bytes, p.data.bytes, from.meta.bytes, p.meta.bytes}, err
}

// larger is the pool as the options want it. It refuses what cannot be.
func (p *pool) larger(o GrowOptions) (made, error) {
	next := p.made
	if o.MaxBytes > 0 {
		if !p.data.ours {
			return next, p.fail("a device does not grow by itself, so there is no maximum to set")
		}
		next.maxBytes = o.MaxBytes
	}
	if o == (GrowOptions{}) && p.data.ours {
		o.AddData = p.room(growStep, p.data)
		if o.AddData == 0 {
			return next, p.fail("%w: %s, and a fifth of the host's file system stays free; name a size to grow all the same", ErrNoRoom, p.limit())
		}
	}
	for _, half := range []struct {
		name    string
		b       *backing
		to, add uint64
		unit    uint64
	}{{"data", &next.data, o.DataBytes, o.AddData, p.blockBytes()}, {"metadata", &next.meta, o.MetaBytes, o.AddMeta, 4096}} {
		b := half.b
		if half.to != 0 && half.add != 0 {
			return next, p.fail("%s: either the new size or how much is added", half.name)
		}
		if !b.ours {
			if half.to+half.add != 0 {
				return next, p.fail("%s is a device: make it larger yourself, then run `thinrun pool grow` without a size", b.path)
			}
			f, _, err := openDevice(b.path)
			if err != nil {
				return next, p.fail("%w", err)
			}
			bytes, err := deviceBytes(f)
			if err = errors.Join(err, f.Close()); err != nil {
				return next, p.fail("%w", err)
			}
			b.bytes = max(b.bytes, bytes)
			continue
		}
		to := max(half.to, b.bytes+half.add) / half.unit * half.unit
		if half.to != 0 && half.to < b.bytes {
			return next, p.fail("%s has %s already and cannot become smaller; `thinrun pool trim` gives unused space back", half.name, size(b.bytes))
		}
		b.bytes = max(b.bytes, to)
	}
	if next.maxBytes > 0 && next.data.ours && next.data.bytes > next.maxBytes {
		return next, p.fail("%w: at most %s are allowed; say --max-size for more", ErrNoRoom, size(next.maxBytes))
	}
	if next.meta.ours && next.meta.bytes > maxMeta {
		return next, p.fail("%w: dm-thin uses at most %s of metadata", ErrNoRoom, size(maxMeta))
	}
	if next.data == p.data && next.meta == p.meta && next.maxBytes == p.maxBytes {
		if !p.data.ours {
			return next, p.fail("%w: %s is as large as before", ErrNoRoom, p.data.path)
		}
		return next, p.fail("%w: it has that size already", ErrNoRoom)
	}
	return next, nil
}

func (m *made) limit() string {
	if m.maxBytes == 0 {
		return "there is no maximum"
	}
	return "the maximum is " + size(m.maxBytes)
}

// room is how much a file may grow by itself: want, or less. The host keeps a fifth of its
// file system free. 0 when it is not worth it.
func (p *pool) room(want uint64, b backing) uint64 {
	const unit = 16 * mib
	var st unix.Statfs_t
	if want == 0 || !b.ours || unix.Statfs(p.dir, &st) != nil {
		return 0
	}
	free, fifth := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)/5
	if free < fifth {
		return 0
	}
	most := free - fifth
	if b == p.data && p.maxBytes > 0 {
		most = min(most, p.maxBytes-min(p.maxBytes, b.bytes))
	}
	if b == p.meta {
		most = min(most, maxMeta-min(maxMeta, b.bytes))
	}
	return min((want+unit-1)/unit, most/unit) * unit
}

// growLocked gives the shared lock up for the exclusive one, and takes it back. grown is
// why the pool has not grown, err why p is not usable any more.
func (p *pool) growLocked(w want) (grown, err error) {
	p.leave()
	before := p.kernel
	alone, grown := p.enterAlone()
	if grown == nil {
		// Between the two locks another may have been first.
		if alone.kernel.dataTotal == before.dataTotal && alone.kernel.metaTotal == before.metaTotal {
			next := alone.made
			next.data.bytes += w.data / alone.blockBytes() * alone.blockBytes()
			next.meta.bytes += w.meta / 4096 * 4096
			grown = alone.growTo(next)
		}
		alone.leave()
	}
	again, err := p.enter()
	if err == nil {
		*p = *again
	}
	return grown, err
}

// growTo: the files first, durably, then the record, then the loop devices and the pool.
// The other way round a power cut would leave metadata that counts on more than the file
// has, which the kernel refuses to activate.
//
// Metadata before data: the kernel counts new data before it looks if its metadata has
// become larger. If it cannot, it stops there, with the pool suspended, in need of a check,
// and of another size than its record.
func (p *pool) growTo(next made) error {
	if need, free := p.counting(next.data.bytes), p.kernel.metaTotal-p.kernel.metaUsed; need > free {
		more := (need - free) * 4096
		if next.meta.ours && next.meta.bytes < p.meta.bytes+more {
			next.meta.bytes = min(p.meta.bytes+(more+16*mib-1)/(16*mib)*(16*mib), maxMeta)
		}
		if next.meta.bytes < p.meta.bytes+more {
			return p.fail("%w: to count %s of data takes %s more of it", ErrMetaFull, size(next.data.bytes), size(more))
		}
	}
	p.step("extend files")
	for _, b := range []struct{ from, to backing }{{p.meta, next.meta}, {p.data, next.data}} {
		if b.to.bytes == b.from.bytes || !b.to.ours {
			continue
		}
		if err := p.lengthen(b.to, p.returnSpace && b.to.path == p.data.path); err != nil {
			return p.fail("%w: %w", ErrNoRoom, err)
		}
	}
	if next.meta != p.meta && next.data != p.data {
		first := next
		first.data = p.data
		if err := p.resize(first); err != nil {
			return err
		}
	}
	return p.resize(next)
}

// counting is how many metadata blocks it takes to count more data: a bitmap for each
// PerBitmap of blocks, nodes of their index that may be half full, and copies of the nodes
// on the way there.
func (p *pool) counting(bytes uint64) uint64 {
	now, then := p.kernel.dataTotal, bytes/p.blockBytes()
	if then <= now {
		return 0
	}
	n := (then-now)/thinmeta.PerBitmap + 1
	return n + n/64 + 32
}

// resize records the pool's new sizes and has the kernel take them.
func (p *pool) resize(next made) error {
	p.step("record growth")
	if err := durable.Write(p.recordPath(), next.encode()); err != nil {
		return p.fail("%w", err)
	}
	p.made = next
	return p.reload()
}

// lengthen makes a file longer, or leaves it as it was.
func (p *pool) lengthen(b backing, sparse bool) error {
	f, err := os.OpenFile(b.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	now, err := deviceBytes(f)
	if err == nil && now < b.bytes {
		if sparse {
			err = f.Truncate(int64(b.bytes))
		} else if err = extend(f, now, b.bytes); err != nil {
			f.Truncate(int64(now)) // what was allocated before there was no more
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// reload gives the pool the size that its record says.
func (p *pool) reload() error {
	_, targets, err := p.ctl.Table(p.name())
	if err != nil {
		return p.fail("%w", err)
	}
	var numbers [2]string
	if len(targets) == 1 {
		copy(numbers[:], strings.Fields(targets[0].Params))
	}
	for i, b := range []backing{p.meta, p.data} {
		if !b.ours {
			continue
		}
		_, minor, _ := strings.Cut(numbers[i], ":")
		n, err := strconv.ParseUint(minor, 10, 32)
		if err != nil {
			return p.fail("table of %s: %v is not understood", p.name(), targets)
		}
		dev, err := loop.Open(&p.nodes, uint32(n))
		if err == nil {
			err = errors.Join(dev.Grow(), dev.Close())
		}
		if err != nil {
			return p.fail("%w", err)
		}
	}
	return p.swap(p.table(numbers[0], numbers[1]))
}

// swap puts a new table under the pool while I/O waits.
func (p *pool) swap(table dm.Target) error {
	p.step("reload pool")
	if _, err := p.ctl.Load(p.name(), table); err != nil {
		return p.fail("%w (the kernel's log says more)", err)
	}
	// Killed in here, the pool and all containers stand until the guardian or the next
	// command finds it so (settle).
	done := func() {}
	if p.opts.Guard != nil {
		var err error
		if done, err = p.opts.Guard(p.name()); err != nil {
			return p.fail("nobody watches over the suspended pool: %w", errors.Join(err, p.ctl.Clear(p.name())))
		}
	}
	defer holdSignals()()
	p.step("suspend pool")
	if err := p.ctl.Suspend(p.name(), dm.NoFlush); err != nil {
		done()
		return p.fail("%w", errors.Join(err, p.ctl.Clear(p.name())))
	}
	p.step("resume grown pool")
	if _, err := p.ctl.Resume(p.name()); err != nil {
		return p.fail("%w (the kernel's log says more)", err)
	}
	done()
	// 0: the kernel commits, and only then looks whether there is room again.
	if err := p.look(0); err != nil {
		return err
	}
	if p.kernel.dataTotal*p.blockBytes() < p.data.bytes/p.blockBytes()*p.blockBytes() {
		return p.fail("the kernel took %s of %s: %w", size(p.kernel.dataTotal*p.blockBytes()), size(p.data.bytes), ErrNoRoom)
	}
	return nil
}
