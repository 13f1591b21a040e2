package overlay

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/flock"
	"thinrun/rootfs/storage/proc"
	"thinrun/rootfs/storage/storagetest"
	"thinrun/tests/box"
)

func TestMain(m *testing.M) { storagetest.Main(m) }

// scratch is a directory on a tmpfs of our own: what lies below the test's own
// directory may be an overlay. storagetest.Main has given us our own mount namespace.
func scratch(t *testing.T) string {
	t.Helper()
	box.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("storagetest", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func held(d Driver) func(t *testing.T) []string {
	return func(t *testing.T) (all []string) {
		t.Helper()
		for _, kind := range []string{"layers", "containers"} {
			names, err := list(d.path(kind))
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				all = append(all, kind+"/"+n)
			}
		}
		return all
	}
}

func suite(t *testing.T, dir func(t *testing.T) string) {
	storagetest.Run(t, func(t *testing.T) storagetest.Fixture { return fixture(Driver{Storage: dir(t)}) })
}

func fixture(d Driver) storagetest.Fixture {
	return storagetest.Fixture{
		Driver: d, Layers: d, Held: held(d),
		Reopen: func(*testing.T) storage.Driver { return Driver{Storage: d.Storage, UserXattr: d.UserXattr} },
	}
}

func TestDriver(t *testing.T) { suite(t, scratch) }

// The names that overlayfs's option parsers and careless path code trip over.
func TestAwkwardStorage(t *testing.T) {
	suite(t, func(t *testing.T) string {
		dir := filepath.Join(scratch(t), `a:b,c\d e`+"\n"+strings.Repeat("x", 200))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return dir
	})
}

// The same on ext4: the test's own directory natively, a scratch disk in the lab.
func TestOnDisk(t *testing.T) {
	box.Root(t)
	base := t.TempDir()
	if box.InLab() {
		disks := strings.FieldsFunc(os.Getenv("LAB_DISKS"), func(r rune) bool { return r == ' ' || r == ',' })
		if len(disks) == 0 {
			t.Fatal("no scratch disk: run labexec with -disk")
		}
		if out, err := exec.Command("/sbin/mkfs.ext4", "-qF", disks[0]).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.ext4 %s: %v: %s", disks[0], err, out)
		}
		must(t, syscall.Mount(disks[0], base, "ext4", 0, ""))
		defer syscall.Unmount(base, syscall.MNT_DETACH)
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(base, &fs))
	if fs.Type == unix.OVERLAYFS_SUPER_MAGIC || fs.Type == unix.TMPFS_MAGIC {
		box.Lacks(t, "a disk: %s is on tmpfs or overlay; set TMPDIR", base)
	}
	n := 0
	suite(t, func(t *testing.T) string {
		n++
		return filepath.Join(base, strconv.Itoa(n))
	})
}

// Root of a user namespace only: overlayfs keeps its marks in user.overlay.*.
func TestUserNamespace(t *testing.T) {
	box.Root(t)
	box.NativeOnly(t, "tmpfs holds user.* attributes from Linux 6.6 on")
	const mark = "THINRUN_OVERLAY_TEST_USERNS"
	if os.Getenv(mark) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestUserNamespace$", "-test.v")
		cmd.Env = append(os.Environ(), mark+"=1")
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{}, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "--- SKIP: TestUserNamespace") {
			box.Lacks(t, "what the test needs in a user namespace: %s", out)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS: TestUserNamespace") {
			t.Errorf("in a user namespace: %v\n%s", err, out)
		}
		return
	}
	if err := unix.Setxattr(scratch(t), "user.probe", []byte("x"), 0); err != nil {
		t.Skipf("user.* attributes on tmpfs: %v", err)
	}
	storagetest.Run(t, func(t *testing.T) storagetest.Fixture { return fixture(Driver{Storage: scratch(t), UserXattr: true}) })
	// And with the attributes of the initial namespace's root: a line that says why not.
	if _, err := (Driver{Storage: scratch(t)}).NewLayer(""); err == nil || !strings.Contains(err.Error(), "trusted.overlay") {
		t.Errorf("%v; want an error about trusted.overlay", err)
	}
}

