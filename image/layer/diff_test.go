package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/tests/box"
)

// gardener grows trees at random, out of few names, so that files meet.
type gardener struct {
	t   *testing.T
	r   *rand.Rand
	dir string
}

func (g *gardener) try(err error) {
	g.t.Helper()
	for _, known := range []error{fs.ErrExist, fs.ErrNotExist, unix.ENOTDIR, unix.ENOTEMPTY, unix.EISDIR, unix.EINVAL, unix.ELOOP} {
		if errors.Is(err, known) {
			return
		}
	}
	must(g.t, err)
}

func (g *gardener) name() string {
	parts := []string{g.dir}
	for range 1 + g.r.IntN(3) {
		parts = append(parts, []string{"a", "b", "c", "d", "e ä\xff"}[g.r.IntN(5)])
	}
	return strings.Join(parts, "/")
}

// existing is a file that is there, not the root.
func (g *gardener) existing() string {
	var all []string
	must(g.t, filepath.WalkDir(g.dir, func(p string, _ fs.DirEntry, err error) error {
		if p != g.dir {
			all = append(all, p)
		}
		return err
	}))
	if len(all) == 0 {
		return g.name()
	}
	return all[g.r.IntN(len(all))]
}

func (g *gardener) change() {
	p := g.name()
	switch g.r.IntN(16) {
	case 0, 1, 2:
		g.try(os.Mkdir(p, 0o755))
	case 3, 4:
		size := []int{0, 1, 5000, 20000}[g.r.IntN(4)]
		if st, err := os.Stat(p); err == nil && !st.Mode().IsRegular() {
			return // a fifo would wait for a reader
		}
		g.try(os.WriteFile(p, bytes.Repeat([]byte{byte(g.r.IntN(3))}, size), 0o644))
	case 5:
		g.try(os.Symlink([]string{"a", "/no/where", "../b"}[g.r.IntN(3)], p))
	case 6:
		kind := []uint32{unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK}[g.r.IntN(3)]
		g.try(unix.Mknod(p, kind|0o640, int(unix.Mkdev(7, uint32(1+g.r.IntN(300))))))
	case 7, 8:
		old := g.existing()
		if st, err := os.Lstat(old); err == nil && !st.IsDir() {
			g.try(os.Link(old, p))
		}
	case 9:
		g.try(os.Rename(g.existing(), p))
	case 10, 11:
		g.try(os.RemoveAll(g.existing()))
	case 12:
		g.try(os.Lchown(g.existing(), g.r.IntN(3), g.r.IntN(3)))
	case 13:
		old := g.existing()
		if st, err := os.Lstat(old); err == nil && st.Mode()&fs.ModeSymlink == 0 {
			g.try(unix.Chmod(old, []uint32{0o6755, 0o1777, 0o600, 0}[g.r.IntN(4)]))
		}
	case 14:
		name := []string{"trusted.a", "trusted.b"}[g.r.IntN(2)]
		if g.r.IntN(3) == 0 {
			if err := unix.Lremovexattr(g.existing(), name); !errors.Is(err, unix.ENODATA) {
				g.try(err)
			}
		} else {
			g.try(unix.Lsetxattr(g.existing(), name, []byte{0, byte(g.r.IntN(3)), '='}, 0))
		}
	case 15:
		ts := unix.Timespec{Sec: int64(g.r.IntN(1000)), Nsec: int64(g.r.IntN(1e9))}
		g.try(unix.UtimesNanoAt(unix.AT_FDCWD, g.existing(), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
}

func diff(t *testing.T, lower, upper string, o DiffOptions) ([]byte, Changes) {
	t.Helper()
	var low *os.File
	if lower != "" {
		low = openDir(t, lower)
	}
	var b bytes.Buffer
	found, err := Diff(t.Context(), low, openDir(t, upper), &b, o)
	must(t, err)
	return b.Bytes(), found
}

func apply(t *testing.T, root string, layer []byte) {
	t.Helper()
	_, err := Apply(t.Context(), openDir(t, root), bytes.NewReader(layer), Options{
		Whiteouts: true, Note: func(s string) { t.Errorf("note: %s", s) },
	})
	must(t, err)
}

func clone(t *testing.T, src, dst string) {
	t.Helper()
	must(t, os.Mkdir(dst, 0o700))
	_, err := Copy(t.Context(), openDir(t, dst), openDir(t, src), complain(t))
	must(t, err)
}

// What Diff says of two trees, Apply does to the first, and that is the second.
func TestDiffOfRandomTrees(t *testing.T) {
	box.Require(t)
	needNodes(t, t.TempDir())
	rounds := uint64(150)
	if box.InLab() {
		rounds = 30
	}
	links, whiteouts, opaque := 0, 0, 0
	for seed := range rounds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			g := gardener{t, rand.New(rand.NewPCG(seed, 3)), filepath.Join(t.TempDir(), "a")}
			must(t, os.Mkdir(g.dir, 0o755))
			for range 40 {
				g.change()
			}
			a, b := g.dir, filepath.Join(t.TempDir(), "b")
			clone(t, a, b)
			g.dir = b
			for range 1 + g.r.IntN(20) {
				g.change()
			}
			want := describe(t, b)

			layer, _ := diff(t, a, b, DiffOptions{})
			again, _ := diff(t, a, b, DiffOptions{})
			if !bytes.Equal(layer, again) {
				t.Error("the same trees, and another archive")
			}
			l, w, o := kinds(t, layer)
			links, whiteouts, opaque = links+l, whiteouts+w, opaque+o
			apply(t, a, layer)
			compare(t, describe(t, a), want)
			if rest, found := diff(t, a, b, DiffOptions{}); found.Members != 0 {
				t.Errorf("%d members between equal trees: %q", found.Members, members(t, rest))
			}
			// The order of members within a layer does not matter to whiteouts.
			whole, _ := diff(t, "", b, DiffOptions{})
			empty := filepath.Join(t.TempDir(), "empty")
			must(t, os.Mkdir(empty, 0o755))
			apply(t, empty, whole)
			compare(t, describe(t, empty), want)
			if t.Failed() {
				t.Logf("layer: %q", members(t, layer))
			}
		})
	}
	if links < 3 || whiteouts < 1 || opaque < 1 {
		t.Errorf("%d links, %d whiteouts, %d opaque marks: the generator does not try all", links, whiteouts, opaque)
	}
}

