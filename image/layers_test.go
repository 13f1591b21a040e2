package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// tarOf is a layer: names and contents, a "/" at the end for a directory.
func tarOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		hdr := &tar.Header{Name: files[i], Mode: 0o755, Size: int64(len(files[i+1])), Uid: os.Getuid(), Gid: os.Getgid()}
		if strings.HasSuffix(hdr.Name, "/") {
			hdr.Typeflag = tar.TypeDir
		}
		must(t, w.WriteHeader(hdr))
		_, err := io.WriteString(w, files[i+1])
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

// fake is a Source of layers, and counts what is asked of it.
type fake struct {
	*Source
	mu     sync.Mutex
	opened []int
	need   [][]int
}

func sourceOf(t *testing.T, config map[string]any, layers ...[]byte) *fake {
	t.Helper()
	f := &fake{Source: &Source{From: "oci:test", Digest: digest([]byte("manifest")), Close: func() error { return nil }}}
	var diffIDs []string
	for i, data := range layers {
		diffIDs = append(diffIDs, digest(data))
		f.Layers = append(f.Layers, SourceLayer{DiffID: diffIDs[i], Open: func(context.Context) (io.ReadCloser, error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.opened = append(f.opened, i)
			return io.NopCloser(bytes.NewReader(data)), nil
		}})
	}
	var err error
	f.Config, err = json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "x-unknown": "kept", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	must(t, err)
	f.Need = func(layers []int) { f.need = append(f.need, layers) }
	return f
}

func pull(t *testing.T, s *Store, layers *plainStore, name string, f *fake) (*Image, error) {
	t.Helper()
	return s.Import(t.Context(), Import{Name: name, Source: f.Source, Driver: "plain", Layers: layers, InUse: nobody, Note: func(s string) { t.Errorf("note: %s", s) }})
}

func content(t *testing.T, layers *plainStore, img *Image) (files []string) {
	t.Helper()
	dir := filepath.Join(layers.dir, img.Layer())
	must(t, filepath.Walk(dir, func(p string, st os.FileInfo, err error) error {
		if err == nil && !st.IsDir() {
			data, err := os.ReadFile(p)
			must(t, err)
			files = append(files, strings.TrimPrefix(p, dir+"/")+"="+string(data))
		}
		return err
	}))
	return files
}

// Layers go on top of each other, and are there once however many images have them.
func TestLayersAreShared(t *testing.T) {
	s, layers := fixture(t)
	base, mid := tarOf(t, "etc/", "", "etc/a", "1", "etc/b", "1"), tarOf(t, "etc/.wh.a", "", "etc/b", "2")
	one := sourceOf(t, map[string]any{"Env": []string{"A=1"}, "Cmd": []string{"/bin/x"}, "Volumes": map[string]any{"/v": map[string]any{}, "/u": nil}, "StopSignal": "9"}, base, mid)
	img, err := pull(t, s, layers, "one", one)
	must(t, err)
	equal(t, "files", content(t, layers, img), []string{"etc/b=2"})
	if img.ID != digest(one.Config) || img.Digest != one.Digest || !slices.Equal(img.Config.Volumes, []string{"/u", "/v"}) || img.Config.StopSignal != "9" || img.Size != 3 {
		t.Errorf("%+v", img)
	}
	if want := digest([]byte(digest(base) + " " + digest(mid))); img.Chains[1] != want || img.Chains[0] != digest(base) {
		t.Errorf("chains %q", img.Chains)
	}
	again, err := s.Get("one")
	must(t, err)
	if !bytes.Equal(again.OCI, one.Config) || fmt.Sprintf("%+v", again) != fmt.Sprintf("%+v", img) {
		t.Errorf("read back %+v, want %+v", again, img)
	}

	two := sourceOf(t, nil, base, tarOf(t, "etc/c", "3"))
	img2, err := pull(t, s, layers, "two", two)
	must(t, err)
	equal(t, "files", content(t, layers, img2), []string{"etc/a=1", "etc/b=1", "etc/c=3"})
	if img2.Layers[0] != img.Layers[0] || !slices.Equal(two.opened, []int{1}) || len(two.need) != 1 || !slices.Equal(two.need[0], []int{1}) {
		t.Errorf("layers %q and %q; opened %v, needed %v", img.Layers, img2.Layers, two.opened, two.need)
	}
	if img2.Size != 3 || img2.Sizes[0] != 2 {
		t.Errorf("sizes %v", img2.Sizes)
	}
	third := sourceOf(t, nil, base, mid)
	img3, err := pull(t, s, layers, "three", third)
	must(t, err)
	if !slices.Equal(img3.Layers, img.Layers) || third.opened != nil || third.need != nil {
		t.Errorf("layers %q; opened %v", img3.Layers, third.opened)
	}
	// A plain tar of the same bytes is the same layer.
	plain, err := s.Import(t.Context(), Import{Name: "plain", Source: stdin(bytes.NewReader(base)), Driver: "plain", Layers: layers, InUse: nobody})
	must(t, err)
	if plain.Layer() != img.Layers[0] || len(layers.has(t)) != 3 {
		t.Errorf("layer %q, of %q", plain.Layer(), layers.has(t))
	}
	// With whiteouts in it, it is another: there they are files.
	plain, err = s.Import(t.Context(), Import{Name: "plain", Source: stdin(bytes.NewReader(mid)), Driver: "plain", Layers: layers, InUse: nobody})
	must(t, err)
	if plain.Chains[0] != "" {
		t.Errorf("chains %q", plain.Chains)
	}
	must(t, s.Remove("plain", layers, nobody))
	must(t, s.Remove("one", layers, nobody))
	equal(t, "layers", layers.has(t), append(slices.Clone(img.Layers), img2.Layers[1]))
	must(t, s.Remove("three", layers, nobody))
	equal(t, "layers", layers.has(t), slices.Clone(img2.Layers))
	must(t, s.Remove("two", layers, nobody))
	equal(t, "layers", layers.has(t), nil)
}

