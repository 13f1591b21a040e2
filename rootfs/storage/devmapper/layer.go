package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/durable"
)

// layer is a sealed layer's record. It is durable before anything may count on the layer,
// and gone for good before its thin id goes.
type layer struct {
	thin    uint32
	created uint32 // the pool's clock; with it an id that was used again is another layer
	parent  string
	chain   string // OCI chain id
	bytes   uint64 // of the virtual disk
	mapped  uint64 // blocks, when it was sealed
	base    bool
}

func (l layer) id() string { return fmt.Sprintf("%06x-%08x", l.thin, l.created) }

// record is what giveBack wants to know of a claim.
func (l layer) record() record { return record{"bytes": strconv.FormatUint(l.bytes, 10)} }

func (d *Driver) layersDir() string { return filepath.Join(d.dir, "layers") }

func (d *Driver) layerPath(id uint32) string {
	return filepath.Join(d.layersDir(), fmt.Sprintf("%06x", id))
}

// ErrNoLayer: there is no such layer in the pool.
var ErrNoLayer = errors.New("no such layer")

func (d *Driver) layer(id string) (layer, error) {
	thin, created, ok := parseLayerID(id)
	if !ok {
		return layer{}, fmt.Errorf("pool %s: layer %q: %w", d.dir, id, ErrNoLayer)
	}
	r, err := readRecord(d.layerPath(thin))
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.num("created") != uint64(created) {
		return layer{}, fmt.Errorf("pool %s: layer %q: %w", d.dir, id, ErrNoLayer)
	}
	if err != nil {
		return layer{}, fmt.Errorf("pool %s: layer %q: %w", d.dir, id, err)
	}
	return recorded(thin, r), nil
}

func recorded(thin uint32, r record) layer {
	return layer{thin, uint32(r.num("created")), r.str("parent"), r.str("chain"), r.num("bytes"), r.num("mapped"), r.yes("base")}
}

func parseLayerID(id string) (thin, created uint32, ok bool) {
	a, b, _ := strings.Cut(id, "-")
	t, err := strconv.ParseUint(a, 16, 24)
	c, err2 := strconv.ParseUint(b, 16, 32)
	return uint32(t), uint32(c), err == nil && err2 == nil && len(a) == 6 && len(b) == 8
}

func (p *pool) writeLayer(l layer) error {
	err := durable.Write(p.layerPath(l.thin), lines("thinId", l.thin, "created", l.created,
		"parent", l.parent, "chain", l.chain, "bytes", l.bytes, "mapped", l.mapped, "fs", "ext4", "base", l.base))
	if err != nil {
		return p.fail("layer %s: %w", l.id(), err)
	}
	return nil
}

// Layers lists the sealed layers but for the base, which is the pool's own.
func (d *Driver) Layers() ([]storage.LayerInfo, error) {
	list, err := d.layers()
	infos := make([]storage.LayerInfo, 0, len(list))
	base := ""
	for _, l := range list {
		if l.base {
			base = l.id()
		}
	}
	for _, l := range list {
		if l.base {
			continue
		}
		info := storage.LayerInfo{ID: l.id(), Parent: l.parent, Chain: l.chain}
		if info.Parent == base {
			info.Parent = ""
		}
		infos = append(infos, info)
	}
	return infos, err
}

func (d *Driver) layers() ([]layer, error) {
	entries, err := os.ReadDir(d.layersDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pool: %w", err)
	}
	var list []layer
	for _, e := range entries {
		if len(e.Name()) != 6 {
			continue // a record's temporary file
		}
		thin, err := strconv.ParseUint(e.Name(), 16, 24)
		if err != nil {
			continue
		}
		l, err := d.sealedLayer(uint32(thin))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile; one that is cut short is an error, not an absent layer
		}
		if err != nil {
			return nil, fmt.Errorf("pool: %w", err)
		}
		list = append(list, l)
	}
	return list, nil
}

// seen is a layer's record as this process has read it. A record is never written to: one
// that changes is another file.
type seen struct {
	inode   uint64
	changed unix.Timespec
	layer   layer
}

