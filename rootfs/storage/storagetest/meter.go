package storagetest

import (
	"crypto/rand"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

const mib = 1 << 20

// slack is what a file system writes for itself while files are written: a journal,
// tables, whole blocks of a pool.
const slack = 3 * mib / 2

// testDisksOf: a container's disk grows by what it writes, once; not by its image, and not
// by what others write.
func testDisksOf(t *testing.T, f Fixture) {
	l := f.layer(t, "")
	data(t, int(l.Root().Fd()), "of-the-image", 4*mib)
	id := commit(t, l)
	defer func() { check(t, "remove layer", f.Layers.RemoveLayer(id)) }()
	req := storage.Request{ContainerID: "c1", Image: "i", Layer: id}
	a, b := f.prepare(t, f.Driver, req), f.prepare(t, f.Driver, req)
	defer a.remove(t, f.Driver)
	defer b.remove(t, f.Driver)
	disks := func(claims ...storage.Claim) []*storage.Disk {
		t.Helper()
		disks, err := f.Reopen(t).(storage.Meter).DisksOf(claims)
		check(t, "disks of containers", err)
		if len(disks) != len(claims) {
			t.Fatalf("%d disks of %d claims", len(disks), len(claims))
		}
		return disks
	}
	used := func(c *container) uint64 {
		t.Helper()
		settle(t, c.fd())
		disk := disks(c.last())[0]
		if disk == nil {
			t.Fatal("nobody can tell of a container's disk")
		}
		if disk.Size != 0 && disk.Size < disk.Used {
			t.Errorf("a disk of %d bytes holds %d", disk.Size, disk.Used)
		}
		return disk.Used
	}
	grown := func(what string, from, to uint64, by uint64) {
		t.Helper()
		if to < from+by || to > from+by+slack {
			t.Errorf("%s: from %d to %d bytes, want %d more, and %d at most for the file system itself", what, from, to, by, uint64(slack))
		}
	}
	settle(t, b.fd())
	fresh := used(a)
	grown("a fresh container", 0, fresh, 0)
	data(t, a.fd(), "mine", 2*mib)
	check(t, "link", unix.Linkat(a.fd(), "mine", a.fd(), "mine-too", 0))
	first := used(a)
	grown("2 MiB written, with two names", fresh, first, 2*mib)
	data(t, a.fd(), "of-the-image", 4*mib)
	grown("4 MiB of the image overwritten", first, used(a), 4*mib)
	data(t, a.fd(), "mine", 2*mib)
	grown("2 MiB of its own overwritten", first, used(a), 4*mib)
	grown("the other", fresh, used(b), 0)
	// Several at once, each in its place; of those that are not ours nothing, and that is
	// nobody else's loss.
	strange, gone := storage.Claim{Driver: "another"}, f.prepare(t, f.Driver, req)
	gone.remove(t, f.Driver)
	all := disks(a.last(), strange, b.last(), gone.last(), a.last())
	if all[1] != nil || all[3] != nil {
		t.Errorf("of another driver's claim: %+v; of a container that is removed: %+v; want nothing", all[1], all[3])
	}
	if all[0] == nil || all[2] == nil || all[4] == nil || *all[0] != *all[4] || all[0].Used != used(a) || all[2].Used != used(b) {
		t.Errorf("of five at once: %+v %+v %+v, want those of one and the other", all[0], all[2], all[4])
	}
}

// testExclusive: a group's bytes are those that nothing outside of it shares.
func testExclusive(t *testing.T, f Fixture) {
	var made []string
	layer := func(parent, name string, size int) string {
		t.Helper()
		l := f.layer(t, parent)
		data(t, int(l.Root().Fd()), name, size)
		id := commit(t, l)
		made = append([]string{id}, made...)
		return id
	}
	base := layer("", "base", 6*mib)
	a := layer(base, "a", 3*mib)
	b := layer(base, "b", 5*mib)
	defer func() {
		for _, id := range made {
			check(t, "remove layer", f.Layers.RemoveLayer(id))
		}
	}()
	got, err := f.Reopen(t).(storage.Meter).Exclusive(map[string][]string{
		"base": {base}, "a": {a}, "b": {b}, "a and base": {base, a}, "all": {base, a, b}, "none": nil,
	})
	check(t, "exclusive", err)
	for group, want := range map[string]uint64{
		"base": 0, "a": 3 * mib, "b": 5 * mib, "a and base": 3 * mib, "all": 14 * mib, "none": 0,
	} {
		// Each of the layers has a file system's own writes.
		if is, there := got[group]; !there || is < want || is > want+3*slack {
			t.Errorf("group %q: %d bytes (said: %v), want %d and little more", group, is, there, want)
		}
	}
	if len(got) != 6 {
		t.Errorf("%d groups came back of 6: %v", len(got), got)
	}
}

// data writes so many bytes that nothing can shrink, over those that are there.
func data(t *testing.T, fd int, name string, size int) {
	t.Helper()
	bytes := make([]byte, size)
	rand.Read(bytes)
	out, err := os.OpenFile(path(fd, name), os.O_CREATE|os.O_WRONLY, 0o644)
	check(t, "open", err)
	defer out.Close()
	_, err = out.Write(bytes)
	check(t, "write", err)
}

// settle has everything written out: blocks are only given then.
func settle(t *testing.T, fd int) {
	t.Helper()
	dir, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	check(t, "open", err)
	defer unix.Close(dir)
	check(t, "syncfs", unix.Syncfs(dir))
}
