package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"thinrun/image/layer"
	"thinrun/rootfs/storage"
)

// build collects the layers of an image to be, base first. Each is held from before it is
// counted on until the record names it: nobody takes it away meanwhile.
type build struct {
	s      *Store
	layers storage.LayerStore
	img    *Image // Layers is what there is so far
	locks  locks
	held   map[string]bool
	sizes  map[string]int64 // by layer, of those that are known
}

// make makes an image: work collects its layers, and the record is written last. When either
// fails, what is new of the layers is dropped again. An error of work's begins with what.
func (s *Store) make(p place, what string, work func(*build) error) (*Image, error) {
	if err := s.mayEnter(p); err != nil { // now, and again before it counts
		return nil, err
	}
	done, err := s.lock(lockImports, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer done()
	b, err := s.build(p.layers, p.img)
	if err != nil {
		return nil, err
	}
	defer b.close()
	if err := work(b); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", what, err), b.undo())
	}
	old, err := s.enter(p, b.close)
	if err != nil {
		return nil, errors.Join(err, b.undo())
	}
	return p.img, s.dropReplaced(old, p.layers)
}

func (s *Store) build(layers storage.LayerStore, img *Image) (*build, error) {
	l, err := s.locks()
	if err != nil {
		return nil, err
	}
	return &build{s: s, layers: layers, img: img, locks: l, held: make(map[string]bool), sizes: make(map[string]int64)}, nil
}

func (b *build) close() { b.locks.close() }

// undo drops what this build has made or shared, and what nobody else wants.
func (b *build) undo() error {
	b.close() // our own hold, too, would keep them
	if len(b.img.Layers) == 0 {
		return nil
	}
	unlock, err := b.s.lock(lockRecords, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	return b.s.drop(b.img, b.layers)
}

// fill makes the layers that are not there yet.
func (b *build) fill(ctx context.Context, im Import) error {
	total := len(im.Source.Layers)
	tell := func(i int, what string, bytes int64) {
		if im.Progress != nil {
			im.Progress(Progress{Layer: i, Layers: total, What: what, Bytes: bytes})
		}
	}
	told := 0
	shared := func() {
		for ; told < len(b.img.Layers); told++ {
			tell(told, "shared", 0)
		}
	}
	if err := b.share(ctx); err != nil {
		return err
	}
	shared()
	if im.Source.Need != nil && told < total {
		var missing []int
		for i := told; i < total; i++ {
			missing = append(missing, i)
		}
		im.Source.Need(missing)
	}
	for told < total {
		i := told
		bytes, err := b.add(ctx, im, i, func(n int64) { tell(i, "unpack", n) })
		if err != nil && total > 1 {
			return fmt.Errorf("layer %d of %d: %w", i+1, total, err)
		}
		if err != nil {
			return err
		}
		if bytes >= 0 { // ours, and not another's that came first
			tell(i, "done", bytes)
			told++
		}
		shared()
	}
	return b.measure(ctx)
}

// share takes the sealed layers that the image goes on with. It looks, holds what it has
// seen, and looks again whether that is still there.
func (b *build) share(ctx context.Context) error {
	for {
		infos, err := b.layers.Layers()
		if err != nil {
			return err
		}
		ids, fresh := b.match(infos), false
		for _, id := range ids {
			if !b.held[id] {
				fresh = true
				if err := b.hold(ctx, id); err != nil {
					return err
				}
			}
		}
		if !fresh {
			if len(ids) > len(b.img.Layers) {
				b.img.Layers = ids
			}
			return nil
		}
	}
}

// match is how far the image's chain is there. A layer counts with its parent only: some
// drivers cannot do without it, so both must be in the record.
func (b *build) match(infos []storage.LayerInfo) []string {
	ids := slices.Clone(b.img.Layers)
	for _, chain := range b.img.Chains[len(ids):] {
		i := slices.IndexFunc(infos, func(l storage.LayerInfo) bool {
			return chain != "" && l.Chain == chain && l.Parent == top(ids)
		})
		if i < 0 {
			break
		}
		ids = append(ids, infos[i].ID)
	}
	return ids
}

func top(ids []string) string {
	if len(ids) == 0 {
		return ""
	}
	return ids[len(ids)-1]
}

func (b *build) hold(ctx context.Context, id string) error {
	b.held[id] = true
	return b.locks.wait(ctx, unix.F_RDLCK, using(id))
}

// add makes layer i, unless another import has it ready first; then bytes is -1.
func (b *build) add(ctx context.Context, im Import, i int, tell func(int64)) (bytes int64, err error) {
	if chain := b.img.Chains[i]; chain != "" {
		if err := b.locks.wait(ctx, unix.F_WRLCK, making(chain)); err != nil {
			return 0, err
		}
		defer b.locks.drop(making(chain))
		if err := b.share(ctx); err != nil || len(b.img.Layers) > i {
			return -1, err
		}
	}
	src := im.Source.Layers[i]
	l, err := b.layers.NewLayer(top(b.img.Layers))
	if err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, l.Abort()) // nothing to do after Commit
	}()
	options := layer.Options{Note: im.Note, Storage: b.s.storage, Whiteouts: im.Source.Config != nil, Room: l.Room}
	var done layer.Done
	if src.Dir != nil {
		if done, err = layer.Copy(ctx, l.Root(), src.Dir, options); err != nil {
			return 0, err
		}
		return done.Bytes, b.seal(ctx, l, done.Bytes)
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	tar, err := src.Open(reading)
	if err != nil {
		return 0, err
	}
	in := newStream(tar, tell)
	done, err = layer.Apply(ctx, l.Root(), in, options)
	stop()
	// A plain tar may be standard input, which perhaps never ends.
	diffID := in.close(im.Source.Config != nil || err == nil)
	if err != nil {
		return 0, err
	}
	switch want := b.img.DiffIDs[i]; {
	case want == diffID:
	case want != "":
		return 0, fmt.Errorf("its content has the digest %s, and the image says %s", diffID, want)
	case !done.Marks: // with whiteouts in it, the same tar as an OCI layer is another tree
		b.img.DiffIDs[i] = diffID
		if i == 0 {
			b.img.Chains[i] = diffID
		} else {
			b.img.Chains[i] = chainID(b.img.Chains[i-1], diffID)
		}
		if err := b.locks.wait(ctx, unix.F_WRLCK, making(b.img.Chains[i])); err != nil {
			return 0, err
		}
		defer b.locks.drop(making(b.img.Chains[i]))
		if err := b.share(ctx); err != nil || len(b.img.Layers) > i {
			return -1, err
		}
	}
	return done.Bytes, b.seal(ctx, l, done.Bytes)
}

// seal ends the making of the next layer. The caller is making its chain, if it has one.
func (b *build) seal(ctx context.Context, l storage.Layer, bytes int64) error {
	chain := b.img.Chains[len(b.img.Layers)]
	if chain == "" {
		if err := b.locks.wait(ctx, unix.F_RDLCK, making(chain)); err != nil {
			return err
		}
		defer b.locks.drop(making(chain))
	}
	id, err := l.Commit(chain)
	if err != nil {
		return err
	}
	b.sizes[id] = bytes
	b.img.Layers = append(b.img.Layers, id) // from here on undo knows of it
	return b.hold(ctx, id)
}
