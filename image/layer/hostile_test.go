package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/tests/box"
)

func dirM(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
func link(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to, Mode: 0o777}
}
func hard(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}
func with(h tar.Header, change func(*tar.Header)) tar.Header {
	change(&h)
	return h
}
func attr(h tar.Header, name, value string) tar.Header {
	h.PAXRecords = map[string]string{"SCHILY.xattr." + name: value}
	return h
}

// hostile is an archive against the host. The member that names what is refused is
// quoted in the error; where there is none, the archive is harmless in our hands and
// must be taken.
type hostile struct {
	name    string
	members []tar.Header
	refused string   // the member that the error names
	inside  []string // files that must be in the layer
}

// archives are SECURITY's class A5. canary is a directory of the host, with a file
// "file" and a directory "dir".
func archives(canary string) []hostile {
	up := strings.Repeat("../", 30)
	below := strings.TrimPrefix(canary, "/")
	long := strings.Repeat("d/", 3000)
	return []hostile{
		{"dot-dot", []tar.Header{file("../file")}, "../file", nil},
		{"dot-dot to the canary", []tar.Header{file(up + below + "/file")}, up + below + "/file", nil},
		{"dot-dot inside", []tar.Header{dirM("a"), file("a/../../file")}, "a/../../file", nil},
		{"dot-dot at the end", []tar.Header{dirM("a/..")}, "a/..", nil},
		{"only dot-dot", []tar.Header{dirM("..")}, "..", nil},
		{"absolute", []tar.Header{file(canary + "/file")}, "", []string{below + "/file"}},
		{"many slashes", []tar.Header{file("////etc//passwd")}, "", []string{"etc/passwd"}},
		{"absolute link, write through it", []tar.Header{link("l", canary), file("l/new")}, "l/new", nil},
		{"absolute link to a file, write to it", []tar.Header{link("l", canary+"/file"), file("l")}, "", []string{"l"}},
		{"absolute link, overwrite through it", []tar.Header{link("l", canary), file("l/file")}, "l/file", nil},
		{"relative link, write through it", []tar.Header{link("l", up+below), file("l/new")}, "l/new", nil},
		{"link to the root, write through it", []tar.Header{dirM("etc"), link("l", "/"), file("l/etc/x")}, "", []string{"etc/x"}},
		{"link up, write through it", []tar.Header{dirM("a"), link("a/l", up), file("a/l/x")}, "", []string{"x"}},
		{"two links, each harmless", []tar.Header{dirM("a"), link("a/up", ".."), link("a/out", "up/.."), file("a/out/x")}, "", []string{"x"}},
		{"link to a link", []tar.Header{link("a", canary), link("b", "a"), file("b/new")}, "b/new", nil},
		{"link loop", []tar.Header{link("a", "b"), link("b", "a"), file("a/x")}, "a/x", nil},
		{"link to itself", []tar.Header{link("a", "a"), dirM("a/b")}, "a/b", nil},
		{"/proc/self/root", []tar.Header{link("l", "/proc/self/root"), file("l" + canary + "/new")}, "l" + canary + "/new", nil},
		{"/proc/self/cwd", []tar.Header{dirM("proc"), link("proc/self", "/proc/self"), file("proc/self/cwd/x")}, "proc/self/cwd/x", nil},
		{"proc is a link", []tar.Header{link("proc", "/proc"), file("proc/sys/kernel/core_pattern")}, "proc/sys/kernel/core_pattern", nil},
		{"dev is a link", []tar.Header{link("dev", canary), with(file("dev/null"), func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, 1, 3 })}, "dev/null", nil},
		{"link, then a directory of that name", []tar.Header{link("l", canary), with(dirM("l"), func(h *tar.Header) { h.Mode, h.Uid = 0o777, 65534 }), file("l/new")}, "", []string{"l/new"}},
		{"link to a file, then chmod", []tar.Header{link("l", canary+"/file"), with(file("l"), func(h *tar.Header) { h.Mode = 0o6777 })}, "", []string{"l"}},
		{"empty directory, then a link, then write", []tar.Header{dirM("d"), link("d", canary), file("d/new")}, "d/new", nil},
		{"full directory, then a link", []tar.Header{dirM("d"), file("d/x"), link("d", canary), file("d/file")}, "d", nil},
		{"hard link to the canary", []tar.Header{hard("h", canary+"/file")}, "h", nil},
		{"hard link with dot-dot", []tar.Header{hard("h", up+below+"/file")}, "h", nil},
		{"hard link through a link", []tar.Header{link("l", canary), hard("h", "l/file")}, "h", nil},
		{"hard link to a link, then write", []tar.Header{link("l", canary+"/file"), hard("h", "l"), file("h")}, "", []string{"h", "l"}},
		{"hard link to a link, then write below", []tar.Header{link("l", canary), hard("h", "l"), file("h/new")}, "h/new", nil},
		{"hard link into a link's directory", []tar.Header{file("f"), link("l", canary), hard("l/h", "f")}, "l/h", nil},
		{"hard link to a directory", []tar.Header{dirM("d"), hard("h", "d")}, "h", nil},
		{"hard link to the root", []tar.Header{hard("h", "./")}, "h", nil},
		{"hard link to itself", []tar.Header{hard("h", "h")}, "h", nil},
		{"hard link to what is there, of that name", []tar.Header{file("h"), hard("h", "h")}, "", []string{"h"}},
		{"hard link over a full directory", []tar.Header{file("f"), dirM("d"), file("d/x"), hard("d", "f")}, "d", nil},
		{"the root is a file", []tar.Header{file("./.")}, "./.", nil},
		{"the root is a link", []tar.Header{link(".", canary)}, ".", nil},
		{"the root is a hard link", []tar.Header{file("f"), hard("/", "f")}, "/", nil},
		{"file, then below it", []tar.Header{file("f"), file("f/x")}, "f/x", nil},
		{"fifo, then below it", []tar.Header{with(file("p"), func(h *tar.Header) { h.Typeflag = tar.TypeFifo }), file("p/x")}, "p/x", nil},
		{"fifo, then the same as a file", []tar.Header{with(file("p"), func(h *tar.Header) { h.Typeflag = tar.TypeFifo }), file("p")}, "", []string{"p"}},
		{"whiteout through a link", []tar.Header{link("l", canary), file("l/.wh.file")}, "l/.wh.file", nil},
		{"whiteout of dot-dot", []tar.Header{dirM("d"), file("d/.wh..")}, "", []string{"d/.wh.."}},
		{"opaque mark", []tar.Header{dirM("d"), file("d/x"), file("d/.wh..wh..opq")}, "", []string{"d/x", "d/.wh..wh..opq"}},
		{"overlayfs whiteout", []tar.Header{with(file("w"), func(h *tar.Header) { h.Typeflag = tar.TypeChar })}, "w", nil},
		{"overlayfs redirect", []tar.Header{attr(dirM("d"), "trusted.overlay.redirect", canary)}, "d", nil},
		{"overlayfs opaque, user", []tar.Header{attr(dirM("d"), "user.overlay.opaque", "y")}, "d", nil},
		{"attribute on a link", []tar.Header{attr(link("l", canary+"/file"), "user.evil", "x")}, "l", nil},
		{"setuid root", []tar.Header{with(file("su"), func(h *tar.Header) { h.Mode = 0o6755 })}, "", []string{"su"}},
		{"uid 2^31", []tar.Header{with(file("u"), func(h *tar.Header) { h.Uid = 1 << 31 })}, "u", nil},
		{"uid 2^32-1", []tar.Header{with(file("u"), func(h *tar.Header) { h.Uid = 1<<32 - 1 })}, "u", nil},
		{"uid 2^32", []tar.Header{with(file("u"), func(h *tar.Header) { h.Uid = 1 << 32 })}, "u", nil},
		{"uid -1", []tar.Header{with(file("u"), func(h *tar.Header) { h.Uid, h.Format = -1, tar.FormatGNU })}, "u", nil},
		{"gid 2^32", []tar.Header{with(link("u", "x"), func(h *tar.Header) { h.Gid = 1 << 32 })}, "u", nil},
		{"gid -2", []tar.Header{with(dirM("u"), func(h *tar.Header) { h.Gid, h.Format = -2, tar.FormatGNU })}, "u", nil},
		{"major 2^31", []tar.Header{with(file("n"), func(h *tar.Header) {
			h.Typeflag, h.Devmajor, h.Devminor, h.Format = tar.TypeBlock, 1<<31, 0, tar.FormatGNU
		})}, "n", nil},
		{"minor 2^32", []tar.Header{with(file("n"), func(h *tar.Header) {
			h.Typeflag, h.Devmajor, h.Devminor, h.Format = tar.TypeChar, 8, 1<<32, tar.FormatGNU
		})}, "n", nil},
		{"minor -1", []tar.Header{with(file("n"), func(h *tar.Header) {
			h.Typeflag, h.Devmajor, h.Devminor, h.Format = tar.TypeChar, 8, -1, tar.FormatGNU
		})}, "n", nil},
		{"the disk as a node", []tar.Header{with(file("sda"), func(h *tar.Header) { h.Typeflag, h.Devmajor, h.Mode = tar.TypeBlock, 8, 0o666 })}, "", []string{"sda"}},
		{"name too long", []tar.Header{file(strings.Repeat("x", 256))}, strings.Repeat("x", 256), nil},
		{"path too long", []tar.Header{file(long + "f")}, long + "f", nil},
		{"newline and escape in the name", []tar.Header{file("a\n\x1b[2Jb")}, "", []string{"a\n\x1b[2Jb"}},
		{"newline in a refused name", []tar.Header{file("a\n/../b")}, "a\n/../b", nil},
		{"empty link", []tar.Header{link("l", "")}, "l", nil},
		{"unknown type", []tar.Header{with(file("z"), func(h *tar.Header) { h.Typeflag = 'Z' })}, "z", nil},
		{"socket type of cpio", []tar.Header{with(file("s"), func(h *tar.Header) { h.Mode = 0o140755 })}, "", []string{"s"}},
		{"a directory without rights, and a file in it", []tar.Header{with(dirM("d"), func(h *tar.Header) { h.Mode = 0 }), file("d/x")}, "", []string{"d/x"}},
		{"the root without rights", []tar.Header{with(dirM("./"), func(h *tar.Header) { h.Mode = 0 }), file("x")}, "", []string{"x"}},
	}
}

