package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// oneFile is a tar with one file in it, owned by whoever runs the test.
func oneFile(t *testing.T, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content)), Uid: os.Getuid(), Gid: os.Getgid()}))
	_, err := w.Write([]byte(content))
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

// stdin is a tar that comes from there.
func stdin(r io.Reader) *Source {
	open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(r), nil }
	return &Source{From: "-", Layers: []SourceLayer{{Open: open}}, Close: func() error { return nil }}
}

func importTar(t *testing.T, s *Store, layers *plainStore, name, content string, inUse func(string) []string) (*Image, error) {
	t.Helper()
	return s.Import(context.Background(), Import{
		Name: name, Source: stdin(bytes.NewReader(oneFile(t, content))), Driver: "plain", Layers: layers, InUse: inUse,
	})
}

func TestLife(t *testing.T) {
	s, layers := fixture(t)
	if list, err := s.List(); err != nil || list != nil {
		t.Errorf("list of an unused storage: %v, %v", list, err)
	}
	if _, err := s.Get("debian"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "debian:latest") {
		t.Errorf("%v; want ErrNotFound with the name", err)
	}
	if _, _, err := s.Use("debian"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v; want ErrNotFound", err)
	}
	if err := s.Remove("debian", layers, nobody); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v; want ErrNotFound", err)
	}
	if _, err := os.Stat(s.storage); err == nil {
		t.Error("looking has made the storage")
	}

	img, err := importTar(t, s, layers, "debian", "first", nobody)
	must(t, err)
	if img.Name != "debian:latest" || img.Size != 5 || img.Driver != "plain" || !slices.Equal(img.Layers, []string{"layer1"}) || img.Source != "-" || img.Created.IsZero() {
		t.Errorf("image %+v", img)
	}
	_, err = importTar(t, s, layers, "localhost:5000/a/b:1", "other", nobody)
	must(t, err)
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "debian:latest" || list[1].Name != "localhost:5000/a/b:1" {
		t.Errorf("list: %+v, %v", list, err)
	}
	for _, path := range []string{s.dir, filepath.Join(s.dir, "debian:latest.json")} {
		st, err := os.Stat(path)
		must(t, err)
		if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %v", path, st.Mode())
		}
	}
	must(t, s.Remove("debian", layers, nobody))
	equal(t, "layers", layers.has(t), []string{"layer2"})
	if _, err := s.Get("debian"); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed, and still there: %v", err)
	}
}

// A name is taken over when nobody is on the old image, and only then.
func TestReplace(t *testing.T) {
	s, layers := fixture(t)
	_, err := importTar(t, s, layers, "x", "old", nobody)
	must(t, err)
	used := func(layer string) []string {
		if layer == "layer1" {
			return []string{"web1", "web2"}
		}
		return nil
	}
	_, err = importTar(t, s, layers, "x", "new", used)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "web1, web2") {
		t.Errorf("%v; want ErrInUse that names the containers", err)
	}
	if err := s.Remove("x", layers, used); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "web1, web2") {
		t.Errorf("%v; want ErrInUse that names the containers", err)
	}
	// The container came while the import was running.
	calls := 0
	_, err = importTar(t, s, layers, "x", "new", func(layer string) []string {
		if calls++; calls == 1 {
			return nil
		}
		return used(layer)
	})
	if !errors.Is(err, ErrInUse) || calls != 2 {
		t.Errorf("%v after %d questions; want ErrInUse after 2", err, calls)
	}
	_, err = s.Import(context.Background(), Import{
		Name: "x", Source: stdin(bytes.NewReader(oneFile(t, "new"))), Driver: "other", Layers: layers, InUse: nobody,
	})
	if err == nil || !strings.Contains(err.Error(), "kept by the plain driver") {
		t.Errorf("%v; want a refusal: the layers are another driver's", err)
	}
	equal(t, "layers", layers.has(t), []string{"layer1"})
	img, err := importTar(t, s, layers, "x", "new", nobody)
	must(t, err)
	equal(t, "layers", layers.has(t), []string{img.Layer()})
	if got, err := s.Get("x"); err != nil || got.Layer() != img.Layer() {
		t.Errorf("%+v, %v; want the new image", got, err)
	}
}

