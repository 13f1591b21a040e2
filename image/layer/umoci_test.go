package layer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/tests/box"
)

// A tree unpacked by us equals the one unpacked by umoci, entry by entry: owner, mode,
// time, attributes, content, links, nodes.
func TestEqualsUmoci(t *testing.T) {
	box.Require(t)
	needNodes(t, t.TempDir())
	if _, err := exec.LookPath("umoci"); err != nil {
		box.Lacks(t, "umoci")
	}
	for name, build := range map[string]func(*testing.T, umoci){
		"a userland in three layers": userland, "each kind of file": oddities, "three layers of umoci's own": repacked,
		"three layers without an end": inserted,
	} {
		t.Run(name, func(t *testing.T) {
			u := umoci{t, filepath.Join(t.TempDir(), "layout")}
			u.run("init", "--layout", u.layout)
			u.run("new", "--image", u.image())
			build(t, u)
			bundle := filepath.Join(t.TempDir(), "bundle")
			u.run("unpack", "--image", u.image(), bundle)
			want := withoutHoles(describe(t, filepath.Join(bundle, "rootfs")))

			root := filepath.Join(t.TempDir(), "root")
			must(t, os.Mkdir(root, 0o755))
			layers := u.layers()
			if len(layers) != 3 {
				t.Errorf("%d layers", len(layers))
			}
			for _, layer := range layers {
				z, err := gzip.NewReader(bytes.NewReader(layer))
				must(t, err)
				_, err = Apply(t.Context(), openDir(t, root), z, Options{Whiteouts: true, Note: func(s string) { t.Errorf("note: %s", s) }})
				must(t, err)
			}
			if len(want) < 15 {
				t.Errorf("umoci has unpacked %q", want)
			}
			compare(t, withoutHoles(describe(t, root)), want)
			t.Logf("%d files", len(want))
		})
	}
}

// withoutHoles does not say where a file is sparse: umoci writes all of it.
func withoutHoles(list []string) []string { return without(list, " NOT SPARSE: [0-9]+ blocks") }

// umoci is an OCI layout, in which it keeps an image x.
type umoci struct {
	t      *testing.T
	layout string
}

func (u umoci) image() string { return u.layout + ":x" }

func (u umoci) run(args ...string) {
	u.t.Helper()
	if out, err := exec.Command("umoci", args...).CombinedOutput(); err != nil {
		u.t.Fatalf("umoci %q: %v\n%s", args, err, out)
	}
}

func (u umoci) add(layer []byte) {
	u.t.Helper()
	file := filepath.Join(u.t.TempDir(), "layer.tar")
	must(u.t, os.WriteFile(file, layer, 0o600))
	u.run("raw", "add-layer", "--image", u.image(), file)
}

func (u umoci) blob(digest string, v any) (data []byte) {
	u.t.Helper()
	data, err := os.ReadFile(filepath.Join(u.layout, "blobs", strings.Replace(digest, ":", "/", 1)))
	must(u.t, err)
	if v != nil {
		must(u.t, json.Unmarshal(data, v))
	}
	return data
}

func (u umoci) layers() (list [][]byte) {
	u.t.Helper()
	var doc struct {
		Manifests, Layers []struct{ Digest string }
	}
	index, err := os.ReadFile(filepath.Join(u.layout, "index.json"))
	must(u.t, err)
	must(u.t, json.Unmarshal(index, &doc))
	u.blob(doc.Manifests[0].Digest, &doc)
	for _, l := range doc.Layers {
		list = append(list, u.blob(l.Digest, nil))
	}
	return list
}