// archive packs members; each file's content is its name.
func archive(t *testing.T, members []tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range members {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "hostile"
			h.Size = int64(len(content))
		}
		h.ModTime = time.Unix(1, 0)
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(content))
		must(t, err)
	}
	must(t, w.Close())
	return b.Bytes()
}

func TestHostileArchives(t *testing.T) {
	box.Root(t)
	if inOwnMounts(t) {
		return
	}
	host := newHost(t, "dir")
	for _, c := range archives(host.canary) {
		t.Run(c.name, func(t *testing.T) {
			root, err := host.attack(t, c, Options{})
			c.judge(t, root, err)
		})
	}
}

// host is what the archives are against: a directory in which they are unpacked, and which
// has the canary.
type host struct {
	base, canary   string
	before, around []string
}

// newHost makes a host whose canary has a directory of that name.
func newHost(t *testing.T, dir string) host {
	t.Helper()
	base := t.TempDir()
	canary := filepath.Join(base, "canary")
	must(t, os.MkdirAll(filepath.Join(canary, dir), 0o755))
	must(t, os.WriteFile(filepath.Join(canary, "file"), []byte("alive"), 0o600))
	return host{base, canary, describe(t, canary), filesIn(t, base)}
}

// unharmed: the canary is as it was, and alone.
func (h host) unharmed(t *testing.T) {
	t.Helper()
	compare(t, describe(t, h.canary), h.before)
	equal(t, "beside the canary", filesIn(t, h.base), h.around)
}