// A layer that two images share goes with the second.
func TestSharedLayers(t *testing.T) {
	s, layers := fixture(t)
	img, err := importTar(t, s, layers, "a", "base", nobody)
	must(t, err)
	for _, name := range []string{"top-b", "top-c"} {
		must(t, os.Mkdir(filepath.Join(layers.dir, name), 0o755))
	}
	for name, top := range map[string]string{"b:latest": "top-b", "c:latest": "top-c"} {
		other := Image{Version: Version, Name: name, Driver: img.Driver, Layers: []string{img.Layer(), top}}
		must(t, s.put(&other))
	}
	must(t, s.Remove("b", layers, nobody))
	equal(t, "layers", layers.has(t), []string{"layer1", "top-c"})
	must(t, s.Remove("a", layers, nobody))
	equal(t, "layers", layers.has(t), []string{"layer1", "top-c"})
	must(t, s.Remove("c", layers, nobody))
	equal(t, "layers", layers.has(t), nil)
}

// Whatever fails, there is either the image or nothing of it.
func TestImportFails(t *testing.T) {
	good := oneFile(t, "content")
	for name, c := range map[string]struct {
		im   Import
		fail string
		want string
	}{
		"bad name":       {im: Import{Name: "../x", Source: stdin(nil)}, want: "../x"},
		"no layers":      {im: Import{Name: "x", Source: &Source{From: "oci:empty"}}, want: "oci:empty: an image without layers"},
		"empty":          {im: Import{Name: "x", Source: stdin(strings.NewReader(""))}, want: "empty input"},
		"text":           {im: Import{Name: "x", Source: stdin(strings.NewReader(strings.Repeat("hello\n", 1000)))}, want: "not a tar archive"},
		"short text":     {im: Import{Name: "x", Source: stdin(strings.NewReader("hi"))}, want: "cut short"},
		"cut in a file":  {im: Import{Name: "x", Source: stdin(bytes.NewReader(good[:514]))}, want: "cut short"},
		"cut in header":  {im: Import{Name: "x", Source: stdin(bytes.NewReader(good[:100]))}, want: "cut short"},
		"cut at the end": {im: Import{Name: "x", Source: stdin(bytes.NewReader(good[:1024]))}, want: "end mark"},
		"no layer":       {im: Import{Name: "x", Source: stdin(bytes.NewReader(good))}, fail: "new", want: errPlain.Error()},
		"no commit":      {im: Import{Name: "x", Source: stdin(bytes.NewReader(good))}, fail: "commit", want: errPlain.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			s, layers := fixture(t)
			layers.fail = c.fail
			c.im.Driver, c.im.Layers, c.im.InUse = "plain", layers, nobody
			img, err := s.Import(context.Background(), c.im)
			if err == nil || !strings.Contains(err.Error(), c.want) || img != nil {
				t.Errorf("%v, %v; want an error with %q", img, err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 300) {
				t.Errorf("not one line: %q", err)
			}
			equal(t, "layers", layers.has(t), nil)
			if list, err := s.List(); err != nil || list != nil {
				t.Errorf("list: %v, %v", list, err)
			}
		})
	}
}

func TestImportCancelled(t *testing.T) {
	s, layers := fixture(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Import(ctx, Import{Name: "x", Source: stdin(bytes.NewReader(oneFile(t, "c"))), Layers: layers, InUse: nobody})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want context.Canceled", err)
	}
	equal(t, "layers", layers.has(t), nil)
}

