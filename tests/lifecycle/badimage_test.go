package lifecycle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"thinrun/tests/box"
)

// TestBadImages: what is no image, or one against us, is refused in one line that says why;
// nothing has changed then, and gc finds nothing.
func TestBadImages(t *testing.T) {
	rt := newRuntime(t)
	source := func(name string, data []byte) string {
		file := t.TempDir() + "/" + name
		check(t, os.WriteFile(file, data, 0o600))
		return file
	}
	// layout is an image as an OCI layout; spoil changes the text of its documents or its layer.
	layout := func(spoil func(dir, layer string)) string {
		dir := ociLayout(t, runtime.GOARCH, nil)
		blobs, err := filepath.Glob(dir + "/blobs/sha256/*")
		check(t, err)
		layer := blobs[0]
		for _, b := range blobs {
			if size(t, b) > size(t, layer) {
				layer = b
			}
		}
		spoil(dir, layer)
		return "oci:" + dir
	}
	one := func(h tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		check(t, w.WriteHeader(&h))
		if h.Size < 1<<20 {
			_, err := w.Write(make([]byte, h.Size))
			check(t, err)
			check(t, w.Close())
		}
		return b.Bytes()
	}
	whole := zipped(t, func(w io.Writer) { w.Write(rootTar(t)) })
	type bad struct{ name, what, want string }
	damaged := one(tar.Header{Name: "a", Mode: 0o644, Size: 20 << 10})
	damaged[len(damaged)-512] = 'X' // the end mark is two blocks of zeros
	table := []bad{
		{"x", source("damaged.tar", damaged), `the archive is damaged before byte \d+`},
		{"x", source("text", bytes.Repeat([]byte("hello\n"), 1000)), "not a tar archive"},
		{"x", source("empty", nil), "empty input"},
		{"x", source("cut.tar.gz", whole[:len(whole)/2]), "unexpected EOF|cut short"},
		{"x", source("checksum.tar.gz", append(bytes.Clone(whole[:len(whole)-8]), make([]byte, 8)...)), "gzip: invalid checksum"},
		{"x", source("dotdot.tar", one(tar.Header{Name: "a/../../b", Mode: 0o644})), `archive member "a/../../b": "\.\." in the name`},
		{"x", source("huge.tar", one(tar.Header{Name: "huge", Mode: 0o644, Size: 1 << 50})), `archive member "huge": size \d+ is out of range`},
		{"x", source("escape.tar", one(tar.Header{Name: "../\x1b[2J\n", Mode: 0o644})), `archive member "../\\x1b\[2J\\n"`},
		{"../x", source("good.tar.gz", whole), `image name "../x"`},
		{"x", t.TempDir() + "/nothing", "no such file"},
		{"x", layout(func(_, layer string) { check(t, os.Truncate(layer, size(t, layer)/2)) }), `: sha256:\w{64}: ends after \d+ of \d+ bytes`},
		{"x", layout(func(_, layer string) {
			data, err := os.ReadFile(layer)
			check(t, err)
			data[len(data)/2] ^= 1
			check(t, os.WriteFile(layer, data, 0o600))
		}), `: sha256:\w{64}: its content has digest sha256:`},
		{"x", layout(func(dir, _ string) { check(t, os.Remove(dir+"/oci-layout")) }), "not an OCI layout"},
		{"x", layout(func(dir, _ string) {
			check(t, os.WriteFile(dir+"/index.json", []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"x/y","digest":"sha256:../../../../etc/passwd","size":9}]}`), 0o600))
		}), "index.json: found non-hex character in hash"},
		{"x", "oci:" + ociLayout(t, "s390x", nil), "the image is for linux/s390x, not for linux/" + runtime.GOARCH},
	}
	if box.InLab() {
		rt.OK("pool", "create", "--data-size", "512M", "--max-size", "512M", "--base-size", "10G")
		t.Cleanup(func() { rt.OK("pool", "destroy", "--force") })
		// 1 GiB in 1 MiB: more than the pool may take.
		table = append(table, bad{"x", source("bomb.tar.gz", zipped(t, func(w io.Writer) {
			a := tar.NewWriter(w)
			check(t, a.WriteHeader(&tar.Header{Name: "bomb", Mode: 0o644, Size: 1 << 30}))
			for block := bytes.Repeat([]byte("bomb"), 1<<18); err(a.Write(block)) == nil; {
			}
		})), `archive member "bomb": .*the pool's data is nearly full.*thinrun pool grow`})
	} else {
		rt.Globals = []string{"--storage-driver", "overlay"}
	}
	// With more padding it is another layer: what is here already would not be read.
	rt.OK("image", "import", "--quiet", "base", source("base.tar", append(rootTar(t), make([]byte, 512)...)))
	for _, b := range table {
		got := rt.Run("image", "import", b.name, b.what)
		if got.Code != 1 || got.Stdout != "" || strings.Count(got.Stderr, "\n") != 1 || !regexp.MustCompile("^thinrun: image import .*(?:"+b.want+")").MatchString(got.Stderr) ||
			strings.ContainsRune(got.Stderr, '\x1b') {
			t.Errorf("import of %s: want 1 and a line with %q: %v", filepath.Base(b.what), b.want, got)
		}
		if list := rt.OK("image", "list", "-q"); list != "base:latest\n" {
			t.Errorf("after %s there are the images %q", filepath.Base(b.what), list)
		}
		if found := rt.OK("gc"); found != "" {
			t.Errorf("after %s gc found %q", filepath.Base(b.what), found)
		}
	}
	if out := rt.OK("run", "--image", "base", rt.ID(), "sh", "-c", "echo fine > /new && cat /new"); out != "fine\n" {
		t.Errorf("a container of the image that was there: %q", out)
	}
	rt.OK("image", "rm", "base")
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	st, err := os.Stat(file)
	check(t, err)
	return st.Size()
}

// err is that of a call that also tells how much.
func err(_ int, err error) error { return err }

func zipped(t *testing.T, write func(io.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	write(z)
	check(t, z.Close())
	return b.Bytes()
}
