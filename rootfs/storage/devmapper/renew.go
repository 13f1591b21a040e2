package devmapper

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/thinmeta"
	"thinrun/rootfs/storage/durable"
)

// Renew sets the pool's clock of snapshots back to 1, so that it can make another 2^24
// (clockLimit). No container may run and no layer be written meanwhile; those that are
// stopped keep their disks.
//
// All blocks that change are worked out first and checked as if they were written. They go
// into a log beside the pool, whose rename to its name is the decision: before that
// nothing has changed, after it whoever is next to look at the pool writes the log out
// (finishRenewal), as often as it takes. So the metadata is the old or the new, also
// after a power cut that tears a block; and a file and a device are the same to it.
//
// Layer ids stay. They hold the time at which the pool made the layer, which tells it from
// a later one with the same thin id; that time stays in the details, too. After a renewal
// the clock passes the same times again, but ids are random: a layer would have to get the
// id of another that was removed behind its image's back, at the same time of the clock,
// once in 2^24 ids times 2^24 times. A generation in the record would rule that out and
// would be one more thing that two files have to agree on.
func (d *Driver) Renew() error {
	p, err := d.enterAlone()
	if err != nil {
		return err
	}
	defer p.leave()
	if err := p.idle(); err != nil {
		return err
	}
	if err := p.usable(); err != nil {
		return err
	}
	if err := p.look(0); err != nil { // 0: commit
		return err
	}
	if err := p.takeDown(); err != nil {
		return err
	}
	if err := p.recount(); err != nil { // a metadata snapshot has times of its own
		return err
	}
	if err := p.rewrite((*thinmeta.Superblock).Renewal); err != nil {
		return err
	}
	// The kernel's opinion of it, and ready for the next.
	if err := p.activate(); err != nil {
		return err
	}
	p.step("renewed")
	return nil
}

// idle: nothing of the pool is in use. The caller holds the lock alone, so nothing begins.
func (p *pool) idle() error {
	err := p.eachClaim(func(id uint32, path string, f *os.File, r record) error {
		if f != nil {
			f.Close()
		} else if r, err := readRecord(path); err == nil {
			return p.fail("%w: a %s is being written", ErrInUse, r.str("what"))
		}
		if info, err := p.ctl.Info(p.thinName(id)); err == nil && info.Opened > 0 && r.str("container") != "" {
			return p.fail("%w: container %q is running; stop it first", ErrInUse, r.str("container"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.noneOpen()
}

func (p *pool) renewalPath() string { return filepath.Join(p.dir, "renew") }

// renewalMagic begins the log, then the pool's fingerprint, then for each block its number
// and content, in the order of Renewal, then the SHA-256 of all before.
const renewalMagic = "thinrun renew 1\n"

// recount drops a metadata snapshot that somebody has left, an earlier thinrun or another
// tool, gives back what no tree owns, and clears the flag that has the kernel refuse to
// write. No pool is on the metadata.
func (p *pool) recount() error {
	return p.rewrite(func(_ *thinmeta.Superblock, meta io.ReaderAt, block func(uint64, []byte) error) error {
		return thinmeta.Recount(meta, p.data.bytes/p.blockBytes(), block)
	})
}

// change says which blocks of the metadata are to be others.
type change func(sb *thinmeta.Superblock, meta io.ReaderAt, block func(number uint64, content []byte) error) error

// rewrite changes blocks of an inactive pool's metadata, all or none.
func (p *pool) rewrite(what change) error {
	if err := p.logRewrite(what); err != nil {
		return err
	}
	return p.finishRenewal()
}

// logRewrite writes the log, if there is anything to change.
func (p *pool) logRewrite(what change) error {
	p.step("plan renewal")
	meta, err := p.metadata()
	if err != nil {
		return err
	}
	defer meta.Close()
	sb, err := thinmeta.ReadSuperblock(meta, 0)
	if err != nil {
		return p.inMetadata(err)
	}
	log := binary.BigEndian.AppendUint64([]byte(renewalMagic), p.fingerprint)
	next := patched{r: meta, blocks: map[uint64][]byte{}}
	err = what(sb, meta, func(block uint64, content []byte) error {
		next.blocks[block] = bytes.Clone(content)
		log = append(binary.BigEndian.AppendUint64(log, block), content...)
		return nil
	})
	if err == nil && len(next.blocks) == 0 {
		return nil
	}
	if err == nil { // if anything is wrong, it was so before
		var checked *thinmeta.Checked
		if checked, err = thinmeta.Check(next, p.data.bytes/p.blockBytes()); err == nil && !checked.OK() {
			err = fmt.Errorf("%s, and more if there is more: %w", checked.Problems[0], thinmeta.ErrDamaged)
		}
	}
	if errors.Is(err, thinmeta.ErrDamaged) {
		return p.fail("%s: %w: %w; it stays as it is, thin_repair may help", p.meta.path, err, ErrNeedsCheck)
	}
	if err != nil {
		return p.inMetadata(err)
	}
	sum := sha256.Sum256(log)
	p.step("log renewal")
	if err := durable.Write(p.renewalPath(), append(log, sum[:]...)); err != nil {
		return p.fail("%w", err)
	}
	return nil
}

// patched is metadata with some blocks replaced.
type patched struct {
	r      io.ReaderAt
	blocks map[uint64][]byte
}

func (m patched) ReadAt(b []byte, at int64) (int, error) {
	if content, ok := m.blocks[uint64(at)/thinmeta.BlockSize]; ok {
		return copy(b, content), nil
	}
	return m.r.ReadAt(b, at)
}

// finishRenewal writes a log out that is there. It comes before the pool is activated: the
// kernel would use the blocks in another way than the log has them.
func (p *pool) finishRenewal() error {
	if err := os.Remove(p.renewalPath() + ".tmp"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.fail("%w", err) // one that was never decided
	}
	log, err := os.ReadFile(p.renewalPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return p.fail("%w", err)
	}
	if err := p.look(dm.NoFlush); !errors.Is(err, errInactive) {
		return errors.Join(p.fail("it is active and its renewal in %s is not written out: %w", p.renewalPath(), ErrInUse), err)
	}
	const entry = 8 + thinmeta.BlockSize
	head := binary.BigEndian.AppendUint64([]byte(renewalMagic), p.fingerprint)
	content := log[:max(0, len(log)-sha256.Size)]
	if sum := sha256.Sum256(content); !bytes.Equal(log[len(content):], sum[:]) || !bytes.HasPrefix(content, head) || (len(content)-len(head))%entry != 0 {
		return p.fail("%s is damaged, or another pool's: %w; if thin_check finds nothing in %s, remove it", p.renewalPath(), ErrForeign, p.meta.path)
	}
	f, err := os.OpenFile(p.meta.path, os.O_RDWR, 0)
	if err != nil {
		return p.fail("%w", err)
	}
	defer f.Close()
	for at := content[len(head):]; len(at) > 0; at = at[entry:] {
		p.step("write renewed block")
		block := binary.BigEndian.Uint64(at)
		if _, err := f.WriteAt(at[8:entry], int64(block)*thinmeta.BlockSize); err != nil {
			return p.fail("%w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return p.fail("%w", err)
	}
	p.step("drop renewal's log")
	if err := durable.Remove(p.renewalPath()); err != nil {
		return p.fail("%w", err)
	}
	return nil
}