// A layer that is not what the config says, or that cannot be read, leaves nothing.
func TestBadLayers(t *testing.T) {
	base := tarOf(t, "a", "1")
	for name, c := range map[string]struct {
		spoil func(*fake)
		want  string
	}{
		"other content": {func(f *fake) {
			f.Layers[1].Open = func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(tarOf(t, "b", "evil"))), nil
			}
		}, "layer 2 of 2: its content has the digest sha256:"},
		"cannot be opened": {func(f *fake) {
			f.Layers[1].Open = func(context.Context) (io.ReadCloser, error) { return nil, errPlain }
		}, errPlain.Error()},
		"breaks off": {func(f *fake) {
			f.Layers[1].Open = func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(bytes.NewReader(tarOf(t, "b", "2")[:700]), iotestErr{})), nil
			}
		}, errPlain.Error()},
		"cut short": {func(f *fake) {
			f.Layers[1].Open = func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(tarOf(t, "b", "2")[:512])), nil
			}
		}, "cut short"},
		"cut short behind its last file": {func(f *fake) {
			f.Layers[1].Open = func(context.Context) (io.ReadCloser, error) {
				return io.NopCloser(bytes.NewReader(tarOf(t, "b", "2")[:700])), nil
			}
		}, "layer 2 of 2: its content has the digest sha256:"},
		"one layer too many":    {func(f *fake) { f.Layers = append(f.Layers, f.Layers[0]) }, "has 3 layers and its config names 2"},
		"config":                {func(f *fake) { f.Config = []byte("{") }, "image config"},
		"config without layers": {func(f *fake) { f.Config = []byte("{}") }, "no layers in rootfs.diff_ids"},
		"diff id": {func(f *fake) {
			f.Config = bytes.ReplaceAll(f.Config, []byte("sha256:"), []byte("sha256:../../"))
		}, "is not a sha256 digest"},
		"large config": {func(f *fake) { f.Config = bytes.Repeat([]byte(" "), maxOCI+1) }, "at most 4 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			s, layers := fixture(t)
			f := sourceOf(t, nil, base, tarOf(t, "b", "2"))
			c.spoil(f)
			img, err := pull(t, s, layers, "x", f)
			if err == nil || img != nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, %v; want one line with %q", img, err, c.want)
			}
			equal(t, "layers", layers.has(t), nil)
		})
	}
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errPlain }

// What a killed pull has sealed, the next one takes up.
func TestPullGoesOn(t *testing.T) {
	s, layers := fixture(t)
	base := tarOf(t, "a", "1")
	l, err := layers.NewLayer("")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(l.Root().Name(), "a"), []byte("1"), 0o644))
	id, err := l.Commit(digest(base))
	must(t, err)
	f := sourceOf(t, nil, base, tarOf(t, "b", "22"))
	img, err := pull(t, s, layers, "x", f)
	must(t, err)
	if img.Layers[0] != id || !slices.Equal(f.opened, []int{1}) || img.Size != 3 {
		t.Errorf("layers %q, opened %v, size %d", img.Layers, f.opened, img.Size)
	}
}

// An image is as large as it is, whether its layers were made now or by a pull that was
// killed before it had a record.
func TestSizeAfterAKill(t *testing.T) {
	s, layers := fixture(t)
	tars := [][]byte{tarOf(t, "a", "1", "b", "22"), tarOf(t, "a", "333", "c", "4444"), tarOf(t, ".wh.b", "", "c", "55555")}
	whole, err := pull(t, s, layers, "x", sourceOf(t, nil, tars...))
	must(t, err)
	must(t, os.Remove(filepath.Join(s.dir, "x:latest.json")))
	again := sourceOf(t, nil, tars...)
	img, err := pull(t, s, layers, "x", again)
	must(t, err)
	if again.opened != nil || fmt.Sprint(img.Sizes) != "[3 7 5]" || fmt.Sprint(whole.Sizes) != "[3 7 5]" {
		t.Errorf("opened %v; sizes %d, were %d", again.opened, img.Sizes, whole.Sizes)
	}
	equal(t, "layers", layers.has(t), slices.Clone(img.Layers)) // and no view of one
}

