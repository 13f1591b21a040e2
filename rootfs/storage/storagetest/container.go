package storagetest

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// image makes one layer with fill's files, or takes the dir driver's directory, and
// says how to ask for it. done gives the layer back.
func (f Fixture) image(t *testing.T) (req storage.Request, done func()) {
	t.Helper()
	if f.Layers == nil {
		fd, err := unix.Open(f.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if !exists(fd, "etc") {
			fill(t, fd)
		}
		return storage.Request{ContainerID: "c1", Path: f.Root}, func() {}
	}
	l := f.layer(t, "")
	fill(t, int(l.Root().Fd()))
	id := commit(t, l)
	return storage.Request{ContainerID: "c1", Image: "test:1", Layer: id}, func() {
		t.Helper()
		if err := f.Layers.RemoveLayer(id); err != nil {
			t.Errorf("remove layer: %v", err)
		}
	}
}

func (f Fixture) layer(t *testing.T, parent string) storage.Layer {
	t.Helper()
	l, err := f.Layers.NewLayer(parent)
	if err != nil {
		t.Fatalf("new layer: %v", err)
	}
	return l
}

func commit(t *testing.T, l storage.Layer) string {
	t.Helper()
	id, err := l.Commit("")
	if err != nil {
		l.Abort()
		t.Fatalf("commit: %v", err)
	}
	return id
}

// fill writes what testRoot looks for.
func fill(t *testing.T, fd int) {
	t.Helper()
	mkdir(t, fd, "etc")
	mkdir(t, fd, "bin")
	write(t, fd, "etc/hello", "layer")
	write(t, fd, "bin/tool", "#!/bin/sh\n")
	check(t, "link", unix.Linkat(fd, "etc/hello", fd, "etc/again", 0))
	check(t, "symlink", unix.Symlinkat("hello", fd, "etc/link"))
	check(t, "chown", unix.Fchownat(fd, "bin/tool", 12, 34, 0))
	check(t, "chmod", unix.Fchmodat(fd, "bin/tool", 0o4755, 0))
}

// container is one prepared root, with every claim that Prepare saved.
type container struct {
	src   storage.Source
	saved []storage.Claim
	json  []byte
}

func tryPrepare(d storage.Driver, req storage.Request) (*container, error) {
	c := &container{}
	src, err := d.Prepare(req, func(claim storage.Claim) (err error) {
		c.saved = append(c.saved, claim)
		c.json, err = json.Marshal(claim)
		return err
	})
	if err != nil {
		if len(c.saved) > 0 {
			d.Remove(c.last())
		}
		return nil, err
	}
	c.src = src
	return c, nil
}

func (f Fixture) prepare(t *testing.T, d storage.Driver, req storage.Request) *container {
	t.Helper()
	c, err := tryPrepare(d, req)
	if err != nil {
		t.Fatalf("prepare: %v", err)
	}
	return c
}

func (c *container) fd() int { return int(c.src.Mount.Fd()) }

// last is the claim as a later process reads it.
func (c *container) last() storage.Claim {
	var claim storage.Claim
	if err := json.Unmarshal(c.json, &claim); err != nil {
		panic(err)
	}
	return claim
}

func again(t *testing.T, c storage.Claim) (out storage.Claim) {
	t.Helper()
	data, err := json.Marshal(c)
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (c *container) close() { c.src.Mount.Close() }

func (c *container) remove(t *testing.T, d storage.Driver) {
	t.Helper()
	c.close()
	if err := d.Remove(c.last()); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func check(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func path(fd int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", fd, name) }

func mkdir(t *testing.T, fd int, name string) {
	t.Helper()
	check(t, "mkdir", unix.Mkdirat(fd, name, 0o755))
}

func write(t *testing.T, fd int, name, data string) {
	t.Helper()
	check(t, "write", os.WriteFile(path(fd, name), []byte(data), 0o644))
}

func read(t *testing.T, fd int, name string) string {
	t.Helper()
	data, err := os.ReadFile(path(fd, name))
	check(t, "read", err)
	return string(data)
}

func remove(t *testing.T, fd int, name string) {
	t.Helper()
	check(t, "unlink", unix.Unlinkat(fd, name, 0))
}

func lstat(t *testing.T, fd int, name string) (st unix.Stat_t) {
	t.Helper()
	check(t, "stat "+name, unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW))
	return st
}

func exists(fd int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

func names(t *testing.T, fd int, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(path(fd, dir))
	check(t, "read directory", err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func mountinfo(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	check(t, "mount table", err)
	return string(data)
}

// descriptors lists this process's open files. Finalizers would close what a driver
// forgot, so the collector stays off until the test ends.
func descriptors(t *testing.T) (list []string) {
	t.Helper()
	old := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(old) })
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, "descriptors", err)
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			list = append(list, to)
		}
	}
	return list
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	want, got = slices.Clone(want), slices.Clone(got)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// diff shows the lines that only one of the two texts has.
func diff(a, b string) string {
	var out []string
	al, bl := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, l := range al {
		if !slices.Contains(bl, l) {
			out = append(out, "- "+l)
		}
	}
	for _, l := range bl {
		if !slices.Contains(al, l) {
			out = append(out, "+ "+l)
		}
	}
	return strings.Join(out, "\n")
}