// A record that cannot be read is named, hides no other, and stops all that would
// take layers for garbage.
func TestDamagedRecord(t *testing.T) {
	for name, data := range map[string]string{
		"empty":      "",
		"not JSON":   "x",
		"no layers":  `{"version":1,"name":"bad:1"}`,
		"empty id":   `{"version":1,"name":"bad:1","layers":[""]}`,
		"other name": `{"version":1,"name":"good:latest","layers":["l"]}`,
		"newer":      `{"version":3,"name":"bad:1","layers":["l"]}`,
		"array":      `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			s, layers := fixture(t)
			img, err := importTar(t, s, layers, "good", "c", nobody)
			must(t, err)
			path := filepath.Join(s.dir, "bad:1.json")
			must(t, os.WriteFile(path, []byte(data), 0o600))
			_, err = s.Get("bad:1")
			if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "remove this file") == (name == "newer") {
				t.Errorf("%v; want an error that names %s and says what to do", err, path)
			}
			list, err := s.List()
			if err == nil || !strings.Contains(err.Error(), path) || len(list) != 1 || list[0].Name != img.Name {
				t.Errorf("list: %+v, %v", list, err)
			}
			must(t, os.Remove(filepath.Join(s.dir, fileName(img.Name))))
			if gone, err := s.Sweep(layers); err == nil || len(gone) != 0 {
				t.Errorf("with a damaged record swept %q, %v", gone, err)
			}
			must(t, os.Remove(path))
		})
	}
}

// gate is a reader that tells when it is read and waits.
type gate struct {
	once          sync.Once
	entered, open chan struct{}
	data          *bytes.Reader
}

func (g *gate) Read(p []byte) (int, error) {
	g.once.Do(func() { close(g.entered) })
	<-g.open
	return g.data.Read(p)
}

// Between Use and release, an image is not removed under the hands of its user.
func TestUse(t *testing.T) {
	s, layers := fixture(t)
	_, err := importTar(t, s, layers, "x", "c", nobody)
	must(t, err)
	img, release, err := s.Use("x")
	must(t, err)
	var mu sync.Mutex
	var claimed []string
	done := make(chan error)
	go func() {
		done <- s.Remove("x", layers, func(string) []string {
			mu.Lock()
			defer mu.Unlock()
			return claimed
		})
	}()
	mu.Lock()
	claimed = []string{"c1"} // the container's record is written ...
	mu.Unlock()
	release() // ... before the image is released
	if err := <-done; !errors.Is(err, ErrInUse) {
		t.Errorf("%v; want ErrInUse", err)
	}
	if _, err := os.Stat(filepath.Join(layers.dir, img.Layer())); err != nil {
		t.Error(err)
	}
}

// A stream of starts does not keep out who changes a record: who comes later waits for it.
func TestTagBesideStarts(t *testing.T) {
	s, layers := fixture(t)
	_, err := importTar(t, s, layers, "x", "c", nobody)
	must(t, err)
	_, release, err := s.Start("x")
	must(t, err)
	tagged := make(chan error)
	go func() {
		_, err := s.Tag("x", "y", layers, nobody)
		tagged <- err
	}()
	waitsForLock(t, filepath.Join(s.dir, lockRecords))
	if unlock, err := s.lock(lockRecords, unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a later start goes before: %v, want %v", err, unix.EWOULDBLOCK)
		unlock()
	}
	release()
	must(t, <-tagged)
	_, release, err = s.Start("y")
	must(t, err)
	release()
}

// waitsForLock returns when /proc/locks shows somebody who waits for the file.
func waitsForLock(t *testing.T, file string) {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Stat(file, &st))
	inode := fmt.Sprintf(":%d ", st.Ino)
	for {
		locks, err := os.ReadFile("/proc/locks")
		must(t, err)
		for line := range strings.Lines(string(locks)) {
			if strings.Contains(line, "-> FLOCK") && strings.Contains(line, inode) {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// Eight imports of one name: one image, one layer.
func TestConcurrentImports(t *testing.T) {
	s, _ := fixture(t)
	base := t.TempDir()
	var all sync.WaitGroup
	stores := make([]*plainStore, 8)
	for i := range stores {
		dir := filepath.Join(base, string(rune('a'+i)))
		must(t, os.Mkdir(dir, 0o755))
		stores[i] = &plainStore{dir: dir}
	}
	// One process each: RemoveLayer finds a layer in whichever directory has it.
	for i := range stores {
		data := oneFile(t, strings.Repeat("x", i))
		all.Go(func() {
			_, err := Open(s.storage).Import(context.Background(), Import{
				Name: "x", Source: stdin(bytes.NewReader(data)), InUse: nobody,
				Layers: &prefixed{stores[i], stores},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	img, err := s.Get("x")
	must(t, err)
	var left []string
	for _, p := range stores {
		for _, id := range p.has(t) {
			left = append(left, filepath.Base(p.dir)+"-"+id)
		}
	}
	equal(t, "layers", left, []string{img.Layer()})
}
