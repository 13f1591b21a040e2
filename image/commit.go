package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/image/layer"
	"thinrun/rootfs/storage"
)

// Commit says what of a container becomes an image.
type Commit struct {
	Name   string
	Base   *Image        // what the container was made from
	Layer  storage.Layer // what its root holds, forked; the caller aborts it in any case
	Driver string        // Layers' name, and Base's
	Layers storage.LayerStore
	InUse  func(layer string) []string // as Import has it
	Note   func(string)                // what of the root the image lacks; may be nil

	Message, Author string
	Created         time.Time     // zero: now
	Changes         func(*Config) // to Base's; nil: none
	Labels          map[string]string
	Expose          []string // "80/tcp"
}

// Commit makes an image of Base's layers and one more: what the container changed. The
// fork itself becomes that layer, and its tar is read once for the digest. What lies below
// the image's volumes is no part of it, as with Docker; then the layer is made of the tar.
// For what is there after a kill or an error see Import.
func (s *Store) Commit(ctx context.Context, c Commit) (*Image, error) {
	img, err := c.plan()
	if err != nil {
		return nil, err
	}
	return s.make(place{img, c.Layers, c.InUse}, "commit "+img.Name, func(b *build) error { return b.commit(ctx, c) })
}

// plan is the record, but for the new layer.
func (c *Commit) plan() (*Image, error) {
	name, err := ParseName(c.Name)
	if err != nil {
		return nil, err
	}
	if c.Base.Driver != c.Driver {
		return nil, fmt.Errorf("BUG: commit: image %s is kept by the %s driver, not by %s", c.Base.Name, c.Base.Driver, c.Driver)
	}
	if c.Created.IsZero() {
		c.Created = time.Now()
	}
	img := &Image{
		Version: Version, Name: name, Driver: c.Driver, Created: c.Created.UTC().Truncate(time.Second), Source: "commit of " + c.Base.Name,
		Config:  c.Base.Config,
		Layers:  slices.Clone(c.Base.Layers),
		DiffIDs: padded(c.Base.DiffIDs, len(c.Base.Layers)),
		Chains:  padded(c.Base.Chains, len(c.Base.Layers)),
	}
	if c.Changes != nil {
		c.Changes(&img.Config)
	}
	return img, nil
}

// padded is a list of a record that older ones do not have.
func padded(list []string, n int) []string {
	if len(list) == n {
		return slices.Clone(list)
	}
	return make([]string, n)
}

// commit holds the base's layers and makes the new one.
func (b *build) commit(ctx context.Context, c Commit) error {
	for _, id := range b.img.Layers {
		if err := b.hold(ctx, id); err != nil {
			return err
		}
	}
	// The base may have been removed before it was held. Its record says whether: whoever
	// removes a layer has removed its last record before.
	infos, err := b.layers.Layers()
	if err != nil {
		return err
	}
	for _, id := range b.img.Layers {
		if !slices.ContainsFunc(infos, func(l storage.LayerInfo) bool { return l.ID == id }) {
			b.img.Layers = nil // nothing of it is ours to undo
			return fmt.Errorf("image %s, which the container is made from, was removed", c.Base.Name)
		}
	}
	base := len(b.img.Layers)
	parent := b.img.Chains[base-1]
	b.img.Chains, b.img.DiffIDs = append(b.img.Chains, ""), append(b.img.DiffIDs, "")

	l, diffID, bytes, err := b.changes(ctx, c)
	if l != c.Layer && l != nil {
		defer l.Abort()
	}
	if err != nil {
		return err
	}
	b.img.DiffIDs[base] = diffID
	if chain := chainID(parent, diffID); chain != "" {
		b.img.Chains[base] = chain
		if err := b.locks.wait(ctx, unix.F_WRLCK, making(chain)); err != nil {
			return err
		}
		defer b.locks.drop(making(chain))
		if err := b.share(ctx); err != nil {
			return err
		}
	}
	if len(b.img.Layers) == base { // not shared
		if err := b.seal(ctx, l, bytes); err != nil {
			return err
		}
	}
	if err := b.img.describe(c); err != nil {
		return err
	}
	return b.measure(ctx)
}

// changes tells the digest of what the fork has more than the base, and gives a layer that
// holds just that: the fork, or a new one.
func (b *build) changes(ctx context.Context, c Commit) (l storage.Layer, diffID string, size int64, err error) {
	lower, err := b.layers.NewLayer(c.Base.Layer()) // a view
	if err != nil {
		return nil, "", 0, err
	}
	defer func() { err = errors.Join(err, lower.Abort()) }()
	sum := sha256.New()
	diff := func(w io.Writer) (layer.Changes, error) {
		return layer.Diff(ctx, lower.Root(), c.Layer.Root(), io.MultiWriter(sum, w), layer.DiffOptions{
			Snapshot: true, Skip: belowVolumes(c.Base.Config.Volumes), Note: c.Note,
		})
	}
	if len(c.Base.Config.Volumes) == 0 {
		found, err := diff(io.Discard)
		return c.Layer, hexDigest(sum.Sum(nil)), found.Bytes, err
	}
	if l, err = b.layers.NewLayer(c.Base.Layer()); err != nil {
		return nil, "", 0, err
	}
	r, w := io.Pipe()
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, err := diff(w)
		w.CloseWithError(err) // nil is the end
	}()
	done, err := layer.Apply(ctx, l.Root(), r, layer.Options{Whiteouts: true, Note: c.Note, Room: l.Room})
	r.Close() // diff's next write fails, and so it ends
	<-over
	return l, hexDigest(sum.Sum(nil)), done.Bytes, err
}

// belowVolumes tells what lies in a volume; the directory itself is the image's. The image
// names volumes as somebody once wrote them.
func belowVolumes(volumes []string) func(path string) bool {
	var below []string
	for _, v := range volumes {
		if v = strings.Trim(path.Clean("/"+v), "/"); v != "" {
			below = append(below, v+"/")
		}
	}
	return func(path string) bool {
		return slices.ContainsFunc(below, func(v string) bool { return strings.HasPrefix(path, v) })
	}
}
