package storagetest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// testRoot: a layer is made, filled and committed; a container sees it and can write.
func testRoot(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	c := f.prepare(t, f.Driver, req)
	defer c.remove(t, f.Driver)

	if got := read(t, c.fd(), "etc/hello"); got != "layer" {
		t.Errorf("the container reads %q in the layer's file, want %q", got, "layer")
	}
	st := lstat(t, c.fd(), "bin/tool")
	if st.Mode != unix.S_IFREG|0o4755 || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("bin/tool is mode %o owner %d:%d, want 104755 12:34", st.Mode, st.Uid, st.Gid)
	}
	if a, b := lstat(t, c.fd(), "etc/hello"), lstat(t, c.fd(), "etc/again"); a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("the hard link is lost: inodes %d and %d, nlink %d", a.Ino, b.Ino, a.Nlink)
	}
	if root := lstat(t, c.fd(), "."); root.Mode != unix.S_IFDIR|0o755 || root.Uid != 0 {
		t.Errorf("the root is mode %o uid %d, want 40755 0", root.Mode, root.Uid)
	}
	write(t, c.fd(), "written", "here")
	if got := read(t, c.fd(), "written"); got != "here" {
		t.Errorf("wrote %q, read %q", "here", got)
	}
	if len(c.saved) == 0 || c.last().Driver == "" {
		t.Errorf("saved claims %+v, want at least one, with Driver filled in", c.saved)
	}
	if f.Layers != nil && (c.last().Image != req.Image || c.last().Layer != req.Layer) {
		t.Errorf("the claim names image %q layer %q, want %q %q", c.last().Image, c.last().Layer, req.Image, req.Layer)
	}
}

// testRemove: from the saved JSON alone, in a new process, any number of times.
func testRemove(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	before := f.Held(t)
	c := f.prepare(t, f.Driver, req)
	write(t, c.fd(), "written", "here")
	c.close()
	for i := range 3 {
		if err := f.Reopen(t).Remove(c.last()); err != nil {
			t.Fatalf("remove number %d: %v", i+1, err)
		}
		same(t, fmt.Sprintf("held after remove number %d", i+1), before, f.Held(t))
	}
	// Claims are saved before anything exists: Remove must be content with each of them.
	for _, claim := range c.saved {
		if err := f.Driver.Remove(claim); err != nil {
			t.Errorf("remove of a claim whose things are gone: %v", err)
		}
	}
}

// testHost: nothing in this process's mount table, and no descriptor left.
func testHost(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	f.prepare(t, f.Driver, req).remove(t, f.Driver) // whatever is opened once for good

	mounts, fds := mountinfo(t), descriptors(t)
	c := f.prepare(t, f.Driver, req)
	write(t, c.fd(), "written", "here")
	if now := mountinfo(t); now != mounts {
		t.Errorf("a container's root is in the mount table:\n%s", diff(mounts, now))
	}
	c.remove(t, f.Driver)
	if now := mountinfo(t); now != mounts {
		t.Errorf("the mount table changed:\n%s", diff(mounts, now))
	}
	same(t, "descriptors", fds, descriptors(t))
}

// testFailedSave: the runtime dies at the n-th save, with the record written or not.
// What is on disk then is enough to remove everything.
func testFailedSave(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	before := f.Held(t)
	boom := errors.New("no space for the record")
	for n := 1; ; n++ {
		failed := false
		for _, written := range []bool{false, true} {
			var saved []storage.Claim
			calls := 0
			src, err := f.Driver.Prepare(req, func(c storage.Claim) error {
				if calls++; calls == n {
					failed = true
					if written {
						saved = append(saved, c)
					}
					return boom
				}
				saved = append(saved, c)
				return nil
			})
			if err == nil {
				src.Mount.Close()
			}
			if calls >= n && !errors.Is(err, boom) {
				t.Errorf("save %d failed, but Prepare says: %v", n, err)
			}
			if calls > n {
				t.Errorf("Prepare went on after save %d had failed", n)
			}
			if len(saved) > 0 {
				if err := f.Reopen(t).Remove(again(t, saved[len(saved)-1])); err != nil {
					t.Errorf("remove after save %d failed (written: %v): %v", n, written, err)
				}
			}
			same(t, fmt.Sprintf("held after save %d failed (written: %v)", n, written), before, f.Held(t))
		}
		if !failed {
			if n == 1 {
				t.Error("Prepare never saved a claim")
			}
			return
		}
	}
}

