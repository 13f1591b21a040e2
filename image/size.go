package image

import (
	"context"

	"thinrun/image/layer"
	"thinrun/rootfs/storage"
)

// measure fills in how large the layers are. Of a shared one another record knows it; of
// one that a killed import left nobody does, and the trees are counted.
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
	for _, id := range b.img.Layers {
		bytes, ok := b.sizes[id]
		if !ok {
			// What the layer takes away below is not seen here: less than its tar holds, then.
			total, err := count(ctx, b.layers, id)
			if err != nil {
				return err
			}
			bytes = max(0, total-b.img.Size)
		}
		b.img.Sizes = append(b.img.Sizes, bytes)
		b.img.Size += bytes
	}
	return nil
}

func count(ctx context.Context, layers storage.LayerStore, id string) (int64, error) {
	view, err := layers.NewLayer(id)
	if err != nil {
		return 0, err
	}
	bytes, err := layer.Size(ctx, view.Root())
	if err2 := view.Abort(); err == nil {
		err = err2
	}
	return bytes, err
}
