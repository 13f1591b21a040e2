package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
)

// clockLimit: past 2^24 the kernel mixes the snapshot clock into block addresses and
// writes are lost without an error (STORAGE 0.1), so new snapshots end a good way before.
const (
	clockLimit = 1<<24 - 65536
	clockWarn  = clockLimit / 4 * 3
)

// pool is the pool under a lock, found active and to be the one on record.
type pool struct {
	*Driver
	made
	ctl    *dm.Control
	lock   *os.File
	sole   bool // nobody shares the lock
	device dm.Device
	kernel kernelStatus
}

// made is the pool's record: what it was made of.
type made struct {
	ready       bool   // false: its maker has not finished
	fingerprint uint64 // the pool's transaction id, set once to a random number
	blockSector uint64
	data, meta  backing
	base        string // layer id of the empty file system
	baseBytes   uint64
	lowBytes    uint64 // with less free nothing new starts
	maxBytes    uint64 // the data file is not grown beyond it; 0: as the host's space allows
	strict      bool   // nothing starts that could fill the pool
	returnSpace bool   // sparse data file that shrinks when containers go
}

// backing is one of the two halves of a pool.
type backing struct {
	path  string
	ours  bool // a file that we made; else a block device that we were given
	bytes uint64
}

func (m *made) encode() []byte {
	state := "new"
	if m.ready {
		state = "ready"
	}
	return lines("version", 1, "state", state, "fingerprint", fmt.Sprintf("%016x", m.fingerprint),
		"blockSectors", m.blockSector, "base", m.base, "baseBytes", m.baseBytes,
		"data", m.data.path, "dataBytes", m.data.bytes, "dataIsFile", m.data.ours,
		"metadata", m.meta.path, "metadataBytes", m.meta.bytes, "metadataIsFile", m.meta.ours,
		"lowBytes", m.lowBytes, "maxBytes", m.maxBytes, "strict", m.strict, "returnSpace", m.returnSpace)
}

func decodeMade(r record) (made, error) {
	if v := r.num("version"); v != 1 {
		return made{}, fmt.Errorf("version %d of the record is not known here; use the thinrun that made it", v)
	}
	fingerprint, err := strconv.ParseUint(r.str("fingerprint"), 16, 64)
	if err != nil {
		return made{}, fmt.Errorf("fingerprint: %w", err)
	}
	return made{
		ready: r.str("state") == "ready", fingerprint: fingerprint,
		blockSector: r.num("blockSectors"), base: r.str("base"), baseBytes: r.num("baseBytes"),
		data:     backing{r.str("data"), r.yes("dataIsFile"), r.num("dataBytes")},
		meta:     backing{r.str("metadata"), r.yes("metadataIsFile"), r.num("metadataBytes")},
		lowBytes: r.num("lowBytes"), maxBytes: r.num("maxBytes"), strict: r.yes("strict"), returnSpace: r.yes("returnSpace"),
	}, nil
}

func (m *made) name() string { return m.prefix() + "pool" }

// prefix of all dm names of the pool: a device name says which pool and which id, so that
// the kernel's EBUSY on a taken name is the lock on the id. It would let one id be active
// under two names, and two mounts of one file system destroy it.
func (m *made) prefix() string {
	return fmt.Sprintf("thinrun-%08x-", uint32(m.fingerprint>>32))
}

func (m *made) thinName(id uint32) string { return fmt.Sprintf("%s%06x", m.prefix(), id) }

func (m *made) blockBytes() uint64 { return m.blockSector * 512 }

// blocks is how many blocks a disk of so many bytes has at most.
func (m *made) blocks(bytes uint64) uint64 { return (bytes + m.blockBytes() - 1) / m.blockBytes() }

var errInactive = errors.New("the pool is not active")

// enter locks the pool (shared), activates it if need be, and makes sure that it is the
// one on record. The caller leaves.
func (d *Driver) enter() (*pool, error) {
	for n := range 8 { // more than once only when somebody takes the pool down meanwhile, or it is dead or behind its record
		p, err := d.open(unix.LOCK_SH)
		if err != nil {
			return nil, err
		}
		if err = p.look(dm.NoFlush); err == nil && (n > 0 || !p.kernel.dead() && !p.behind()) {
			return p, nil
		}
		p.leave()
		if err != nil && !errors.Is(err, errInactive) {
			return nil, err
		}
		if p, err = d.enterAlone(); err != nil {
			return nil, err
		}
		p.leave() // a lock cannot be made shared without a gap, so look again
	}
	return nil, fmt.Errorf("pool %s is taken down again and again by others: %w", d.dir, ErrInUse)
}

// enterAlone is enter with the exclusive lock: nobody else makes or removes anything,
// though layers are being written and containers run.
func (d *Driver) enterAlone() (*pool, error) {
	p, err := d.open(unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	if err = p.activate(); err != nil {
		p.leave()
		return nil, err
	}
	return p, nil
}

// open is the pool by its record, active or not.
func (d *Driver) open(how int) (*pool, error) {
	p, err := d.openAny(how)
	if err == nil && !p.ready {
		p.leave()
		return nil, fmt.Errorf("%s: %w (the one who made it was stopped half-way)", d.dir, ErrNoPool)
	}
	return p, err
}

// openAny is open for a pool that may be half-made.
func (d *Driver) openAny(how int) (*pool, error) {
	lock, err := d.locked(how)
	if err != nil {
		return nil, err
	}
	m, err := d.record()
	if err != nil {
		lock.Close()
		return nil, err
	}
	ctl, err := d.dm()
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &pool{Driver: d, made: m, ctl: ctl, lock: lock, sole: how == unix.LOCK_EX}, nil
}

func (d *Driver) recordPath() string { return filepath.Join(d.dir, "pool") }

func (d *Driver) record() (made, error) {
	r, err := readRecord(d.recordPath())
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := os.Lstat(filepath.Join(d.dir, "data")); e == nil {
			return made{}, fmt.Errorf("pool %s: its files are there but its record %q is not; put that back, or remove the directory to lose the pool's images", d.dir, "pool")
		}
		return made{}, fmt.Errorf("%s: %w", d.dir, ErrNoPool)
	}
	if err != nil {
		return made{}, fmt.Errorf("pool: %w", err)
	}
	m, err := decodeMade(r)
	if err != nil {
		return made{}, fmt.Errorf("pool %s: %w", d.recordPath(), err)
	}
	return m, nil
}

func (p *pool) leave() { p.lock.Close() }

// fail puts the pool's place before an error.
func (p *pool) fail(format string, args ...any) error {
	return fmt.Errorf("pool "+p.dir+": "+format, args...)
}

// size is a number of bytes for people.
func size(n uint64) string {
	for _, u := range []struct {
		bytes uint64
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.bytes {
			return strconv.FormatFloat(float64(n)/float64(u.bytes), 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatUint(n, 10) + " bytes"
}
