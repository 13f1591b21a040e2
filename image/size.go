package image

import (
	"context"
	"io"
)

// measure fills in how large the layers are. Of a shared one another record knows it; of
// one that a killed import left nobody does, and what it has more than the one below is
// counted again.
func (b *build) measure(ctx context.Context) error {
	list, err := b.s.List()
	if err != nil {
		list = nil // not our business here: the records that can be read tell enough
	}
	for _, img := range list {
		for i, bytes := range img.Sizes {
			if _, ok := b.sizes[img.Layers[i]]; !ok && img.Driver == b.img.Driver {
				b.sizes[img.Layers[i]] = bytes
			}
		}
	}
	b.img.Size, b.img.Sizes = 0, nil
	for i, id := range b.img.Layers {
		bytes, ok := b.sizes[id]
		if !ok {
			found, err := b.diff(ctx, i, io.Discard, nil)
			if ctx.Err() != nil {
				return err
			}
			bytes = found.Bytes // as far as it can be told: for this no import shall fail
		}
		b.img.Sizes = append(b.img.Sizes, bytes)
		b.img.Size += bytes
	}
	return nil
}
