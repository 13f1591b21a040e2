package overlay

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/tests/box"
)

// A container stands still while it is forked: what others have left waits for a new layer.
func TestForkDoesNotTidy(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	claim, _ := container(t, d, sealed(t, d))
	half := "del-" + newID()
	must(t, os.MkdirAll(d.path("layers", half, "fs"), 0o700))
	fork, err := d.Fork(claim)
	must(t, err)
	if left := held(d)(t); !slices.Contains(left, "layers/"+half) {
		t.Errorf("left %q; want %s with them", left, half)
	}
	must(t, fork.Abort())
}

// The copy of an upper directory has overlayfs's own marks, and each whiteout as a file
// of its own kind: otherwise what the container removed would be back in the layer.
func TestForkKeepsMarks(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	l, err := d.NewLayer("")
	must(t, err)
	base := fdPath(l.Root())
	must(t, os.MkdirAll(base+"/again/old", 0o755))
	for i := range 20 {
		must(t, os.WriteFile(fmt.Sprintf("%s/gone-%d", base, i), nil, 0o644))
	}
	id, err := l.Commit("")
	must(t, err)
	claim, root := container(t, d, id)
	must(t, os.RemoveAll(root+"/again"))
	must(t, os.Mkdir(root+"/again", 0o755))
	for i := range 20 {
		must(t, os.Remove(fmt.Sprintf("%s/gone-%d", root, i)))
	}
	fork, err := d.Fork(claim)
	must(t, err)
	copied, err := fork.Commit("")
	must(t, err)
	fs := d.path("layers", copied, "fs")
	var opaque [8]byte
	if n, err := unix.Lgetxattr(fs+"/again", "trusted.overlay.opaque", opaque[:]); err != nil || string(opaque[:n]) != "y" {
		t.Errorf("the directory that was made again is opaque=%q, %v; want y", opaque[:max(n, 0)], err)
	}
	for i := range 20 {
		var st unix.Stat_t
		if err := unix.Lstat(fmt.Sprintf("%s/gone-%d", fs, i), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("whiteout %d: mode %o device %x, %v", i, st.Mode, st.Rdev, err)
		}
	}
	if left, err := os.ReadDir(d.path("layers", copied)); err != nil || len(left) != 3 {
		t.Errorf("the layer's directory holds %v, %v; want chain, fs, lower", left, err)
	}
}

// A container can nest deeper than a path can say (PATH_MAX) and a descriptor table holds; it can
// give one file names at both ends of that.
func TestForkDeep(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	claim, root := container(t, d, sealed(t, d))
	must(t, deep(root, 2200))
	must(t, os.WriteFile(root+"/file", []byte("x"), 0o644))
	var before syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before))
	must(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 64, Max: before.Max}))
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
	fork, err := d.Fork(claim)
	must(t, err)
	defer fork.Abort()
	if got := depth(t, int(fork.Root().Fd())); got != 2200 {
		t.Errorf("the copy is %d levels deep, want 2200", got)
	}
	disks, err := d.DisksOf([]storage.Claim{claim})
	must(t, err)
	if disk := disks[0]; disk == nil || disk.Used < 4096 || disk.Size != 0 {
		t.Errorf("disk %+v", disk)
	}
}

// On a file system where files can share blocks a fork takes next to nothing.
func TestForkSharesBlocks(t *testing.T) {
	box.Require(t)
	base := scratch(t)
	image, dir := filepath.Join(base, "image"), filepath.Join(base, "mnt")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	if known, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(known), "\txfs\n") {
		box.Lacks(t, "xfs in the kernel: %v", err)
	}
	for _, args := range [][]string{{"/sbin/mkfs.xfs", "-q", "-m", "reflink=1", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	d := Driver{Storage: dir}
	claim, root := container(t, d, sealed(t, d))
	bytes := make([]byte, 64<<20)
	rand.Read(bytes)
	must(t, os.WriteFile(root+"/file", bytes, 0o644))
	must(t, exec.Command("sync", "-f", dir).Run())
	used := func() uint64 {
		var st unix.Statfs_t
		must(t, unix.Statfs(dir, &st))
		return (st.Blocks - st.Bfree) * uint64(st.Bsize)
	}
	before := used()
	fork, err := d.Fork(claim)
	must(t, err)
	defer fork.Abort()
	must(t, exec.Command("sync", "-f", dir).Run())
	if now := used(); now > before+4<<20 {
		t.Errorf("a fork of 64 MiB took %d bytes", now-before)
	}
	if copied, err := os.ReadFile(fdPath(fork.Root()) + "/file"); err != nil || !slices.Equal(copied, bytes) {
		t.Errorf("the copy differs: %v", err)
	}
}

// A claim is a file that somebody may have edited: it makes us read nothing else.
func TestForkOnlyOurs(t *testing.T) {
	base := t.TempDir()
	d := Driver{Storage: filepath.Join(base, "storage")}
	id := newID()
	outside := filepath.Join(base, id)
	must(t, os.MkdirAll(filepath.Join(outside, "upper"), 0o700))
	must(t, os.MkdirAll(d.path("containers", id), 0o700))
	must(t, os.Symlink(outside+"/upper", d.path("containers", id, "upper")))
	for _, dir := range []string{outside, "", "/", d.path("containers", id) + "/", d.path("containers", id)} {
		claim := storage.Claim{Driver: Name, Storage: d.Storage, Dir: dir, Layer: newID()}
		if l, err := d.Fork(claim); err == nil {
			l.Abort()
			t.Errorf("fork of %q: no error", dir)
		}
		if disks, err := d.DisksOf([]storage.Claim{claim}); err != nil || disks[0] != nil {
			t.Errorf("disk of %q: %+v, %v; want none", dir, disks, err)
		}
	}
	if left, err := list(d.path("layers")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// A directory that its owner moves while it is counted cannot lead the count elsewhere.
func TestCountOfMovingTree(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o755))
	must(t, os.MkdirAll(filepath.Join(dir, "z"), 0o755))
	top, err := os.Open(dir)
	must(t, err)
	defer top.Close()
	w := walk{top: top, changing: true, entry: func(_ *os.File, name string, _ *unix.Stat_t) error {
		if name == "c" {
			return os.Rename(filepath.Join(dir, "a", "b"), filepath.Join(dir, "z", "b"))
		}
		return nil
	}}
	if err := w.run(); !errors.Is(err, errMoved) {
		t.Errorf("%v; want %v", err, errMoved)
	}
}

// container makes one, whose root stays mounted until the test ends, and gives its path.
func container(t *testing.T, d Driver, layer string) (claim storage.Claim, root string) {
	t.Helper()
	src, err := d.Prepare(storage.Request{ContainerID: "c1", Image: "i", Layer: layer}, func(c storage.Claim) error { claim = c; return nil })
	must(t, err)
	t.Cleanup(func() { src.Mount.Close() })
	return claim, fdPath(src.Mount)
}

// depth follows deep's directories down.
func depth(t *testing.T, fd int) (levels int) {
	t.Helper()
	fd, err := unix.Openat(fd, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	for {
		below, err := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if errors.Is(err, unix.ENOENT) {
			return levels
		}
		must(t, err)
		levels++
		fd = below
	}
}