// testMissing: an image or a directory that is not there is named, and nothing is made.
func testMissing(t *testing.T, f Fixture) {
	before := f.Held(t)
	req := storage.Request{ContainerID: "c1", Path: filepath.Join(f.Root, "absent")}
	if f.Layers != nil {
		// The id of a layer that was here once: right in form, whatever the driver's form is.
		l := f.layer(t, "")
		id := commit(t, l)
		if err := f.Layers.RemoveLayer(id); err != nil {
			t.Fatal(err)
		}
		req = storage.Request{ContainerID: "c1", Image: "gone:1", Layer: id}
		if l, err := f.Layers.NewLayer(id); err == nil {
			l.Abort()
			t.Error("NewLayer on a removed parent: no error")
		}
	}
	var saved []storage.Claim
	src, err := f.Driver.Prepare(req, func(c storage.Claim) error { saved = append(saved, c); return nil })
	if err == nil {
		src.Mount.Close()
		t.Fatal("Prepare of something that is not there: no error")
	}
	for _, c := range saved {
		if err := f.Driver.Remove(c); err != nil {
			t.Error(err)
		}
	}
	same(t, "held", before, f.Held(t))
}

// testIsolation: two containers of one layer do not see each other, and neither
// changes the layer.
func testIsolation(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	a, b := f.prepare(t, f.Driver, req), f.prepare(t, f.Driver, req)
	for _, c := range []*container{a, b} {
		if !slices.Equal(names(t, c.fd(), "etc"), []string{"again", "hello", "link"}) {
			t.Errorf("etc holds %q", names(t, c.fd(), "etc"))
		}
	}
	write(t, a.fd(), "etc/hello", "a")
	write(t, b.fd(), "etc/hello", "b")
	write(t, a.fd(), "only-a", "a")
	remove(t, b.fd(), "bin/tool")
	if got := read(t, a.fd(), "etc/hello"); got != "a" {
		t.Errorf("a reads %q", got)
	}
	if got := read(t, b.fd(), "etc/hello"); got != "b" {
		t.Errorf("b reads %q", got)
	}
	if exists(b.fd(), "only-a") {
		t.Error("b sees a's file")
	}
	if !exists(a.fd(), "bin/tool") {
		t.Error("a misses what b removed")
	}
	a.remove(t, f.Driver)
	if got := read(t, b.fd(), "etc/hello"); got != "b" {
		t.Errorf("after a is gone b reads %q", got)
	}
	b.remove(t, f.Driver)
	c := f.prepare(t, f.Reopen(t), req)
	defer c.remove(t, f.Driver)
	if got := read(t, c.fd(), "etc/hello"); got != "layer" {
		t.Errorf("the layer has changed: %q", got)
	}
	if !exists(c.fd(), "bin/tool") || exists(c.fd(), "only-a") {
		t.Error("the layer has changed")
	}
}

// testChain: five layers, each on the one before, adding, changing and removing.
func testChain(t *testing.T, f Fixture) {
	var chain []string
	parent := ""
	for i := range 5 {
		l := f.layer(t, parent)
		fd := int(l.Root().Fd())
		if i == 0 {
			mkdir(t, fd, "d")
			write(t, fd, "d/doomed", "0")
		} else if got := read(t, fd, fmt.Sprintf("d/f%d", i-1)); got != fmt.Sprint(i-1) {
			t.Errorf("layer %d reads %q in its parent's file", i, got)
		}
		write(t, fd, fmt.Sprintf("d/f%d", i), fmt.Sprint(i))
		write(t, fd, "d/same", fmt.Sprint(i))
		if i == 3 {
			remove(t, fd, "d/doomed")
		}
		parent = commit(t, l)
		chain = append(chain, parent)
	}
	defer func() {
		for _, id := range slices.Backward(chain) {
			if err := f.Layers.RemoveLayer(id); err != nil {
				t.Error(err)
			}
		}
	}()
	for i, id := range chain {
		c := f.prepare(t, f.Reopen(t), storage.Request{ContainerID: "c1", Image: "chain", Layer: id})
		if got := read(t, c.fd(), "d/same"); got != fmt.Sprint(i) {
			t.Errorf("on layer %d d/same is %q", i, got)
		}
		for j := range 5 {
			if exists(c.fd(), fmt.Sprintf("d/f%d", j)) != (j <= i) {
				t.Errorf("on layer %d d/f%d exists: %v", i, j, j > i)
			}
		}
		if exists(c.fd(), "d/doomed") != (i < 3) {
			t.Errorf("on layer %d d/doomed exists: %v", i, i >= 3)
		}
		c.remove(t, f.Driver)
	}
}

