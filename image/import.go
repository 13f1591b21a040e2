package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/image/layer"
	"thinrun/rootfs/storage"
)

// Import says what becomes an image.
type Import struct {
	Name   string
	Source string    // a directory, a tar (plain, gzip or zstd), or "-"
	Stdin  io.Reader // what "-" reads
	Driver string    // Layers' name, for the record
	Layers storage.LayerStore
	// InUse tells which containers are on a layer: an image of that name is replaced,
	// unless one is on it.
	InUse func(layer string) []string
	// Note is told, in a line each, what of the source the image lacks.
	Note func(string)
}

// Import makes an image of one layer. Until its record is written there is no image;
// an import that dies before leaves a layer without a name, which gc takes. With both
// an image and an error, the image is there, and the one it replaced is not all gone.
func (s *Store) Import(ctx context.Context, im Import) (*Image, error) {
	name, err := ParseName(im.Name)
	if err != nil {
		return nil, err
	}
	src, err := s.openSource(im)
	if err != nil {
		return nil, err
	}
	defer src.close()
	if old, err := s.Get(name); err == nil { // now, and again before it counts
		if err := im.mayReplace(old); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	done, err := s.lock(lockImports, unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer done()

	new, err := im.Layers.NewLayer("")
	if err != nil {
		return nil, err
	}
	bytes, err := src.fill(ctx, new.Root(), layer.Options{Note: im.Note, Storage: s.storage})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("import %s: %w", im.Source, err), new.Abort())
	}
	id, err := new.Commit("")
	if err != nil {
		return nil, errors.Join(err, new.Abort())
	}
	img := &Image{
		Version: Version, Name: name, Driver: im.Driver, Layers: []string{id},
		Size: bytes, Created: time.Now().UTC().Truncate(time.Second), Source: im.Source,
	}
	old, err := s.enter(img, im)
	if err != nil {
		return nil, errors.Join(err, im.Layers.RemoveLayer(id))
	}
	if old != nil {
		err = s.dropLayers(old, im.Layers)
	}
	return img, err
}

// mayReplace: Layers removes the old image's layers, so they must be its own.
func (im *Import) mayReplace(old *Image) error {
	if old.Driver != im.Driver {
		return fmt.Errorf("image %s exists, kept by the %s driver and not by %s: remove it first", old.Name, old.Driver, im.Driver)
	}
	return refuseUsed(old, im.InUse)
}

// enter writes the record, in the place of an older one that nobody uses; it returns
// that.
func (s *Store) enter(img *Image, im Import) (*Image, error) {
	unlock, err := s.lock(lockRecords, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	old, err := s.Get(img.Name)
	if err == nil {
		err = im.mayReplace(old)
	} else if errors.Is(err, ErrNotFound) {
		old, err = nil, nil
	}
	if err == nil {
		err = s.put(img)
	}
	return old, err
}

// source is an opened Import.Source.
type source struct {
	fill  func(context.Context, *os.File, layer.Options) (bytes int64, err error)
	close func()
}

func (s *Store) openSource(im Import) (source, error) {
	if im.Source == "-" {
		return source{fill: untar(im.Stdin), close: func() {}}, nil
	}
	if im.Source == "" {
		return source{}, errors.New("nothing to import: name a directory, a tar file, or - for standard input")
	}
	f, err := os.Open(im.Source)
	if err != nil {
		return source{}, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return source{}, err
	}
	if st.IsDir() {
		copyDir := func(ctx context.Context, root *os.File, o layer.Options) (int64, error) {
			return layer.Copy(ctx, root, f, o)
		}
		return source{fill: copyDir, close: func() { f.Close() }}, nil
	}
	if !st.Mode().IsRegular() && st.Mode()&os.ModeNamedPipe == 0 {
		f.Close()
		return source{}, fmt.Errorf("%s is neither a directory nor a tar file", im.Source)
	}
	return source{fill: untar(f), close: func() { f.Close() }}, nil
}

// untar undoes the compression, if any, and unpacks.
func untar(r io.Reader) func(context.Context, *os.File, layer.Options) (int64, error) {
	return func(ctx context.Context, root *os.File, o layer.Options) (int64, error) {
		plain, err := decompress(bufio.NewReaderSize(r, 256<<10))
		if err != nil {
			return 0, err
		}
		return layer.Apply(ctx, root, plain, o)
	}
}