// attack unpacks an archive beside the canary, onto what a lower layer has, into a
// directory that is removed when the test ends.
func (h host) attack(t *testing.T, c hostile, o Options, lower ...string) (root string, err error) {
	t.Helper()
	root, err = os.MkdirTemp(h.base, "attack-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(root)) })
	plant(t, root, lower...)
	_, err = Apply(t.Context(), openDir(t, root), bytes.NewReader(archive(t, c.members)), o)
	h.unharmed(t)
	return root, err
}

// judge: the archive was refused, or is in the layer, as it should.
func (c hostile) judge(t *testing.T, root string, err error) {
	t.Helper()
	switch {
	case c.refused == "" && err != nil:
		t.Errorf("refused: %v", err)
	case c.refused != "" && err == nil:
		t.Error("taken; want an error")
	case c.refused != "" && !strings.Contains(err.Error(), fmt.Sprintf("%q", c.refused)):
		t.Errorf("%v; want an error that names %q", err, c.refused)
	case err != nil && strings.ContainsAny(err.Error(), "\n\x1b"):
		t.Errorf("not one line: %q", err)
	}
	for _, p := range c.inside {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, p), &st); err != nil {
			t.Errorf("%q is not in the layer: %v", p, err)
		}
	}
}

func filesIn(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "attack-") {
			list = append(list, e.Name())
		}
	}
	return list
}