// An overlay cannot carry an overlay: said at once, with nothing left.
func TestOnOverlay(t *testing.T) {
	base := scratch(t)
	for _, n := range []string{"l", "u", "w", "m"} {
		if err := os.Mkdir(filepath.Join(base, n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(base, "m")
	if err := syscall.Mount("overlay", at, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/l,upperdir=%[1]s/u,workdir=%[1]s/w", base)); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(at, syscall.MNT_DETACH)
	d := Driver{Storage: at}
	l, err := d.NewLayer("")
	if err == nil {
		// This kernel stores trusted.overlay.* through an overlay (Linux 6.8): the layer is
		// fine, the container's upper directory is not.
		id, err := l.Commit("")
		if err != nil {
			t.Fatal(err)
		}
		defer d.RemoveLayer(id)
		var claim storage.Claim
		_, err = d.Prepare(storage.Request{Image: "i", Layer: id}, func(c storage.Claim) error { claim = c; return nil })
		if err == nil {
			t.Fatal("a container's root on an overlay's upper directory: no error")
		}
		if !strings.Contains(err.Error(), "put --storage on") {
			t.Errorf("%v\nwant a line that says what to do", err)
		}
		if err := d.Remove(claim); err != nil {
			t.Error(err)
		}
	} else if !strings.Contains(err.Error(), "put --storage on") {
		t.Errorf("%v\nwant a line that says what to do", err)
	}
	if left := held(d)(t); len(left) > 1 { // the committed layer at most
		t.Errorf("left: %q", left)
	}
}

// 14 layers fit into one option, 60 into numbers; Docker's 127 need Linux 6.7.
func TestDeepChain(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	parent := ""
	for i := range 127 {
		l, err := d.NewLayer(parent)
		if err != nil {
			if i > 60 && strings.Contains(err.Error(), "too long for overlay on this kernel") {
				t.Logf("this kernel takes %d layers: %v", i, err)
				return
			}
			t.Fatalf("layer %d: %v", i, err)
		}
		if err := os.WriteFile(filepath.Join("/proc/self/fd", strconv.Itoa(int(l.Root().Fd())), strconv.Itoa(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if parent, err = l.Commit(""); err != nil {
			t.Fatal(err)
		}
	}
	src, err := d.Prepare(storage.Request{Image: "deep", Layer: parent}, func(storage.Claim) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer src.Mount.Close()
	names, err := os.ReadDir(filepath.Join("/proc/self/fd", strconv.Itoa(int(src.Mount.Fd()))))
	if err != nil || len(names) != 127 {
		t.Errorf("%d files, %v; want one of each of 127 layers", len(names), err)
	}
}

// A claim is a file that somebody may have edited: it cannot make us remove anything
// that is not a container's directory of this storage.
func TestRemoveOnlyOurs(t *testing.T) {
	base := t.TempDir()
	d := Driver{Storage: filepath.Join(base, "storage")}
	id := newID()
	for _, dir := range []string{"containers/" + id + "/upper", "layers/" + id + "/fs"} {
		if err := os.MkdirAll(d.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(base, id)
	if err := os.Mkdir(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{
		"/", ".", "..", outside, d.path("layers", id), d.path("containers"), d.path("containers") + "/",
		d.path("containers") + "/../layers/" + id, d.path("containers") + "/" + id + "/", d.path("containers") + "/x",
		d.path("containers") + "/.." + "/../../" + id, id,
	} {
		if err := d.Remove(storage.Claim{Driver: Name, Storage: d.Storage, Dir: dir}); err == nil {
			t.Errorf("remove of %q: no error", dir)
		}
	}
	if err := d.Remove(storage.Claim{Driver: "devmapper", Dir: d.path("containers", id)}); err == nil {
		t.Error("remove of another driver's claim: no error")
	}
	for _, dir := range []string{outside, d.path("layers", id, "fs"), d.path("containers", id, "upper")} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}

// What a container can leave to trouble its remover: links out, a tree deeper than
// PATH_MAX, names with newlines, device nodes, nailed-down files, a mount.
func TestRemoveHostile(t *testing.T) {
	base := scratch(t)
	d := Driver{Storage: base}
	canary := filepath.Join(base, "canary")
	must(t, os.Mkdir(canary, 0o755))
	must(t, os.WriteFile(filepath.Join(canary, "file"), []byte("alive"), 0o444))
	name := newID()
	up := d.path("containers", name, "upper")
	must(t, os.MkdirAll(up, 0o755))
	must(t, os.Symlink(canary, filepath.Join(up, "link")))
	must(t, os.Symlink("../../../../canary", filepath.Join(up, "relative")))
	must(t, os.Link(filepath.Join(canary, "file"), filepath.Join(up, "hard")))
	must(t, os.WriteFile(filepath.Join(up, "a\nb"), nil, 0))
	must(t, unix.Mkfifo(filepath.Join(up, "fifo"), 0))
	must(t, unix.Mknod(filepath.Join(up, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, os.MkdirAll(filepath.Join(up, "wide", "dir", "dir"), 0o000|0o700))
	for i := range 3000 {
		must(t, os.WriteFile(filepath.Join(up, "wide", strconv.Itoa(i)), nil, 0o600))
	}
	must(t, os.Mkdir(filepath.Join(up, ".removed-1"), 0o700))
	must(t, os.WriteFile(filepath.Join(up, ".removed-1", "x"), nil, 0o600))
	must(t, deep(up, 5000))

	point := filepath.Join(up, "wide", "dir")
	must(t, syscall.Mount(canary, point, "", syscall.MS_BIND, ""))
	claim := storage.Claim{Driver: Name, Storage: base, Dir: d.path("containers", name)}
	err := d.Remove(claim)
	if err == nil || !strings.Contains(err.Error(), `dir`) {
		t.Errorf("with a mount in it: %v; want an error that names dir", err)
	}
	must(t, unmountAny(canary))
	must(t, d.Remove(claim))
	if left := held(d)(t); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	if data, err := os.ReadFile(filepath.Join(canary, "file")); err != nil || string(data) != "alive" {
		t.Errorf("the canary: %q, %v", data, err)
	}
}

// Immutable files want a file system that knows the flag.
func TestRemoveImmutable(t *testing.T) {
	box.Root(t)
	d := Driver{Storage: t.TempDir()}
	name := newID()
	up := d.path("containers", name, "upper")
	must(t, os.MkdirAll(filepath.Join(up, "d"), 0o755))
	file := filepath.Join(up, "d", "f")
	must(t, os.WriteFile(file, nil, 0o644))
	for _, path := range []string{file, filepath.Join(up, "d")} {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, 0x10); err != nil {
			must(t, d.Remove(storage.Claim{Driver: Name, Dir: d.path("containers", name)}))
			box.Lacks(t, "a file system with chattr +i at %s: %v", up, err)
		}
	}
	must(t, d.Remove(storage.Claim{Driver: Name, Dir: d.path("containers", name)}))
	if left := held(d)(t); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// GC takes what is dead and nothing else.
func TestGC(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	kept := sealed(t, d)
	live, err := d.NewLayer("") // its writer is this process
	must(t, err)
	dead := died(t, d, kept)
	half := "del-" + newID()
	must(t, os.MkdirAll(d.path("layers", half, "fs"), 0o700))
	var claims []storage.Claim
	for range 2 {
		src, err := d.Prepare(storage.Request{Image: "i", Layer: kept}, func(c storage.Claim) error { claims = append(claims, c); return nil })
		must(t, err)
		src.Mount.Close()
	}
	must(t, os.Mkdir(d.path("containers", "not-ours"), 0o700))

	gone, err := d.GC(func(dir string) bool { return dir == claims[0].Dir })
	must(t, err)
	want := []string{d.path("layers", dead), d.path("layers", half), claims[1].Dir}
	slices.Sort(want)
	slices.Sort(gone)
	if !slices.Equal(gone, want) {
		t.Errorf("took %q\nwant %q", gone, want)
	}
	left := held(d)(t)
	slices.Sort(left)
	rest := []string{"layers/" + kept, "layers/new-" + live.(*layer).id, "containers/" + filepath.Base(claims[0].Dir), "containers/not-ours"}
	slices.Sort(rest)
	if !slices.Equal(left, rest) {
		t.Errorf("left %q\nwant %q", left, rest)
	}
	if id, err := live.Commit(""); err != nil {
		t.Errorf("the living writer could not finish: %v", err)
	} else if _, err := d.chain(id); err != nil {
		t.Error(err)
	}
}

// died begins a layer whose writer is gone, and its lock with it.
func died(t *testing.T, d Driver, parent string) (name string) {
	t.Helper()
	l, err := d.NewLayer(parent)
	must(t, err)
	must(t, errors.Join(l.(*layer).root.Close(), l.(*layer).dir.Close()))
	return "new-" + l.(*layer).id
}

// The next layer, of whatever image, takes away what a dead writer and a dead remover have
// left, and nothing of a living one's.
func TestNextLayerFinishes(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	kept := sealed(t, d)
	live, err := d.NewLayer(kept)
	must(t, err)
	going := "del-" + newID()
	must(t, os.MkdirAll(d.path("layers", going, "fs"), 0o700))
	remover, err := os.Open(d.path("layers", going))
	must(t, err)
	defer remover.Close()
	must(t, flock.Take(remover, unix.LOCK_EX))
	must(t, os.MkdirAll(d.path("layers", "del-"+newID(), "fs"), 0o700))
	died(t, d, kept)
	next, err := d.NewLayer("")
	must(t, err)
	left := held(d)(t)
	want := []string{"layers/" + kept, "layers/new-" + live.(*layer).id, "layers/new-" + next.(*layer).id, "layers/" + going}
	slices.Sort(left)
	slices.Sort(want)
	if !slices.Equal(left, want) {
		t.Errorf("left %q\nwant %q", left, want)
	}
	must(t, errors.Join(live.Abort(), next.Abort()))
}

// Many take the same layers away at once: none stumbles over another, and nothing is left.
func TestRemovedTogether(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	var ids []string
	for range 4 {
		l, err := d.NewLayer("")
		must(t, err)
		root := filepath.Join("/proc/self/fd", strconv.Itoa(int(l.Root().Fd())))
		for i := range 50 {
			must(t, os.MkdirAll(filepath.Join(root, strconv.Itoa(i), "a", "b"), 0o755))
		}
		id, err := l.Commit("")
		must(t, err)
		ids = append(ids, id)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for _, id := range ids {
				if err := d.RemoveLayer(id); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			if _, err := d.GC(func(string) bool { return false }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left := held(d)(t); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// Nor do collectors that meet at what dead containers have left.
func TestCollectedTogether(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	layer := sealed(t, d)
	for range 4 {
		dir := d.path("containers", newID(), "upper")
		for i := range 50 {
			must(t, os.MkdirAll(filepath.Join(dir, strconv.Itoa(i), "a", "b"), 0o755))
		}
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := d.GC(func(string) bool { return false }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left := held(d)(t); !slices.Equal(left, []string{"layers/" + layer}) {
		t.Errorf("left: %q", left)
	}
}

// A collector knows the records of its own --root only. A container of another one is
// safe as long as its state directory is there, and a later one of that id is another.
func TestGCOfAnotherStateRoot(t *testing.T) {
	dir := scratch(t)
	ours := Driver{Storage: dir, StateRoot: filepath.Join(dir, "ours")}
	state := filepath.Join(ours.StateRoot, "c1")
	must(t, os.MkdirAll(state, 0o700))
	layer := sealed(t, ours)
	src, err := ours.Prepare(storage.Request{ContainerID: "c1", Image: "i", Layer: layer}, func(storage.Claim) error { return nil })
	must(t, err)
	defer src.Mount.Close()

	theirs := Driver{Storage: dir, StateRoot: filepath.Join(dir, "theirs")}
	nobody := func(string) bool { return false }
	if gone, err := theirs.GC(nobody); err != nil || len(gone) != 0 {
		t.Errorf("a living container: gc took %q, %v", gone, err)
	}
	if users, err := theirs.Users(layer); err != nil || !slices.Equal(users, []string{state}) {
		t.Errorf("users %q, %v; want %s", users, err, state)
	}
	must(t, os.Rename(state, state+".old")) // keeps the inode from being used again
	must(t, os.Mkdir(state, 0o700))
	if users, err := theirs.Users(layer); err != nil || len(users) != 0 {
		t.Errorf("users of a dead container %q, %v", users, err)
	}
	if gone, err := theirs.GC(nobody); err != nil || len(gone) != 1 {
		t.Errorf("a dead container: gc took %q, %v", gone, err)
	}
}

// In memory the first containers after each boot have the same inodes: what one of an
// earlier boot has left on a disk is not the later one's. A state directory on a disk is
// the same after a boot.
func TestOwnerOfAnEarlierBoot(t *testing.T) {
	for name, root := range map[string]string{"in memory": scratch(t), "on disk": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			d := Driver{Storage: scratch(t), StateRoot: root}
			must(t, os.Mkdir(filepath.Join(root, "c1"), 0o700))
			var claim storage.Claim
			layer := sealed(t, d)
			src, err := d.Prepare(storage.Request{ContainerID: "c1", Image: "i", Layer: layer}, func(c storage.Claim) error { claim = c; return nil })
			must(t, err)
			must(t, src.Mount.Close())
			nobody := func(string) bool { return false }
			if gone, err := d.GC(nobody); err != nil || len(gone) != 0 {
				t.Errorf("of this boot: gc took %q, %v", gone, err)
			}
			file := filepath.Join(claim.Dir, "owner")
			text, err := os.ReadFile(file)
			must(t, err)
			boot, err := proc.BootID()
			must(t, err)
			earlier := strings.Replace(string(text), boot, "00000000-1111-2222-3333-444444444444", 1)
			older := strings.Replace(string(text), " "+boot, "", 1) // as it was once written
			for _, x := range []struct {
				text string
				want int
			}{{older, 0}, {earlier, map[string]int{"in memory": 1}[name]}} {
				must(t, os.WriteFile(file, []byte(x.text), 0o600))
				if gone, err := d.GC(nobody); err != nil || len(gone) != x.want {
					t.Errorf("of %q: gc took %q, %v; want %d", x.text, gone, err, x.want)
				}
			}
		})
	}
}

// A layer that is removed while all are measured does not hide how large the others are.
func TestExclusiveOfARemovedLayer(t *testing.T) {
	d := Driver{Storage: scratch(t)}
	kept, removed := sealed(t, d), sealed(t, d)
	must(t, os.WriteFile(filepath.Join(d.path("layers", kept, "fs"), "file"), make([]byte, 8192), 0o644))
	must(t, d.RemoveLayer(removed))
	got, err := d.Exclusive(map[string][]string{"kept": {kept}, "removed": {removed}})
	if err != nil || got["kept"] < 8192 || got["removed"] != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// A storage that was never used: nothing to find, nothing made.
func TestEmptyStorage(t *testing.T) {
	d := Driver{Storage: filepath.Join(t.TempDir(), "absent")}
	if err := d.Remove(storage.Claim{Driver: Name, Dir: d.path("containers", newID())}); err != nil {
		t.Error(err)
	}
	all := func(string) bool { return true }
	if gone, err := d.GC(all); err != nil || len(gone) != 0 {
		t.Errorf("gc: %q, %v", gone, err)
	}
	_, err := d.Prepare(storage.Request{Image: "debian", Layer: newID()}, func(storage.Claim) error { t.Error("saved"); return nil })
	if !errors.Is(err, ErrNoLayer) || !strings.Contains(err.Error(), "debian") {
		t.Errorf("%v; want ErrNoLayer that names the image", err)
	}
	if _, err := os.Stat(d.Storage); err == nil {
		t.Error("a failed Prepare has made the storage")
	}
}

func TestSizeRefused(t *testing.T) {
	_, err := Driver{Storage: t.TempDir()}.Prepare(storage.Request{Image: "i", Layer: newID(), SizeBytes: 1 << 30}, func(storage.Claim) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "--rootfs-size") {
		t.Errorf("%v; want a refusal of --rootfs-size", err)
	}
}

func sealed(t *testing.T, d Driver) string {
	t.Helper()
	l, err := d.NewLayer("")
	must(t, err)
	id, err := l.Commit("")
	must(t, err)
	return id
}

// deep nests directories below dir, which a path could not name.
func deep(dir string, levels int) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range levels {
		if err != nil {
			return err
		}
		if err = unix.Mkdirat(fd, "d", 0o700); err != nil {
			return err
		}
		below, err2 := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		fd, err = below, err2
	}
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// unmountAny unmounts what is bound from the canary, wherever the remover has moved it.
func unmountAny(canary string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if strings.HasSuffix(f[3], "/canary") && f[4] != canary {
			return syscall.Unmount(f[4], syscall.MNT_DETACH)
		}
	}
	return errors.New("the bind mount is gone")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
