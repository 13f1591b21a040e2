package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"thinrun/image/layer"
	"thinrun/rootfs/storage"
)

// plainStore keeps a layer as a directory, whole, and fails where it is told to.
type plainStore struct {
	dir  string
	fail string // "new", "commit", "remove"
	n    int
	then func() // called when a layer has just been sealed

	mu     sync.Mutex
	sealed map[string]storage.LayerInfo
}

var errPlain = errors.New("the layer store says no")

func (p *plainStore) NewLayer(parent string) (storage.Layer, error) {
	if p.fail == "new" {
		return nil, errPlain
	}
	p.mu.Lock()
	p.n++
	l := &plainLayer{p: p, parent: parent, id: fmt.Sprintf("layer%d", p.n)}
	p.mu.Unlock()
	path := filepath.Join(p.dir, "new-"+l.id)
	err := os.Mkdir(path, 0o755)
	if err == nil {
		l.root, err = os.Open(path)
	}
	if err == nil && parent != "" {
		var below *os.File
		if below, err = os.Open(filepath.Join(p.dir, parent)); err == nil {
			_, err = layer.Copy(context.Background(), l.root, below, layer.Options{})
			below.Close()
		}
	}
	return l, err
}

func (p *plainStore) RemoveLayer(id string) error {
	if p.fail == "remove" {
		return errPlain
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.sealed, id)
	return os.RemoveAll(filepath.Join(p.dir, id))
}

func (p *plainStore) Fork(storage.Claim) (storage.Layer, error) { return nil, errors.ErrUnsupported }

func (p *plainStore) Layers() (list []storage.LayerInfo, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.sealed {
		list = append(list, l)
	}
	return list, nil
}

// has lists the layers, half-made ones too.
func (p *plainStore) has(t *testing.T) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(p.dir)
	must(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

type plainLayer struct {
	p      *plainStore
	id     string
	parent string
	root   *os.File
	over   bool
}

func (l *plainLayer) Root() *os.File { return l.root }

func (l *plainLayer) Room() (uint64, error) { return 1 << 30, nil }

func (l *plainLayer) Commit(chain string) (string, error) {
	if l.p.fail == "commit" {
		return "", errPlain
	}
	l.over = true
	l.root.Close()
	if l.p.then != nil {
		defer l.p.then()
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.p.sealed == nil {
		l.p.sealed = make(map[string]storage.LayerInfo)
	}
	l.p.sealed[l.id] = storage.LayerInfo{ID: l.id, Parent: l.parent, Chain: chain}
	return l.id, os.Rename(filepath.Join(l.p.dir, "new-"+l.id), filepath.Join(l.p.dir, l.id))
}

func (l *plainLayer) Abort() error {
	if l.over {
		return nil
	}
	l.over = true
	l.root.Close()
	return os.RemoveAll(filepath.Join(l.p.dir, "new-"+l.id))
}

// fixture is an empty store with its layers.
func fixture(t *testing.T) (*Store, *plainStore) {
	t.Helper()
	dir := t.TempDir()
	layers := filepath.Join(dir, "layers")
	must(t, os.Mkdir(layers, 0o755))
	return Open(filepath.Join(dir, "storage")), &plainStore{dir: layers}
}

func nobody(string) []string { return nil }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// prefixed makes layers in one of several directories and removes them from any.
type prefixed struct {
	*plainStore
	all []*plainStore
}

type prefixedLayer struct {
	storage.Layer
	prefix string
}

func (p *prefixed) NewLayer(parent string) (storage.Layer, error) {
	l, err := p.plainStore.NewLayer(parent)
	return prefixedLayer{l, filepath.Base(p.dir) + "-"}, err
}

func (l prefixedLayer) Commit(chain string) (string, error) {
	id, err := l.Layer.Commit(chain)
	return l.prefix + id, err
}

func (p *prefixed) RemoveLayer(id string) error {
	for _, s := range p.all {
		if rest, ok := strings.CutPrefix(id, filepath.Base(s.dir)+"-"); ok {
			return s.RemoveLayer(rest)
		}
	}
	return fmt.Errorf("no layer %q", id)
}
