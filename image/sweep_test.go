package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"thinrun/image/layer"
)

// left seals layers as a killed pull leaves them: nobody holds or names them.
func left(t *testing.T, layers *plainStore, tars ...[]byte) (ids []string) {
	t.Helper()
	parent, chain := "", ""
	for i, data := range tars {
		l, err := layers.NewLayer(parent)
		must(t, err)
		_, err = layer.Apply(t.Context(), l.Root(), bytes.NewReader(data), layer.Options{Whiteouts: true})
		must(t, err)
		if chain = chainID(chain, digest(data)); i == 0 {
			chain = digest(data)
		}
		parent, err = l.Commit(chain)
		must(t, err)
		ids = append(ids, parent)
	}
	return ids
}

func swept(t *testing.T, s *Store, layers *plainStore, want ...string) {
	t.Helper()
	gone, err := s.Sweep(layers)
	must(t, err)
	equal(t, "swept", gone, want)
}

func TestSweep(t *testing.T) {
	s, layers := fixture(t)
	swept(t, s, layers)
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an unused storage was made: %v", err)
	}
	dead := left(t, layers, tarOf(t, "a", "1"), tarOf(t, "b", "1"))
	swept(t, s, layers, dead...) // the storage has layers and no records

	img, err := importTar(t, s, layers, "x", "c", nobody)
	must(t, err)
	dead = left(t, layers, tarOf(t, "a", "1"), tarOf(t, "b", "1"))
	must(t, os.WriteFile(filepath.Join(s.dir, newRecord), nil, 0o600)) // of a put that was killed
	swept(t, s, layers, dead...)
	equal(t, "layers", layers.has(t), []string{img.Layer()})
	if _, err := os.Stat(filepath.Join(s.dir, newRecord)); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	layers.fail = "remove"
	dead = left(t, layers, tarOf(t, "a", "1"))
	if gone, err := s.Sweep(layers); !errors.Is(err, errPlain) || len(gone) != 0 {
		t.Errorf("swept %q, %v", gone, err)
	}
	layers.fail = ""
	swept(t, s, layers, dead...) // nothing of the first one holds it
}

// While a pull is at work a sweep takes what a dead one has left, and neither what the
// living one has made, nor what it has found and counts on.
func TestSweepBesideAPull(t *testing.T) {
	s, layers := fixture(t)
	one, two, three := tarOf(t, "a", "1"), tarOf(t, "b", "2"), tarOf(t, "c", "3")
	found := left(t, layers, one) // it goes on with this
	dead := left(t, layers, three, two)

	f := sourceOf(t, nil, one, two, three)
	inside := &gate{entered: make(chan struct{}), open: make(chan struct{}), data: bytes.NewReader(three)}
	f.Layers[2].Open = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(inside), nil }
	done := make(chan error)
	go func() {
		_, err := pull(t, s, layers, "x", f)
		done <- err
	}()
	<-inside.entered // two layers are sealed, and no record names them
	swept(t, s, layers, dead...)
	close(inside.open)
	must(t, <-done)
	img, err := s.Get("x")
	must(t, err)
	if img.Layers[0] != found[0] || fmt.Sprint(f.opened) != "[1]" {
		t.Errorf("layers %q, opened %v; want it to go on with %q", img.Layers, f.opened, found)
	}
	swept(t, s, layers)
	equal(t, "files", content(t, layers, img), []string{"a=1", "b=2", "c=3"})
}

// A layer gets its name when it is sealed. A sweep in the moment before its maker holds it
// by that name leaves it alone, too; with an OCI chain id or without one.
func TestSweepWhenALayerIsSealed(t *testing.T) {
	data := tarOf(t, "a", "1")
	tree := t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "a"), []byte("1"), 0o644))
	dir, err := os.Open(tree)
	must(t, err)
	defer dir.Close()
	for name, src := range map[string]*Source{
		"oci":       sourceOf(t, nil, data).Source,
		"tar":       stdin(bytes.NewReader(data)),
		"directory": {From: tree, Layers: []SourceLayer{{Dir: dir}}},
	} {
		t.Run(name, func(t *testing.T) {
			s, layers := fixture(t)
			sweeps := 0
			layers.then = func() {
				swept(t, s, layers)
				sweeps++
			}
			img, err := s.Import(t.Context(), Import{Name: "x", Source: src, Driver: "plain", Layers: layers, InUse: nobody})
			must(t, err)
			if sweeps != 1 {
				t.Errorf("%d sweeps; want 1", sweeps)
			}
			equal(t, "layers", layers.has(t), []string{img.Layer()})
		})
	}
}

// Sweeps beside each other, and a pull that goes on with the very layers that they take: it
// ends with all of its own.
func TestSweepsBesideAPull(t *testing.T) {
	s, layers := fixture(t)
	tars := [][]byte{tarOf(t, "a", "1"), tarOf(t, "b", "2"), tarOf(t, "c", "3")}
	left(t, layers, tars...)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := s.Sweep(layers); err != nil {
				t.Error(err)
			}
		})
	}
	img, err := pull(t, s, layers, "x", sourceOf(t, nil, tars...))
	all.Wait()
	must(t, err)
	equal(t, "files", content(t, layers, img), []string{"a=1", "b=2", "c=3"})
	equal(t, "layers", layers.has(t), slices.Clone(img.Layers))
}

// Another pull that has shared a layer in that moment, and fails, leaves it to its maker.
func TestFailsWhenALayerIsSealed(t *testing.T) {
	s, layers := fixture(t)
	data := tarOf(t, "a", "1")
	other := sourceOf(t, nil, data, tarOf(t, "b", "2"))
	other.Layers[1].Open = func(context.Context) (io.ReadCloser, error) { return nil, errPlain }
	failed := 0
	layers.then = func() {
		if _, err := pull(t, s, layers, "y", other); !errors.Is(err, errPlain) {
			t.Errorf("%v, want %v", err, errPlain)
		}
		failed++
	}
	img, err := pull(t, s, layers, "x", sourceOf(t, nil, data))
	must(t, err)
	if failed != 1 {
		t.Errorf("%d failed; want 1", failed)
	}
	equal(t, "layers", layers.has(t), []string{img.Layer()})
}