// testAbort: a layer that is thrown away leaves nothing, also on a parent and also
// when it is aborted twice or after Commit.
func testAbort(t *testing.T, f Fixture) {
	before := f.Held(t)
	l := f.layer(t, "")
	write(t, int(l.Root().Fd()), "half", "made")
	for range 2 {
		if err := l.Abort(); err != nil {
			t.Error(err)
		}
	}
	same(t, "held after abort", before, f.Held(t))

	l = f.layer(t, "")
	write(t, int(l.Root().Fd()), "whole", "made")
	id := commit(t, l)
	if err := l.Abort(); err != nil {
		t.Errorf("abort after commit: %v", err)
	}
	sealed := f.Held(t)
	l = f.layer(t, id)
	write(t, int(l.Root().Fd()), "half", "made")
	if err := l.Abort(); err != nil {
		t.Error(err)
	}
	same(t, "held after abort on a parent", sealed, f.Held(t))
	c := f.prepare(t, f.Driver, storage.Request{ContainerID: "c1", Image: "i", Layer: id})
	if !exists(c.fd(), "whole") || exists(c.fd(), "half") {
		t.Error("the aborted layer is in its parent")
	}
	c.remove(t, f.Driver)
	if err := f.Layers.RemoveLayer(id); err != nil {
		t.Error(err)
	}
}

// testRemoveLayer: a layer's own things go with it, and it is gone once.
func testRemoveLayer(t *testing.T, f Fixture) {
	before := f.Held(t)
	l := f.layer(t, "")
	fill(t, int(l.Root().Fd()))
	id := commit(t, l)
	if len(f.Held(t)) == len(before) {
		t.Error("Held does not list a committed layer: the fixture is blind")
	}
	if err := f.Layers.RemoveLayer(id); err != nil {
		t.Fatal(err)
	}
	same(t, "held", before, f.Held(t))
	for _, id := range []string{id, "", "..", "../..", "/", "."} {
		f.Layers.RemoveLayer(id) // an error or not: it must not take anything with it
	}
	same(t, "held after removing what is not there", before, f.Held(t))
}

// testDropped: when the last descriptor goes without Remove, as in kill -9, the mount
// is gone; only what the claim names is left, and Remove takes it.
func testDropped(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	before, mounts := f.Held(t), mountinfo(t)
	c := f.prepare(t, f.Driver, req)
	write(t, c.fd(), "written", "here")
	c.close()
	if now := mountinfo(t); now != mounts {
		t.Errorf("the mount table changed:\n%s", diff(mounts, now))
	}
	if err := f.Reopen(t).Remove(c.last()); err != nil {
		t.Fatal(err)
	}
	same(t, "held", before, f.Held(t))
}

// testConcurrent: sixteen containers of one image at once, three times each.
func testConcurrent(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	before := f.Held(t)
	var all sync.WaitGroup
	for i := range 16 {
		d := f.Reopen(t)
		all.Go(func() {
			req := req
			req.ContainerID = fmt.Sprintf("c%d", i)
			for range 3 {
				c, err := tryPrepare(d, req)
				if err != nil {
					t.Error(err)
					return
				}
				if err := c.check(i); err != nil {
					t.Error(err)
				}
				c.close()
				if err := d.Remove(c.last()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	same(t, "held", before, f.Held(t))
}

func (c *container) check(i int) error {
	path := fmt.Sprintf("/proc/self/fd/%d/mine", c.fd())
	if err := os.WriteFile(path, fmt.Append(nil, i), 0o644); err != nil {
		return err
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if string(got) != fmt.Sprint(i) {
		return fmt.Errorf("container %d reads %q in its own file", i, got)
	}
	return nil
}