// pack has GNU tar pack a directory, or some of what is in it.
func pack(t *testing.T, dir string, what ...string) []byte {
	t.Helper()
	args := append([]string{"--numeric-owner", "--format=posix", "--sparse", "--xattrs", "--xattrs-include=*", "-C", dir, "-cf", "-"}, what...)
	cmd := exec.Command("tar", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	return out
}

// userland is a Debian: $THINRUN_USERLAND, a tar, or a part of this one. The second layer
// takes away and replaces, the third does so again.
func userland(t *testing.T, u umoci) {
	base := []byte(nil)
	if file := os.Getenv("THINRUN_USERLAND"); file != "" {
		var err error
		base, err = os.ReadFile(file)
		must(t, err)
	} else {
		// The directories on the way too: else nothing says what time they have.
		what := []string{"--no-recursion", ".", "usr", "usr/bin", "usr/lib", "usr/share", "--recursion", "etc"}
		for _, p := range []string{"usr/share/perl5", "usr/share/misc", "usr/lib/locale", "usr/bin/perl", "usr/bin/bash"} {
			if _, err := os.Lstat("/" + p); err == nil {
				what = append(what, p)
			}
		}
		base = pack(t, "/", what...)
	}
	u.add(base)
	u.add(archive(t, []tar.Header{
		dirM("etc"), file("etc/.wh.passwd"), file("etc/.wh.apt"), file("etc/new"), hard("etc/group2", "etc/group"),
		with(dirM("etc/default"), func(h *tar.Header) { h.Mode = 0o2750; h.Gid = 50 }), file("etc/default/.wh..wh..opq"), file("etc/default/only"),
		dirM("var"), dirM("var/lib"), file("var/lib/x"),
	}))
	u.add(archive(t, []tar.Header{
		with(file("etc/passwd"), func(h *tar.Header) { h.Mode = 0o4755 }), dirM("etc/apt"), file("etc/apt/again"),
		file("etc/default"), dirM("etc/new"), file("etc/new/below"), link("var/lib", "../etc"), dirM("etc"),
	}))
}

func oddities(t *testing.T, u umoci) {
	src := t.TempDir()
	everything(t, src)
	plant(t, src, "d/a", "d/b", "d/e/f", "o/a", "o/b", "l->d", "f")
	ts := []unix.Timespec{{Sec: 5, Nsec: 6}, {Sec: 7, Nsec: 8}}
	for _, p := range []string{"d/e", "d", "o", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(src, p), ts, 0))
	}
	u.add(pack(t, src, "."))
	u.add(archive(t, []tar.Header{
		dirM("d"), file("d/.wh.a"), hard("d/hard", "large"), hard("d/soft", "bin"), dirM("o"), file("o/.wh..wh..opq"), file("o/c"),
		attr(file("f"), "user.x", "1"), attr(dirM("d/e"), "trusted.x", "2"), attr(file("cap"), "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
		dirM("usr"), with(file("tty"), func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Mode = tar.TypeChar, 5, 0o620 }),
		with(file("pipe"), func(h *tar.Header) { h.Typeflag, h.Mode = tar.TypeFifo, 0o600 }),
		attr(dirM("acl"), aclDefault, acl), file("acl/f"), dirM("acl/sub"), file("acl/sub/f"),
	}))
	u.add(archive(t, []tar.Header{
		dirM("d"), file("d/e"), dirM("f"), file("f/below"), file(".wh.usr"), link("l", "nowhere"), file("fifo"), dirM("null"), with(file("su"), func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o6711, 12, 34 }), dirM("./"),
	}))
}

// repacked: umoci makes the layers, of trees at random.
func repacked(t *testing.T, u umoci) {
	g := gardener{t, rand.New(rand.NewPCG(11, 4)), ""}
	for i := range 3 {
		bundle := filepath.Join(t.TempDir(), fmt.Sprint("bundle", i))
		u.run("unpack", "--image", u.image(), bundle)
		g.dir = filepath.Join(bundle, "rootfs")
		if i == 0 {
			for _, d := range []string{"p", "q", "r"} {
				plant(t, g.dir, d+"/q/r/s", d+"/q/t", d+"/u", d+"/v->u", d+"/w/x", d+"/w/y")
			}
		}
		for range 15 {
			g.change()
		}
		u.run("repack", "--image", u.image(), bundle)
	}
}

// inserted: umoci 0.4 writes neither the last file's padding nor the end mark.
func inserted(t *testing.T, u umoci) {
	src := t.TempDir()
	plant(t, src, "d/a", "d/b", "e/c", "f", "g", "h", "i", "j", "k", "l", "m", "n")
	u.run("insert", "--image", u.image(), src, "/")
	u.run("insert", "--image", u.image(), "--whiteout", "/d/a")
	u.run("insert", "--image", u.image(), filepath.Join(src, "f"), "/d/f")
}