// Eight pulls of two images that share a layer: each layer is made once.
func TestConcurrentPulls(t *testing.T) {
	s, layers := fixture(t)
	base := tarOf(t, "a", strings.Repeat("1", 1<<20))
	var all sync.WaitGroup
	sources := make([]*fake, 8)
	for i := range sources {
		sources[i] = sourceOf(t, nil, base, tarOf(t, "b", fmt.Sprint(i%2)))
		all.Go(func() {
			if _, err := pull(t, Open(s.storage), layers, fmt.Sprint("x", i), sources[i]); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	opened := 0
	for _, f := range sources {
		opened += len(f.opened)
	}
	if has := layers.has(t); opened != 3 || len(has) != 3 {
		t.Errorf("%d layers read, %q made; want 3", opened, has)
	}
}

// A layer that a pull counts on is not taken away by the removal of the image that it was
// shared with; and goes with the pull, when that fails.
func TestRemoveUnderAPull(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprint("fails ", fails), func(t *testing.T) {
			s, layers := fixture(t)
			base, top := tarOf(t, "a", "1"), tarOf(t, "b", "2")
			_, err := pull(t, s, layers, "old", sourceOf(t, nil, base))
			must(t, err)
			f := sourceOf(t, nil, base, top)
			inside := &gate{entered: make(chan struct{}), open: make(chan struct{}), data: bytes.NewReader(top)}
			if fails {
				inside.data = bytes.NewReader(top[:600])
			}
			f.Layers[1].Open = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(inside), nil }
			done := make(chan error)
			go func() {
				_, err := pull(t, s, layers, "new", f)
				done <- err
			}()
			<-inside.entered
			must(t, s.Remove("old", layers, nobody))
			close(inside.open)
			err = <-done
			if fails {
				if err == nil {
					t.Error("no error")
				}
				equal(t, "layers", layers.has(t), nil)
				return
			}
			must(t, err)
			img, err := s.Get("new")
			must(t, err)
			equal(t, "files", content(t, layers, img), []string{"a=1", "b=2"})
		})
	}
}

func TestTag(t *testing.T) {
	s, layers := fixture(t)
	img, err := pull(t, s, layers, "one", sourceOf(t, nil, tarOf(t, "a", "1")))
	must(t, err)
	other, err := pull(t, s, layers, "other", sourceOf(t, nil, tarOf(t, "a", "2")))
	must(t, err)
	users := func(layer string) []string {
		if layer == other.Layer() {
			return []string{"web"}
		}
		return nil
	}
	if _, err := s.Tag("one", "other", layers, users); !errors.Is(err, ErrInUse) {
		t.Errorf("%v; want ErrInUse", err)
	}
	if _, err := s.Tag("none", "x", layers, nobody); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v; want ErrNotFound", err)
	}
	if _, err := s.Tag("one", "../x", layers, nobody); err == nil {
		t.Error("a bad name, and no error")
	}
	_, err = s.Tag("one", "other", layers, nobody)
	must(t, err)
	equal(t, "layers", layers.has(t), []string{img.Layer()})
	_, err = s.Tag("one", "one:latest", layers, nobody)
	must(t, err)
	on := func(string) []string { return []string{"web"} }
	must(t, s.Remove("one", layers, on)) // the other name keeps it
	equal(t, "layers", layers.has(t), []string{img.Layer()})
	if err := s.Remove("other", layers, on); !errors.Is(err, ErrInUse) {
		t.Errorf("%v; want ErrInUse", err)
	}
	must(t, s.Remove("other", layers, nobody))
	equal(t, "layers", layers.has(t), nil)
}

// However an image writes its volumes, what is in them is no part of a commit, and what is
// beside them is.
func TestBelowVolumes(t *testing.T) {
	for _, x := range []struct {
		volume, path string
		want         bool
	}{
		{"/data", "data/x", true}, {"/data", "data", false}, {"/data", "data2/x", false}, {"data/", "data/x/y", true},
		{"/var//lib/./db/", "var/lib/db/x", true}, {"/var/lib/../db", "var/db/x", true}, {"/../../etc", "etc/passwd", true},
		{"/", "etc/passwd", false}, {"", "etc/passwd", false}, {"/..", "etc", false},
	} {
		if got := belowVolumes([]string{x.volume})(x.path); got != x.want {
			t.Errorf("%q below volume %q: got %v, want %v", x.path, x.volume, got, x.want)
		}
	}
}

