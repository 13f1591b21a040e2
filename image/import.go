package image

import (
	"context"
	"fmt"
	"os"
	"time"

	"thinrun/rootfs/storage"
)

// Import says what becomes an image.
type Import struct {
	Name   string
	Source *Source // who opened it closes it
	Driver string  // Layers' name, for the record
	Layers storage.LayerStore
	// InUse tells which containers are on a layer: an image of that name is replaced,
	// unless one is on it.
	InUse func(layer string) []string
	// Note is told, in a line each, what of the source the image lacks.
	Note func(string)
	// Progress, if not nil, is told how far it is.
	Progress func(Progress)
}

// Progress is about one of an import's layers.
type Progress struct {
	Layer, Layers int    // this one, counted from 0, of so many
	What          string // "unpack", "shared" (there was one), "done"
	Bytes         int64  // of its tar so far
}

// Import makes an image. Until its record is written, last, there is no image: an import
// that dies before leaves layers that no record names, which the same import takes up
// again, or gc takes. With both an image and an error, the image is there, and the one it
// replaced is not all gone.
func (s *Store) Import(ctx context.Context, im Import) (*Image, error) {
	img, err := im.plan()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	return s.make(place{img, im.Layers, im.InUse}, "import "+im.Source.From, func(b *build) error { return b.fill(ctx, im) })
}

// plan is the record without its layers: all that the source says before one is read.
func (im *Import) plan() (*Image, error) {
	name, err := ParseName(im.Name)
	if err != nil {
		return nil, err
	}
	src := im.Source
	if len(src.Layers) == 0 {
		return nil, fmt.Errorf("import %s: an image without layers", src.From)
	}
	img := &Image{
		Version: Version, Name: name, Driver: im.Driver,
		Created: time.Now().UTC().Truncate(time.Second), Source: src.From, Digest: src.Digest,
	}
	for _, l := range src.Layers {
		img.DiffIDs = append(img.DiffIDs, l.DiffID)
	}
	if src.Config != nil {
		doc, err := parseOCI(src.Config)
		if err != nil {
			return nil, fmt.Errorf("import %s: %w", src.From, err)
		}
		diffIDs := doc.RootFS.DiffIDs
		if len(diffIDs) != len(src.Layers) {
			return nil, fmt.Errorf("import %s: the image has %d layers and its config names %d", src.From, len(src.Layers), len(diffIDs))
		}
		img.ID, img.OCI, img.DiffIDs = digest(src.Config), src.Config, diffIDs
		img.Config, img.Platform = doc.config(), &doc.Platform
	}
	img.Chains = chainIDs(img.DiffIDs)
	return img, nil
}
