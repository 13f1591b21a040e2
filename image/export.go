package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"thinrun/image/layer"
	"thinrun/rootfs/storage"
)

// Export is an image on its way out. It holds the image's layers until Close: its name may
// be removed meanwhile, its layers stay.
type Export struct {
	Name string
	// OCI is the image's config. A layer's tar is made anew, so its digest need not be the
	// one that the image came with, or was ever known: who writes the archive puts into
	// rootfs.diff_ids what has been written.
	OCI    []byte
	Layers []ExportLayer // base first
	Close  func() error
}

// ExportLayer is one layer.
type ExportLayer struct {
	DiffID string // that the layer came with; "": it never was a tar
	// Tar writes the layer, uncompressed. One at a time.
	Tar func(context.Context, io.Writer) error
}

// Export opens an image for reading.
func (s *Store) Export(name string, layers storage.LayerStore, note func(string)) (_ *Export, err error) {
	if _, err := s.Get(name); err != nil { // before anything is made in an unused storage
		return nil, err
	}
	done, err := s.lock(lockImports, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			done()
		}
	}()
	img, release, err := s.Use(name)
	if err != nil {
		return nil, err
	}
	defer release() // as soon as the layers are held
	b, err := s.build(layers, img)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	for _, id := range img.Layers {
		// The record is there and cannot go before release: nobody is taking them away.
		if err := b.hold(context.Background(), id); err != nil {
			return nil, err
		}
	}
	e := &Export{Name: img.Name, OCI: img.OCI}
	if e.OCI == nil {
		if e.OCI, err = img.config(); err != nil {
			return nil, err
		}
	}
	for i, diffID := range padded(img.DiffIDs, len(img.Layers)) {
		e.Layers = append(e.Layers, ExportLayer{diffID, func(ctx context.Context, w io.Writer) error {
			if _, err := b.diff(ctx, i, w, note); err != nil {
				return fmt.Errorf("export %s: layer %d of %d: %w", img.Name, i+1, len(img.Layers), err)
			}
			return nil
		}})
	}
	e.Close = func() error {
		defer done()
		return b.undo() // who removed the image meanwhile has left the layers to us
	}
	return e, nil
}

// diff writes what layer i has more than the one below it, from a view of each.
func (b *build) diff(ctx context.Context, i int, w io.Writer, note func(string)) (found layer.Changes, err error) {
	upper, err := b.layers.NewLayer(b.img.Layers[i])
	if err != nil {
		return found, err
	}
	defer func() { err = errors.Join(err, upper.Abort()) }()
	var below *os.File
	if i > 0 {
		lower, err2 := b.layers.NewLayer(b.img.Layers[i-1])
		if err2 != nil {
			return found, err2
		}
		defer func() { err = errors.Join(err, lower.Abort()) }()
		below = lower.Root()
	}
	return layer.Diff(ctx, below, upper.Root(), w, layer.DiffOptions{Snapshot: true, Note: note})
}

// Tag gives an image a second name, in the place of another image of that name, which
// goes as it would for Import. layers are those of the image's driver.
func (s *Store) Tag(old, name string, layers storage.LayerStore, inUse func(layer string) []string) (*Image, error) {
	full, err := ParseName(name)
	if err != nil {
		return nil, err
	}
	if _, err := s.Get(old); err != nil { // before anything is made in an unused storage
		return nil, err
	}
	unlock, err := s.lock(lockRecords, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	img, err := s.Get(old)
	if err != nil || img.Name == full {
		return img, err
	}
	img.Name = full
	replaced, err := s.enterLocked(place{img, layers, inUse})
	if err != nil {
		return nil, err
	}
	if replaced != nil && !slices.Equal(replaced.Layers, img.Layers) {
		if err := s.drop(replaced, layers); err != nil {
			return img, fmt.Errorf("what was image %s: %w", full, err)
		}
	}
	return img, nil
}