// Archives of links, directories and files at random, out of few names, so that they
// meet: whatever becomes of them, nothing happens outside.
func TestRandomArchives(t *testing.T) {
	box.Root(t)
	if inOwnMounts(t) {
		return
	}
	host := newHost(t, "a/b")
	canary, taken := host.canary, 0
	const rounds = 1000
	for seed := range uint64(rounds) {
		r := rand.New(rand.NewPCG(seed, 1))
		name := func() string {
			parts := make([]string, 1+r.IntN(3))
			for i := range parts {
				parts[i] = []string{"a", "b", "file", "."}[r.IntN(4)]
			}
			return strings.Join(parts, "/")
		}
		target := func() string {
			return []string{canary, canary + "/file", "/", "..", "../..", "a", "b", "a/b", "../a", strings.Repeat("../", 20) + canary[1:]}[r.IntN(10)]
		}
		var members []tar.Header
		for range 1 + r.IntN(8) {
			switch r.IntN(5) {
			case 0:
				members = append(members, with(dirM(name()), func(h *tar.Header) { h.Mode = 0o707 }))
			case 1, 2:
				members = append(members, link(name(), target()))
			case 3:
				members = append(members, hard(name(), name()))
			case 4:
				members = append(members, file(name()))
			}
		}
		dir, err := os.MkdirTemp(host.base, "attack-")
		must(t, err)
		root, err := os.Open(dir)
		must(t, err)
		_, refused := Apply(t.Context(), root, bytes.NewReader(archive(t, members)), Options{})
		must(t, root.Close())
		if refused == nil {
			taken++
		}
		host.unharmed(t)
		must(t, os.RemoveAll(dir))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if taken < rounds/20 || taken > rounds*19/20 {
		t.Errorf("%d of %d archives were taken: the generator tests only one side", taken, rounds)
	}
}

// TestRoomIsAskedFor: whoever keeps the layer is asked before much is written, and its no
// ends the work.
func TestRoomIsAskedFor(t *testing.T) {
	var tarred bytes.Buffer
	w := tar.NewWriter(&tarred)
	const each = 1 << 20
	for i := range 64 {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("file%d", i), Mode: 0o644, Size: each, Uid: os.Getuid(), Gid: os.Getgid()}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte{byte(i + 1)}, each)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	full, left := errors.New("the store is full"), uint64(16<<20)
	_, err = Apply(t.Context(), root, &tarred, Options{Room: func() (uint64, error) {
		if left == 0 {
			return 0, full
		}
		left /= 2
		return left, nil
	}})
	names, _ := root.Readdirnames(-1)
	if !errors.Is(err, full) || !strings.Contains(err.Error(), `archive member "file`) || len(names) < 16 || len(names) > 24 {
		t.Errorf("%v, with %d files of 1 MiB where there was room for 20", err, len(names))
	}
}