func members(t *testing.T, layer []byte) (list []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(layer)); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		must(t, err)
		list = append(list, hdr.Name)
		if hdr.Typeflag == tar.TypeLink {
			list[len(list)-1] += " = " + hdr.Linkname
		}
	}
}

func kinds(t *testing.T, layer []byte) (links, whiteouts, opaque int) {
	for _, m := range members(t, layer) {
		switch {
		case strings.Contains(m, " = "):
			links++
		case strings.HasSuffix(m, opaqueMark):
			opaque++
		case strings.Contains(m, "/"+whiteoutPrefix):
			whiteouts++
		}
	}
	return
}

// A layer has what changed, and nothing else.
func TestDiffIsSmall(t *testing.T) {
	box.Require(t)
	a := t.TempDir()
	needNodes(t, a)
	everything(t, a)
	for _, d := range []string{"gone", "gone/deep", "emptied", "kept"} {
		must(t, os.Mkdir(filepath.Join(a, d), 0o755))
	}
	for _, f := range []string{"gone/deep/x", "emptied/x", "emptied/y", "kept/x", "kept/y"} {
		must(t, os.WriteFile(filepath.Join(a, f), nil, 0o644))
	}
	b := filepath.Join(t.TempDir(), "b")
	clone(t, a, b)
	at := func(name string) string { return filepath.Join(b, name) }
	must(t, os.RemoveAll(at("gone")))
	for _, f := range []string{"emptied/x", "emptied/y", "kept/y"} {
		must(t, os.Remove(at(f)))
	}
	must(t, os.WriteFile(at("new"), nil, 0o644))
	must(t, os.Chmod(at("empty"), 0o640))
	must(t, os.WriteFile(at("a\nname with\tevery\\thing \xff\xfe ä"), []byte("y"), 0o644))
	must(t, os.Link(at("usr/bin/tool"), at("third")))
	layer, _ := diff(t, a, b, DiffOptions{})
	equal(t, "members", members(t, layer), []string{
		"./", ".wh.gone", "a\nname with\tevery\\thing \xff\xfe ä", "emptied/", "emptied/.wh..wh..opq", "empty", "kept/", "kept/.wh.y", "new",
		"third", "usr/bin/again = third", "usr/bin/tool = third",
	})
	layer, _ = diff(t, a, b, DiffOptions{Skip: func(p string) bool { return p == "emptied/x" || p == "usr" || p == "new" }})
	if list := members(t, layer); slices.Contains(list, "new") || slices.Contains(list, "usr/bin/tool = third") || !slices.Contains(list, "emptied/.wh..wh..opq") && !slices.Contains(list, "emptied/.wh.y") {
		t.Errorf("with paths left out: %q", list)
	}
}