// sealedLayer reads a record that was not read before: an import looks at all layers
// before each of its own, and in a pool of a thousand that was most of its time.
func (d *Driver) sealedLayer(thin uint32) (layer, error) {
	path := d.layerPath(thin)
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return layer{}, fmt.Errorf("%s: %w", path, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, ok := d.sealed[thin]; ok && s.inode == st.Ino && s.changed == st.Ctim {
		return s.layer, nil
	}
	r, err := readRecord(path)
	if err != nil {
		return layer{}, err
	}
	if d.sealed == nil {
		d.sealed = map[uint32]seen{}
	}
	l := recorded(thin, r)
	d.sealed[thin] = seen{st.Ino, st.Ctim, l}
	return l, nil
}

// open is a layer that is being written: an active snapshot on a detached mount.
type open struct {
	d      *Driver
	layer  layer
	claim  *claim
	mnt    *os.File
	root   *os.File
	device string
	over   bool
}

// NewLayer makes the pool if there is none.
func (d *Driver) NewLayer(parent string) (storage.Layer, error) {
	p, err := d.enter()
	if errors.Is(err, ErrNoPool) {
		if err = d.CreatePool(d.opts.Pool); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		p, err = d.enter()
	}
	if err != nil {
		return nil, err
	}
	defer p.leave()
	_ = d.cheapGC(p, cheapMany) // the next command tries again
	if parent == "" {
		parent = p.base
	}
	origin, err := p.layer(parent)
	if err != nil {
		return nil, err
	}
	if err := p.admitOrGrow(origin.bytes, 0); err != nil {
		return nil, err
	}
	c, err := p.snapshot(origin, owner{what: "layer", bytes: origin.bytes}, nil)
	if err != nil {
		return nil, err
	}
	return p.opened(c, layer{thin: c.thin, parent: parent, bytes: origin.bytes})
}

// opened activates and mounts a new snapshot.
func (p *pool) opened(c *claim, made layer) (storage.Layer, error) {
	l := &open{d: p.Driver, layer: made, claim: c, device: p.thinName(c.thin)}
	dev, err := p.raise(c.thin, made.bytes)
	if err == nil {
		l.mnt, err = p.mount(dev, false)
	}
	if err == nil {
		l.root, err = openRoot(l.mnt)
	}
	if err != nil {
		return nil, errors.Join(err, l.abort(p))
	}
	return l, nil
}

func (l *open) Root() *os.File { return l.root }

func (l *open) Commit(chain string) (string, error) {
	if l.over {
		return "", errors.New("layer: committed or aborted already")
	}
	l.d.step("sync layer")
	// The file system and the pool below it; an earlier failed write is told here, too.
	if err := unix.Syncfs(int(l.root.Fd())); err != nil {
		return "", errors.Join(fmt.Errorf("layer: syncfs: %w", err), l.Abort())
	}
	p, err := l.d.enter()
	if err != nil {
		return "", errors.Join(err, l.Abort())
	}
	defer p.leave()
	err = func() error {
		if err := l.unmount(); err != nil {
			return err
		}
		l.d.step("remove layer's device")
		// Never active again but as an origin: so starting a container needs no suspend.
		if err := p.removeDevice(l.device); err != nil {
			return err
		}
		if err := p.look(0); err != nil { // 0: the pool commits, so that what it says is on disk
			return err
		}
		if err := p.usable(); err != nil {
			return err
		}
		thin, err := p.thin(l.layer.thin)
		if err != nil {
			return err
		}
		l.layer.created, l.layer.mapped = thin.Created, thin.Mapped
		l.layer.chain = chain
		l.d.step("seal")
		return p.writeLayer(l.layer)
	}()
	if err != nil {
		return "", errors.Join(err, l.abort(p))
	}
	l.d.step("sealed")
	l.over = true
	return l.layer.id(), l.claim.discard()
}

func (l *open) Abort() error {
	if l.over {
		return nil
	}
	p, err := l.d.enter()
	if err != nil {
		l.over = true // garbage now, by its claim
		return errors.Join(err, l.unmount(), l.claim.file.Close())
	}
	defer p.leave()
	return l.abort(p)
}

func (l *open) abort(p *pool) error {
	l.over = true
	err := l.unmount()
	if err == nil {
		err = p.giveBack(l.claim.thin, l.layer.record(), true)
	}
	if err != nil {
		return errors.Join(err, l.claim.file.Close()) // the claim stays, and GC has it
	}
	return l.claim.discard()
}

func (l *open) unmount() error {
	var err error
	for _, f := range []**os.File{&l.root, &l.mnt} {
		if *f != nil {
			err = errors.Join(err, (*f).Close())
			*f = nil
		}
	}
	return err
}

// RemoveLayer gives a layer back; that it is not there is fine. Snapshots of it live on.
func (d *Driver) RemoveLayer(id string) error {
	p, err := d.enter()
	if errors.Is(err, ErrNoPool) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.leave()
	l, err := d.layer(id)
	if errors.Is(err, ErrNoLayer) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.base {
		return p.fail("layer %s is the empty base of all others: %w", id, ErrInUse)
	}
	if err := p.usable(); err != nil { // before the record goes
		return err
	}
	c, err := d.reclaim(l.thin, owner{what: "remove layer", bytes: l.bytes})
	if err != nil {
		return err
	}
	if _, err := d.layer(id); err != nil { // another removed it before we had the claim
		return c.discard()
	}
	d.step("unlink layer")
	if err := durable.Remove(d.layerPath(l.thin)); err != nil {
		return errors.Join(p.fail("layer %s: %w", id, err), c.discard())
	}
	if err := p.giveBack(l.thin, l.record(), true); err != nil {
		return errors.Join(err, c.file.Close())
	}
	return c.discard()
}

// reclaim claims the id of a sealed layer, so that whoever finds the claim of a killed
// removal finishes it once the record is gone.
func (d *Driver) reclaim(id uint32, o owner) (*claim, error) {
	c := &claim{thin: id, d: d}
	for c.file == nil {
		f, err := os.OpenFile(d.openPath(id), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("claim: %w", err)
		}
		// Who has the lock removes the same layer, or is a collector that met the file before
		// we had locked it. Neither takes long, and both unlink the file when they are done.
		for err = unix.EINTR; err == unix.EINTR; {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstat(int(f.Fd()), &st)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("claim %s: %w", f.Name(), err)
		}
		if st.Nlink == 0 {
			f.Close()
			continue
		}
		c.file = f
	}
	text := d.claimText(c, o)
	// On a host without space it has to do without its text: a cut claim is garbage too.
	if _, err := c.file.WriteAt(text, 0); err != nil && !errors.Is(err, unix.ENOSPC) {
		return nil, errors.Join(fmt.Errorf("claim: %w", err), c.discard())
	}
	if err := c.file.Truncate(int64(len(text))); err != nil && !errors.Is(err, unix.ENOSPC) {
		return nil, errors.Join(fmt.Errorf("claim: %w", err), c.discard())
	}
	return c, nil
}

var _ storage.LayerStore = (*Driver)(nil)