// The history of a committed image tells of each layer, and of no more: buildah counts.
func TestHistoryOfACommit(t *testing.T) {
	step, empty := map[string]any{"created_by": "a"}, map[string]any{"created_by": "b", "empty_layer": true}
	for name, c := range map[string]struct {
		past any
		want string
	}{
		"whole": {[]any{step, empty, step}, `a b a "thinrun image commit"`},
		"none":  {nil, `unknown unknown "thinrun image commit"`},
		"half":  {[]any{empty, step}, `b a unknown "thinrun image commit"`},
	} {
		t.Run(name, func(t *testing.T) {
			s, layers := fixture(t)
			src := sourceOf(t, nil, tarOf(t, "a", "1"), tarOf(t, "b", "1"))
			var doc map[string]any
			must(t, json.Unmarshal(src.Config, &doc))
			doc["history"] = c.past
			var err error
			src.Config, err = json.Marshal(doc)
			must(t, err)
			img, err := pull(t, s, layers, "base", src)
			must(t, err)
			must(t, img.describe(Commit{Base: img}))
			var got struct {
				History []struct {
					By string `json:"created_by"`
				}
			}
			must(t, json.Unmarshal(img.OCI, &got))
			var words []string
			for _, h := range got.History {
				if strings.Contains(h.By, " ") {
					h.By = fmt.Sprintf("%q", h.By)
				}
				words = append(words, h.By)
			}
			if text := strings.Join(words, " "); text != c.want {
				t.Errorf("got %s, want %s", text, c.want)
			}
		})
	}
}

// commit and export: what was committed comes out of the archive as it is, and is a layer
// that another import shares.
func TestCommitAndExport(t *testing.T) {
	for _, volumes := range []bool{false, true} {
		t.Run(fmt.Sprint("volumes ", volumes), func(t *testing.T) {
			s, layers := fixture(t)
			config := map[string]any{"Env": []string{"A=1"}, "Labels": map[string]string{"l": "kept"}}
			if volumes {
				config["Volumes"] = map[string]any{"/data": map[string]any{}}
			}
			base, err := pull(t, s, layers, "base", sourceOf(t, config, tarOf(t, "data/", "", "a", "1", "b", "1")))
			must(t, err)
			fork, err := layers.NewLayer(base.Layer())
			must(t, err)
			root := fork.Root().Name()
			must(t, os.Remove(filepath.Join(root, "a")))
			must(t, os.WriteFile(filepath.Join(root, "new"), []byte("22"), 0o644))
			must(t, os.WriteFile(filepath.Join(root, "data", "private"), []byte("x"), 0o644))
			img, err := s.Commit(t.Context(), Commit{
				Name: "committed", Base: base, Layer: fork, Driver: "plain", Layers: layers, InUse: nobody,
				Message: "why", Author: "me", Changes: func(c *Config) { c.Cmd = []string{"/new"} },
			})
			must(t, err)
			must(t, fork.Abort())
			want := []string{"b=1", "new=22"}
			if !volumes {
				want = append(want, "data/private=x")
			}
			equal(t, "files", content(t, layers, img), slices.Clone(want))
			equal(t, "layers", layers.has(t), slices.Clone(img.Layers))
			for _, text := range []string{`"x-unknown":"kept"`, `"l":"kept"`, `"comment":"why"`, `"author":"me"`, `"Cmd":["/new"]`, `"Env":["A=1"]`} {
				if !strings.Contains(string(img.OCI), text) {
					t.Errorf("config %s lacks %s", img.OCI, text)
				}
			}
			if img.ID != digest(img.OCI) || len(img.DiffIDs) != 2 || img.Chains[1] != chainID(img.Chains[0], img.DiffIDs[1]) {
				t.Errorf("%+v", img)
			}

			out, err := s.Export("committed", layers, nil)
			must(t, err)
			var tars [][]byte
			for _, l := range out.Layers {
				var b bytes.Buffer
				must(t, l.Tar(t.Context(), &b))
				tars = append(tars, b.Bytes())
			}
			if digest(tars[1]) != out.Layers[1].DiffID {
				t.Error("the committed layer's tar has another digest now")
			}
			must(t, s.Remove("committed", layers, nobody)) // under the export
			must(t, out.Layers[0].Tar(t.Context(), io.Discard))
			if has := layers.has(t); len(has) != 2 {
				t.Errorf("layers %q; want both until the export ends", has)
			}
			must(t, out.Close())
			equal(t, "layers", layers.has(t), slices.Clone(base.Layers))
			back, err := pull(t, s, layers, "back", sourceOf(t, nil, tars...))
			must(t, err)
			equal(t, "files", content(t, layers, back), want)
		})
	}
}
