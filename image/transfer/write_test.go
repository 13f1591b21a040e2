package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/image"
)

// exportOf is a fixture as package image hands it out, with diff ids that are not true any
// more and a config with a field that nobody here knows.
func exportOf(f *fixture) *image.Export {
	e := &image.Export{
		Name: "debian:12",
		OCI:  []byte(`{"architecture":"amd64","os":"linux","x-vendor":{"b":1,"a":[2]},"config":{"Cmd":["sh"],"Env":["A=<&>"]},"rootfs":{"type":"layers","diff_ids":["sha256:old"]}}`),
	}
	for _, b := range f.tars {
		e.Layers = append(e.Layers, image.ExportLayer{Tar: func(_ context.Context, w io.Writer) error {
			_, err := w.Write(b)
			return err
		}})
	}
	return e
}

func TestWriteArchive(t *testing.T) {
	f := newFixture(t, "amd64", 5000, 1<<20, 5000)
	f.tars[2] = f.tars[0] // the same layer twice
	spool := t.TempDir()
	var first bytes.Buffer
	digest, err := WriteArchive(t.Context(), &first, exportOf(f), Options{Spool: spool})
	check(t, err)
	var again bytes.Buffer
	_, err = WriteArchive(t.Context(), &again, exportOf(f), Options{Spool: spool})
	check(t, err)
	if !bytes.Equal(first.Bytes(), again.Bytes()) {
		t.Error("twice the same image, not the same bytes")
	}
	if left, _ := os.ReadDir(spool); len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
	path := filepath.Join(t.TempDir(), "x.tar")
	check(t, os.WriteFile(path, first.Bytes(), 0o644))
	for _, what := range []string{"oci-archive:" + path + ":debian:12", path} {
		got, src, err := opened(t, what, Options{})
		check(t, err)
		wantLayers(t, f, got)
		var c struct {
			Vendor json.RawMessage `json:"x-vendor"`
			Config struct{ Env []string }
		}
		check(t, json.Unmarshal(src.Config, &c))
		if src.Digest != digest || string(c.Vendor) != `{"b":1,"a":[2]}` || len(c.Config.Env) != 1 || c.Config.Env[0] != "A=<&>" {
			t.Errorf("%s: digest %s, want %s; config %s", what, src.Digest, digest, src.Config)
		}
	}
	// Others read it, too.
	out := skopeo(t, "inspect", "oci-archive:"+path)
	if !bytes.Contains(out, []byte(digest)) || !bytes.Contains(out, []byte(`"Architecture": "amd64"`)) {
		t.Errorf("skopeo inspect: %s", out)
	}
	docker := filepath.Join(t.TempDir(), "docker.tar")
	skopeo(t, "copy", "oci-archive:"+path+":debian:12", "docker-archive:"+docker+":debian:12")
	got, _, err := opened(t, "docker-archive:"+docker, Options{})
	check(t, err)
	wantLayers(t, f, got)
}

// TestWriteFileIsWholeOrNot: what fails leaves the file that was there.
func TestWriteFileIsWholeOrNot(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	text := func(s string, err error) func(io.Writer) error {
		return func(w io.Writer) error {
			return errors.Join(err, func() error { _, err := io.WriteString(w, s); return err }())
		}
	}
	broken := errors.New("broken off")
	if err := WriteFile(t.Context(), path, text("half", broken)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	check(t, os.WriteFile(filepath.Join(filepath.Dir(path), ".x.tar.part"), []byte("of somebody who died"), 0o600))
	check(t, WriteFile(t.Context(), path, text("first", nil)))
	if err := WriteFile(t.Context(), path, text("half", broken)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "first" {
		t.Errorf("a failed export left %q", b)
	}
	check(t, WriteFile(t.Context(), path, text("second", nil)))
	if b, _ := os.ReadFile(path); string(b) != "second" {
		t.Errorf("got %q", b)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	check(t, WriteFile(t.Context(), "/dev/null", text("x", nil)))
	err := WriteFile(t.Context(), filepath.Join(dir, "no/such/dir"), text("x", nil))
	if err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("got %v", err)
	}
}

// TestWriteFileFollowsLinks: the link stays, and so does who may read the file.
func TestWriteFileFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	check(t, os.MkdirAll(filepath.Join(dir, "disk", "sub"), 0o755))
	target := filepath.Join(dir, "disk", "x.tar")
	check(t, os.WriteFile(target, []byte("old"), 0o600))
	check(t, os.Symlink("disk/sub", filepath.Join(dir, "sub"))) // .. is of where it leads
	link := filepath.Join(dir, "sub", "link")
	check(t, os.Symlink("../x.tar", link))
	text := func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }
	check(t, WriteFile(t.Context(), link, text))
	to, err := os.Readlink(link)
	b, _ := os.ReadFile(target)
	st, _ := os.Stat(target)
	if err != nil || to != "../x.tar" || string(b) != "new" || st.Mode().Perm() != 0o600 {
		t.Errorf("link to %q, %v; content %q, mode %v", to, err, b, st.Mode())
	}
	check(t, os.Remove(target))
	wantError(t, WriteFile(t.Context(), link, text), link+" is a link to ../x.tar, which is not there")
	if left, _ := os.ReadDir(filepath.Join(dir, "disk")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// TestFifoWithoutAnotherEnd: it is waited for, and no longer than the caller wants.
func TestFifoWithoutAnotherEnd(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for what, err := range map[string]error{
		"WriteFile":   WriteFile(ctx, fifo, func(io.Writer) error { t.Error("opened"); return nil }),
		"Open":        openError(Open(ctx, fifo, Options{})),
		"oci-archive": openError(Open(ctx, "oci-archive:"+fifo, Options{})),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want %v", what, err, context.Canceled)
		}
	}
}

func openError(_ *image.Source, err error) error { return err }
