package devmapper

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/thinmeta"
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

// kernelStatus is the thin-pool target's status line.
type kernelStatus struct {
	transaction          uint64
	metaUsed, metaTotal  uint64 // 4 KiB blocks, the kernel's own reserve included in used
	dataUsed, dataTotal  uint64 // blocks
	held                 string // block of the metadata snapshot, or "-"
	mode                 string // rw, ro, out_of_data_space, Fail, Error
	needsCheck, passdown bool
}

// parseStatus reads the line as Documentation/admin-guide/device-mapper/thin-provisioning
// has it: "1 1649/16384 0/16384 - rw discard_passdown queue_if_no_space - 1024".
func parseStatus(line string) (s kernelStatus, err error) {
	f := strings.Fields(line)
	if len(f) == 1 && (f[0] == "Fail" || f[0] == "Error") {
		return kernelStatus{mode: f[0]}, nil
	}
	if len(f) < 8 {
		return s, fmt.Errorf("thin-pool status %q is too short", line)
	}
	if s.transaction, err = strconv.ParseUint(f[0], 10, 64); err != nil {
		return s, fmt.Errorf("thin-pool status %q: %w", line, err)
	}
	pair := func(text string) (a, b uint64) {
		used, total, _ := strings.Cut(text, "/")
		a, e := strconv.ParseUint(used, 10, 64)
		b, e2 := strconv.ParseUint(total, 10, 64)
		err = errors.Join(err, e, e2)
		return a, b
	}
	s.metaUsed, s.metaTotal = pair(f[1])
	s.dataUsed, s.dataTotal = pair(f[2])
	if err != nil {
		return s, fmt.Errorf("thin-pool status %q: %w", line, err)
	}
	s.held, s.mode, s.passdown, s.needsCheck = f[3], f[4], f[5] == "discard_passdown", f[7] == "needs_check"
	return s, nil
}

// look asks the kernel how the pool is. errInactive: there is no such device, or a
// half-made or suspended one, which only an exclusive lock's holder may touch.
func (p *pool) look(flags uint32) error {
	dev, targets, err := p.ctl.Status(p.name(), flags)
	if errors.Is(err, unix.ENXIO) {
		return errInactive
	}
	if err != nil {
		return p.fail("%w", err)
	}
	if !dev.Live || dev.Suspended {
		return errInactive
	}
	if len(targets) != 1 || targets[0].Type != "thin-pool" {
		return p.fail("device %s is no thin-pool but %v: %w", p.name(), targets, ErrForeign)
	}
	s, err := parseStatus(targets[0].Params)
	if err != nil {
		return p.fail("%w", err)
	}
	if s.mode != "Fail" && s.mode != "Error" && s.transaction != p.fingerprint {
		return p.foreign(s.transaction)
	}
	p.device, p.kernel = dev, s
	return p.checkFiles()
}

func (p *pool) foreign(found uint64) error {
	return p.fail("its fingerprint is %016x, the record says %016x: %w", found, p.fingerprint, ErrForeign)
}

// checkFiles refuses a pool whose file has become shorter, before anything is read from
// or written to it.
func (p *pool) checkFiles() error {
	for _, b := range []backing{p.data, p.meta} {
		if !b.ours {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(b.path, &st); err != nil {
			return p.fail("%s: %w", b.path, err)
		}
		if uint64(st.Size) < b.bytes {
			return p.fail("%s has %d bytes, %d are on record: %w; put the whole file back, or remove %s to lose the pool's images", b.path, st.Size, b.bytes, ErrTruncated, p.dir)
		}
	}
	return nil
}

// usable tells if the pool answers to messages.
func (p *pool) usable() error {
	switch s := p.kernel; {
	case s.needsCheck:
		return p.needsCheck()
	case s.mode == "ro":
		return p.fail("%w (out of metadata space; run `thinrun pool grow --metadata-size`; see the kernel's log)", ErrReadOnly)
	case s.mode == "Fail" || s.mode == "Error":
		return p.fail("%w: the kernel has shut it down (%s) because a device below it failed, see the kernel's log; it comes back when its containers have ended and the device is well", ErrReadOnly, s.mode)
	}
	return nil
}

func (p *pool) needsCheck() error {
	return p.fail("%w: a write to it failed; see to %s and %s, stop its containers and run `thinrun pool check --repair` (it is what thin_check does)", ErrNeedsCheck, p.meta.path, p.data.path)
}

// message sends one message to the pool and makes sure that it was kept: the kernel
// answers 0 even when the commit behind it failed and all was rolled back.
func (p *pool) message(format string, args ...any) error {
	if err := p.ctl.Message(p.name(), fmt.Sprintf(format, args...)); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) && p.look(dm.NoFlush) == nil && p.usable() != nil {
			return p.usable()
		}
		return p.fail("%w", err)
	}
	if err := p.look(dm.NoFlush); err != nil {
		return err
	}
	return p.usable()
}

// superblock is the pool's metadata as last committed.
func (p *pool) superblock() (*thinmeta.Superblock, error) {
	r, err := p.metadata()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	sb, err := thinmeta.ReadSuperblock(r, 0)
	if err != nil {
		return nil, p.fail("%s: %w", p.meta.path, err)
	}
	return sb, nil
}

// thin reads the pool's record of a thin device: when it was made, and how many blocks it has. Blocks that the last transaction uses are
// not written again before the next but one, so if the superblock is the same before and
// after, all that was read in between belonged to it.
func (p *pool) thin(id uint32) (thinmeta.Thin, error) {
	r, err := p.metadata()
	if err != nil {
		return thinmeta.Thin{}, err
	}
	defer r.Close()
	for range 100 {
		before, err := thinmeta.ReadSuperblock(r, 0)
		if err != nil {
			return thinmeta.Thin{}, p.fail("%s: %w", p.meta.path, err)
		}
		thin, ok, err := before.Thin(r, id)
		after, e := thinmeta.ReadSuperblock(r, 0)
		if e != nil {
			return thinmeta.Thin{}, p.fail("%s: %w", p.meta.path, e)
		}
		if *before != *after {
			continue // somebody committed
		}
		if err != nil {
			return thinmeta.Thin{}, p.fail("%s: %w", p.meta.path, err)
		}
		if !ok {
			return thinmeta.Thin{}, p.fail("thin device %d is not in it: %w", id, fs.ErrNotExist)
		}
		return thin, nil
	}
	return thinmeta.Thin{}, p.fail("its metadata changes too fast to be read")
}

type metadata interface {
	io.ReaderAt
	io.Closer
}

// metadata opens the metadata for reading. Of a file, the page cache is what the loop
// device writes or has just made invalid; a block device's own cache knows nothing of
// dm-thin's writes, so there it is direct I/O.
func (p *pool) metadata() (metadata, error) {
	flags := os.O_RDONLY
	if !p.meta.ours {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(p.meta.path, flags, 0)
	if err != nil {
		return nil, p.fail("metadata: %w", err)
	}
	if p.meta.ours {
		return f, nil
	}
	return direct{f}, nil
}

// direct reads whole metadata blocks through an aligned buffer.
type direct struct{ *os.File }

func (d direct) ReadAt(b []byte, at int64) (int, error) {
	raw := make([]byte, 2*thinmeta.BlockSize)
	skip := thinmeta.BlockSize - int(uintptr(unsafe.Pointer(&raw[0]))%thinmeta.BlockSize)
	aligned := raw[skip%thinmeta.BlockSize:][:thinmeta.BlockSize]
	n, err := d.File.ReadAt(aligned, at)
	return copy(b, aligned[:n]), err
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
