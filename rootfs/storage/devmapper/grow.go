package devmapper

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/loop"
)

// maxMeta is the most that dm-thin uses: 255 bitmaps of 16192 blocks (0x3f8040 of 4 KiB).
const maxMeta = 0x3f8040 * 4096

// admitOrGrow is admit, after making room where the pool is on files of ours.
func (p *pool) admitOrGrow() error {
	err := p.admit()
	var data, meta uint64
	switch {
	case errors.Is(err, ErrFull):
		data = p.room(growStep, p.data)
	case errors.Is(err, ErrMetaFull), err == nil && p.kernel.metaUsed > p.kernel.metaTotal/2:
		meta = p.room(max(p.meta.bytes, 16*mib), p.meta) // early: without metadata not even delete works
	}
	if data+meta == 0 {
		return err
	}
	if e := p.growLocked(data, meta); e != nil {
		return errors.Join(err, e)
	}
	return p.admit()
}

// room is how much a file may grow at most, and no more than want: the host keeps a fifth
// of its file system free. 0 when it is not worth it.
func (p *pool) room(want uint64, b backing) uint64 {
	const unit = 16 * mib
	var st unix.Statfs_t
	if !b.ours || unix.Statfs(p.dir, &st) != nil {
		return 0
	}
	free, fifth := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)/5
	if free < fifth {
		return 0
	}
	want = min(want, free-fifth)
	if b == p.data && p.maxBytes > 0 {
		want = min(want, p.maxBytes-min(p.maxBytes, b.bytes))
	}
	if b == p.meta {
		want = min(want, maxMeta-min(maxMeta, b.bytes))
	}
	return want / unit * unit
}

// growLocked gives the shared lock up for the exclusive one, and takes it back; on an
// error it holds none. Between the two anybody may come in, so all is looked at again.
func (p *pool) growLocked(data, meta uint64) error {
	p.leave()
	before := p.kernel
	alone, err := p.enterAlone()
	if err != nil {
		return err
	}
	// Another may have been first.
	if alone.kernel.dataTotal == before.dataTotal && alone.kernel.metaTotal == before.metaTotal {
		err = alone.grow(data, meta)
	}
	alone.leave()
	if err != nil {
		return err
	}
	again, err := p.enter()
	if err == nil {
		*p = *again
	}
	return err
}

var errNoRoom = errors.New("no room to grow")

// Grow makes the pool's files larger by so many bytes, while containers run.
func (d *Driver) Grow(data, meta uint64) error {
	p, err := d.enterAlone()
	if err != nil {
		return err
	}
	defer p.leave()
	if err := p.usable(); err != nil && p.kernel.needsCheck {
		return err
	}
	return p.grow(data, meta)
}

// grow: the files first, durably, then the loop devices, then the pool. The other way
// round a power cut would leave metadata that counts on more than the file has, which the
// kernel refuses to activate.
func (p *pool) grow(data, meta uint64) error {
	next := p.made
	if data > 0 {
		next.data.bytes += data / p.blockBytes() * p.blockBytes()
		if p.maxBytes > 0 && next.data.bytes > p.maxBytes {
			return p.fail("%w: at most %s are allowed", errNoRoom, size(p.maxBytes))
		}
	}
	if meta > 0 {
		next.meta.bytes = min(next.meta.bytes+meta/4096*4096, maxMeta)
	}
	if next.data.bytes == p.data.bytes && next.meta.bytes == p.meta.bytes {
		return p.fail("%w", errNoRoom)
	}
	p.step("extend files")
	for _, b := range []struct{ from, to backing }{{p.meta, next.meta}, {p.data, next.data}} {
		if b.to.bytes == b.from.bytes {
			continue
		}
		if !b.to.ours {
			return p.fail("%s is a device and not grown by us: %w", b.to.path, errNoRoom)
		}
		if err := p.lengthen(b.to, p.returnSpace && b.to.path == p.data.path); err != nil {
			return p.fail("%w", err)
		}
	}
	p.step("record growth")
	if err := writeDurable(p.recordPath(), next.encode()); err != nil {
		return p.fail("%w", err)
	}
	p.made = next
	return p.reload()
}

func (p *pool) lengthen(b backing, sparse bool) error {
	f, err := os.OpenFile(b.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	now, err := deviceBytes(f)
	if err == nil && now < b.bytes {
		if sparse {
			err = f.Truncate(int64(b.bytes))
		} else {
			err = extend(f, now, b.bytes)
		}
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// reload gives the pool the size that its files have.
func (p *pool) reload() error {
	_, targets, err := p.ctl.Table(p.name())
	if err != nil {
		return p.fail("%w", err)
	}
	var numbers [2]string
	var dataBytes uint64
	if len(targets) == 1 {
		f := strings.Fields(targets[0].Params)
		copy(numbers[:], f)
	}
	for i, b := range []backing{p.meta, p.data} {
		var dev *loop.Device
		if b.ours {
			_, minor, _ := strings.Cut(numbers[i], ":")
			n, err := strconv.ParseUint(minor, 10, 32)
			if err != nil {
				return p.fail("table of %s: %v is not understood", p.name(), targets)
			}
			if dev, err = loop.Open(&p.nodes, uint32(n)); err != nil {
				return p.fail("%w", err)
			}
			if err = dev.Grow(); err == nil && i == 1 {
				dataBytes, err = deviceBytes(dev.File)
			}
			if err = errors.Join(err, dev.Close()); err != nil {
				return p.fail("%w", err)
			}
		} else if i == 1 {
			f, _, err := openDevice(b.path)
			if err == nil {
				dataBytes, err = deviceBytes(f)
				f.Close()
			}
			if err != nil {
				return p.fail("%w", err)
			}
		}
	}
	p.step("reload pool")
	if _, err := p.ctl.Load(p.name(), p.table(numbers[0], numbers[1], dataBytes)); err != nil {
		return p.fail("%w", err)
	}
	// Killed in here, the pool stays suspended until the next command finds it so (settle).
	p.step("suspend pool")
	if err := p.ctl.Suspend(p.name(), dm.NoFlush); err != nil {
		return p.fail("%w", errors.Join(err, p.ctl.Clear(p.name())))
	}
	p.step("resume grown pool")
	if _, err := p.ctl.Resume(p.name()); err != nil {
		return p.fail("%w", err)
	}
	return p.look(0)
}
