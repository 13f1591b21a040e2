package devmapper

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/loop"
	"thinrun/rootfs/storage/devmapper/thinmeta"
)

// activate makes the pool's device, if it is not there. The caller holds the lock alone.
func (p *pool) activate() error {
	if err := p.settle(); err != nil {
		return err
	}
	err := p.look(dm.NoFlush)
	if err == nil && p.kernel.dead() {
		if err = p.revive(); err == nil {
			err = p.look(dm.NoFlush)
		}
	}
	if err == nil && p.behind() {
		if err := p.reload(); err != nil {
			p.warn(err)
		}
		return p.look(dm.NoFlush)
	}
	if !errors.Is(err, errInactive) {
		return err
	}
	if err := p.checkFiles(); err != nil {
		return err
	}
	// Refuse what is not ours before the kernel may write to it.
	for _, b := range []backing{p.meta, p.data} {
		if err := p.whose(b); err != nil {
			return err
		}
	}
	sb, err := p.offline()
	if err != nil {
		return err
	}
	if sb.NeedsCheck {
		return p.needsCheck()
	}
	// A metadata snapshot, of an earlier thinrun or another tool, keeps what it has from being
	// free, for ever, and to have the kernel release it is not safe (thinmeta.Recount).
	if sb.HeldRoot != 0 {
		if err := p.recount(); err != nil {
			return err
		}
		if sb, err = p.superblock(); err != nil {
			return err
		}
	}
	thins, err := p.offlineThins(sb)
	if err != nil {
		return err
	}
	if err := p.start(); err != nil {
		return err
	}
	if err := p.look(dm.NoFlush); err != nil {
		return err
	}
	// Nothing was active, so nothing runs: all that no claim of this boot holds is garbage. A
	// pool without metadata to delete it with keeps it, until it was grown and gc comes.
	if _, err = p.collect(thins); err != nil && p.look(dm.NoFlush) == nil && p.usable() != nil {
		return nil
	}
	return err
}

// behind tells of one who grew the pool and was killed after the record.
func (p *pool) behind() bool {
	k := p.kernel
	if k.dead() || k.needsCheck {
		return false
	}
	return k.dataTotal < p.data.bytes/p.blockBytes() || p.meta.ours && k.metaTotal < min(p.meta.bytes, maxMeta)/4096
}

func (p *pool) whose(b backing) error {
	if !b.ours {
		return nil
	}
	f, err := os.Open(b.path)
	if err != nil {
		return p.fail("%w", err)
	}
	defer f.Close()
	if err := p.signed(f); err != nil {
		return p.fail("%w", err)
	}
	return nil
}

// settle finishes or undoes what a killed process left of the pool's device: without a
// table, with one that was never resumed, or suspended while it was grown.
func (p *pool) settle() error {
	info, err := p.ctl.Info(p.name())
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return p.fail("%w", err)
	}
	switch {
	case !info.Live:
		if _, err := p.ctl.Remove(p.name(), false); err != nil && !errors.Is(err, unix.ENXIO) {
			return p.fail("half-made: %w", err)
		}
	case info.Suspended:
		// A table that waits was loaded by the one who grew the files first, so that it is
		// right to let the resume take it.
		if _, err := p.ctl.Resume(p.name()); err != nil {
			return p.fail("suspended: %w", err)
		}
	}
	return nil
}

// offline is the superblock of an inactive pool: what a renewal has left is written out,
// and it is the one on record.
func (p *pool) offline() (*thinmeta.Superblock, error) {
	if err := p.finishRenewal(); err != nil {
		return nil, err
	}
	sb, err := p.superblock()
	if err != nil {
		return nil, err
	}
	if sb.Transaction != p.fingerprint {
		return nil, p.foreign(sb.Transaction)
	}
	return sb, nil
}

func (p *pool) offlineThins(sb *thinmeta.Superblock) ([]thinmeta.Thin, error) {
	r, err := p.metadata()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	thins, err := sb.Thins(r)
	if err != nil {
		return nil, p.inMetadata(err)
	}
	return thins, nil
}

// start makes the device: two loop devices for files, CREATE, LOAD, RESUME. The loop
// devices live as long as somebody uses them, so a kill at any point leaves at most a
// device without a table.
func (p *pool) start() (err error) {
	p.step("attach")
	meta, metaNumber, err := p.attach(p.meta)
	if err != nil {
		return p.fail("%w", err)
	}
	defer meta.Close()
	data, dataNumber, err := p.attach(p.data)
	if err != nil {
		return p.fail("%w", err)
	}
	defer data.Close()
	p.step("create pool")
	if _, err := p.ctl.Create(p.name(), fmt.Sprintf("THINRUN-%016x", p.fingerprint)); err != nil {
		return p.fail("%w", err)
	}
	defer func() {
		if err != nil {
			p.ctl.Remove(p.name(), false)
		}
	}()
	p.step("load pool")
	if _, err := p.ctl.Load(p.name(), p.table(metaNumber, dataNumber)); err != nil {
		return p.fail("%w (the kernel's log says more)", err)
	}
	p.step("resume pool")
	if _, err := p.ctl.Resume(p.name()); err != nil {
		return p.fail("%w (the kernel's log says more)", err)
	}
	return nil
}

// table is the pool's table line. Zeroing stays on: without it a new block shows what
// its last owner wrote, also inside the base's inode tables, which were never written.
//
// The length is that on record: a file or a device that has become longer is taken up by
// Grow, and by nothing else. The low water mark is where the pool begins to grow; the
// kernel only tells of it (Watch).
func (p *pool) table(meta, data string) dm.Target {
	features := "2 error_if_no_space no_discard_passdown"
	if p.returnSpace {
		features = "1 error_if_no_space"
	}
	low := p.earlyBytes(p.data.bytes) / p.blockBytes()
	return dm.Target{
		Length: p.data.bytes / p.blockBytes() * p.blockSector, Type: "thin-pool",
		Params: fmt.Sprintf("%s %s %d %d %s", meta, data, p.blockSector, low, features),
	}
}

// attach opens a half of the pool as a block device.
func (p *pool) attach(b backing) (f *os.File, number string, err error) {
	if b.ours {
		file, err := os.OpenFile(b.path, os.O_RDWR, 0)
		if err != nil {
			return nil, "", err
		}
		defer file.Close()
		d, err := loop.Attach(&p.nodes, file)
		if err != nil {
			return nil, "", err
		}
		f, number = d.File, fmt.Sprintf("%d:%d", d.Major, d.Minor)
	} else {
		if f, number, err = openDevice(b.path); err != nil {
			return nil, "", err
		}
	}
	bytes, err := deviceBytes(f)
	if err == nil && bytes < b.bytes {
		err = fmt.Errorf("%s has %d bytes, %d are on record: %w", b.path, bytes, b.bytes, ErrTruncated)
	}
	if err != nil {
		f.Close()
		return nil, "", err
	}
	return f, number, nil
}

func openDevice(path string) (*os.File, string, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, "", err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != devnode.Block {
		f.Close()
		return nil, "", fmt.Errorf("%s is no block device", path)
	}
	return f, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}

func deviceBytes(f *os.File) (uint64, error) {
	n, err := f.Seek(0, 2) // what BLKGETSIZE64 says, without unsafe
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return uint64(n), nil
}
