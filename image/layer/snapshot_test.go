package layer

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/tests/box"
)

// over mounts an overlay on dir, which for inodes and ctimes is what a snapshot is: what
// is not changed is the very same inode, and a change sets its ctime.
func over(t *testing.T, dir string) (merged string) {
	t.Helper()
	base := t.TempDir()
	for _, d := range []string{"upper", "work", "merged"} {
		must(t, os.Mkdir(filepath.Join(base, d), 0o755))
	}
	merged = filepath.Join(base, "merged")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", dir, base, base)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		box.Lacks(t, "overlay on %s: %v", base, err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(merged, unix.MNT_DETACH)) })
	return merged
}

// withoutCounts: when one name of a file is changed, overlayfs does not count it less for
// the others.
func withoutCounts(list []string) []string { return without(list, " nlink [0-9]+") }

// Of a snapshot, Diff reads what has another ctime, and finds the same.
func TestDiffOfSnapshots(t *testing.T) {
	box.Require(t)
	needNodes(t, t.TempDir())
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			a := filepath.Join(t.TempDir(), "a")
			must(t, os.Mkdir(a, 0o755))
			g := gardener{t, rand.New(rand.NewPCG(seed, 5)), a}
			for range 40 {
				g.change()
			}
			g.dir = over(t, a)
			for range 1 + g.r.IntN(20) {
				g.change()
			}
			want := withoutCounts(describe(t, g.dir))
			layer, _ := diff(t, a, g.dir, DiffOptions{Snapshot: true})
			b := filepath.Join(t.TempDir(), "b")
			clone(t, a, b)
			apply(t, b, layer)
			compare(t, withoutCounts(describe(t, b)), want)
			if t.Failed() {
				t.Logf("layer: %q", members(t, layer))
			}
		})
	}
}

// What changed in the clock tick of the snapshot has the original's ctime, and is found.
func TestDiffOfTheSameTick(t *testing.T) {
	box.Require(t)
	a := t.TempDir()
	merged := over(t, a)
	for i := range 10_000 {
		name := fmt.Sprint("f", i)
		before, after := filepath.Join(a, name), filepath.Join(merged, name)
		must(t, os.WriteFile(before, []byte("1"), 0o644))
		must(t, os.WriteFile(after, []byte("2"), 0o644))
		var l, u unix.Statx_t
		flags := unix.STATX_BASIC_STATS
		must(t, unix.Statx(unix.AT_FDCWD, before, 0, flags, &l))
		must(t, unix.Statx(unix.AT_FDCWD, after, 0, flags, &u))
		if !untouched(&l, &u) {
			must(t, os.Remove(after))
			must(t, os.Remove(before))
			continue
		}
		layer, _ := diff(t, a, merged, DiffOptions{Snapshot: true})
		if list := members(t, layer); !slices.Contains(list, name) {
			t.Errorf("%q of %q", name, list)
		}
		return
	}
	box.NativeOnly(t, "no two writes in one tick of the clock")
	box.Lacks(t, "a clock for files that goes in ticks")
}

// The same trees make the same archive, whatever the order on disk.
func TestDiffIsDeterministic(t *testing.T) {
	box.Require(t)
	src := t.TempDir()
	needNodes(t, src)
	everything(t, src)
	other := filepath.Join(t.TempDir(), "other")
	clone(t, src, other)
	a, _ := diff(t, "", src, DiffOptions{})
	b, _ := diff(t, "", other, DiffOptions{})
	if !bytes.Equal(a, b) {
		t.Error("a copy of the tree makes another archive")
	}
}
