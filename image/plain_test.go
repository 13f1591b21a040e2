package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"thinrun/rootfs/storage"
)

// plainStore keeps a layer as a directory, and fails where it is told to.
type plainStore struct {
	dir  string
	fail string // "new", "commit", "remove"
	n    int
}

var errPlain = errors.New("the layer store says no")

func (p *plainStore) NewLayer(parent string) (storage.Layer, error) {
	if p.fail == "new" {
		return nil, errPlain
	}
	if parent != "" {
		return nil, errors.New("plainStore has no chains")
	}
	p.n++
	l := &plainLayer{p: p, id: fmt.Sprintf("layer%d", p.n)}
	path := filepath.Join(p.dir, "new-"+l.id)
	err := os.Mkdir(path, 0o755)
	if err == nil {
		l.root, err = os.Open(path)
	}
	return l, err
}

func (p *plainStore) RemoveLayer(id string) error {
	if p.fail == "remove" {
		return errPlain
	}
	return os.RemoveAll(filepath.Join(p.dir, id))
}

func (p *plainStore) Fork(storage.Claim) (storage.Layer, error) { return nil, errors.ErrUnsupported }

func (p *plainStore) Layers() ([]storage.LayerInfo, error) { return nil, nil }

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
	p    *plainStore
	id   string
	root *os.File
	over bool
}

func (l *plainLayer) Root() *os.File { return l.root }

func (l *plainLayer) Commit(chain string) (string, error) {
	if l.p.fail == "commit" {
		return "", errPlain
	}
	l.over = true
	l.root.Close()
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
