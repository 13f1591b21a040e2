package storagetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// testFork: a layer made of a running container and of a stopped one holds what its root
// held then, to the last attribute; nobody sees what the other writes afterwards.
func testFork(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	before := f.Held(t)
	c := f.prepare(t, f.Driver, req)
	scribble(t, c.fd())
	want := tree(t, c.fd())
	withContainer := f.Held(t)

	l, err := f.layersOf(f.Reopen(t)).Fork(c.last()) // the committer is another process
	check(t, "fork", err)
	root := int(l.Root().Fd())
	sameTree(t, "the fork of a running container", want, tree(t, root))
	write(t, c.fd(), "etc/hello", "later")
	if got := read(t, root, "etc/hello"); got != "changed" {
		t.Errorf("the fork reads %q of what the container wrote later", got)
	}
	write(t, root, "of-the-fork", "f")
	if exists(c.fd(), "of-the-fork") {
		t.Error("the container sees what was written to the fork")
	}
	check(t, "unlink", unix.Unlinkat(root, "of-the-fork", 0))
	check(t, "abort", l.Abort())
	same(t, "held after abort", withContainer, f.Held(t))

	write(t, c.fd(), "etc/hello", "changed")
	want = tree(t, c.fd())
	c.close() // its last process has ended
	l, err = f.Layers.Fork(c.last())
	check(t, "fork of a stopped container", err)
	sameTree(t, "the fork of a stopped container", want, tree(t, int(l.Root().Fd())))
	id, err := l.Commit("sha256:of-the-fork")
	check(t, "commit", err)
	info := f.info(t, id)
	if info.Parent != req.Layer || info.Chain != "sha256:of-the-fork" {
		t.Errorf("the layer is %+v, want parent %q and chain sha256:of-the-fork", info, req.Layer)
	}
	check(t, "remove", f.Reopen(t).Remove(c.last()))

	next := f.prepare(t, f.Reopen(t), storage.Request{ContainerID: "c2", Image: "committed", Layer: id})
	sameTree(t, "a container on the fork", want, tree(t, next.fd()))
	l, err = f.Layers.Fork(next.last()) // a fork of a fork has another parent
	check(t, "fork", err)
	second := commit(t, l)
	if info := f.info(t, second); info.Parent != id {
		t.Errorf("the second fork is %+v, want parent %q", info, id)
	}
	next.remove(t, f.Driver)
	for _, id := range []string{second, id} {
		check(t, "remove layer", f.Layers.RemoveLayer(id))
	}
	same(t, "held", before, f.Held(t))
}

// testForkMissing: a claim whose things are gone, or that is not one, makes nothing.
func testForkMissing(t *testing.T, f Fixture) {
	req, done := f.image(t)
	defer done()
	c := f.prepare(t, f.Driver, req)
	c.remove(t, f.Driver)
	before := f.Held(t)
	for _, claim := range []storage.Claim{c.last(), {}, {Driver: "another"}} {
		if l, err := f.Layers.Fork(claim); err == nil {
			l.Abort()
			t.Errorf("fork of %+v: no error", claim)
		}
		same(t, "held", before, f.Held(t))
	}
}

// testLayers: what is sealed is listed with its parent and its chain id, by the next
// process too; what is half made or removed is not.
func testLayers(t *testing.T, f Fixture) {
	ours := func() []string {
		infos, err := f.layersOf(f.Reopen(t)).Layers()
		check(t, "layers", err)
		var list []string
		for _, i := range infos {
			if i.Chain != "" || i.Parent != "" { // a driver may have a base of its own
				list = append(list, fmt.Sprintf("%s on %q is %s", i.ID, i.Parent, i.Chain))
			}
		}
		return list
	}
	seal := func(parent, chain string) string {
		id, err := f.layer(t, parent).Commit(chain)
		check(t, "commit", err)
		return id
	}
	same(t, "layers of an empty storage", nil, ours())
	bottom := seal("", "sha256:1")
	top := seal(bottom, "sha256:2")
	nameless := seal(top, "")
	half := f.layer(t, bottom)
	all := []string{
		fmt.Sprintf("%s on %q is sha256:1", bottom, ""),
		fmt.Sprintf("%s on %q is sha256:2", top, bottom),
		fmt.Sprintf("%s on %q is ", nameless, top),
	}
	same(t, "layers", all, ours())
	check(t, "abort", half.Abort())
	same(t, "layers after an abort", all, ours())
	for i, id := range []string{nameless, top, bottom} {
		check(t, "remove layer", f.Layers.RemoveLayer(id))
		same(t, "layers after a removal", all[:2-i], ours())
	}
}

// layersOf is a reopened driver's other half.
func (f Fixture) layersOf(d storage.Driver) storage.LayerStore { return d.(storage.LayerStore) }

func (f Fixture) info(t *testing.T, id string) storage.LayerInfo {
	t.Helper()
	infos, err := f.layersOf(f.Reopen(t)).Layers()
	check(t, "layers", err)
	i := slices.IndexFunc(infos, func(i storage.LayerInfo) bool { return i.ID == id })
	if i < 0 {
		t.Fatalf("layer %s is not listed: %+v", id, infos)
	}
	return infos[i]
}

// scribble does to fill's files what a container can do to its image's.
func scribble(t *testing.T, fd int) {
	t.Helper()
	write(t, fd, "etc/hello", "changed") // one of two names
	write(t, fd, "etc/new", "new")
	check(t, "link", unix.Linkat(fd, "etc/new", fd, "new-too", 0))
	check(t, "unlink", unix.Unlinkat(fd, "etc/link", 0))
	check(t, "unlink", unix.Unlinkat(fd, "bin/tool", 0))
	check(t, "rmdir", unix.Unlinkat(fd, "bin", unix.AT_REMOVEDIR))
	mkdir(t, fd, "bin") // and what was in the image's must not shine through
	write(t, fd, "bin/other", "other")
	write(t, fd, "owned", "x")
	check(t, "chown", unix.Fchownat(fd, "owned", 56, 78, 0))
	check(t, "chmod", unix.Fchmodat(fd, "owned", 0o6711, 0))
	check(t, "utimensat", unix.UtimesNanoAt(fd, "owned", []unix.Timespec{{Sec: 1, Nsec: 2}, {Sec: 3, Nsec: 4}}, 0))
	check(t, "symlink", unix.Symlinkat("../no/where", fd, "dangling"))
	check(t, "chown", unix.Fchownat(fd, "dangling", 9, 10, unix.AT_SYMLINK_NOFOLLOW))
	check(t, "mkfifo", unix.Mkfifoat(fd, "fifo", 0o640))
	// Neither a user namespace's root nor every file system may do these.
	if err := unix.Mknodat(fd, "null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil && !errors.Is(err, unix.EPERM) {
		t.Fatalf("mknod: %v", err)
	}
	for _, name := range []string{"trusted.thinrun", "user.thinrun"} {
		err := unix.Lsetxattr(path(fd, "etc/new"), name, []byte("value\x00with NUL"), 0)
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOTSUP) {
			t.Fatalf("setxattr: %v", err)
		}
	}
	at := "."
	for range 300 { // deeper than a handful of descriptors goes
		at += "/d"
		mkdir(t, fd, at)
	}
	write(t, fd, at+"/bottom", "deep")
	hole, err := os.OpenFile(path(fd, "hole"), os.O_CREATE|os.O_WRONLY, 0o644)
	check(t, "create", err)
	defer hole.Close()
	_, err = hole.WriteAt([]byte("in the middle"), 100<<20)
	check(t, "write", err)
	check(t, "truncate", hole.Truncate(1<<30))
	mkdir(t, fd, "times") // last: what is made in a directory changes its times
	check(t, "utimensat", unix.UtimesNanoAt(fd, "times", []unix.Timespec{{Sec: 5, Nsec: 6}, {Sec: 7, Nsec: 8}}, 0))
}

// tree is a line for each file, with all that a copy has to keep.
func tree(t *testing.T, fd int) (lines []string) {
	t.Helper()
	links := map[uint64]string{}
	var walk func(at string)
	walk = func(at string) {
		st := lstat(t, fd, at)
		line := fmt.Sprintf("%s mode %o owner %d:%d mtime %d.%09d", strings.TrimPrefix(at, "./"), st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			if st.Size < 1<<20 {
				line += fmt.Sprintf(" %x", sha256.Sum256([]byte(read(t, fd, at))))
			} else {
				line += fmt.Sprintf(" size %d, full of holes: %v, data %q", st.Size, st.Blocks < 1<<11, middle(t, fd, at))
			}
		case unix.S_IFLNK:
			to, err := os.Readlink(path(fd, at))
			check(t, "readlink", err)
			line += " to " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if links[st.Ino] == "" {
				links[st.Ino] = at
			}
			line += fmt.Sprintf(" one of %d, same as %s", st.Nlink, links[st.Ino])
		}
		lines = append(lines, line+attributes(t, fd, at))
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			for _, name := range names(t, fd, at) {
				walk(at + "/" + name)
			}
		}
	}
	walk(".")
	return lines
}

func sameTree(t *testing.T, what string, want, got []string) {
	t.Helper()
	if d := diff(strings.Join(want, "\n"), strings.Join(got, "\n")); d != "" {
		t.Errorf("%s (- want, + got):\n%s", what, d)
	}
}

// middle is what scribble has put between two holes.
func middle(t *testing.T, fd int, at string) string {
	t.Helper()
	in, err := os.Open(path(fd, at))
	check(t, "open", err)
	defer in.Close()
	buf := make([]byte, len("in the middle"))
	_, err = in.ReadAt(buf, 100<<20)
	check(t, "read", err)
	return string(buf)
}

func attributes(t *testing.T, fd int, at string) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path(fd, at), buf)
	if errors.Is(err, unix.ENOTSUP) {
		return ""
	}
	check(t, "listxattr", err)
	var all []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path(fd, at), name, value)
		check(t, "getxattr", err)
		all = append(all, fmt.Sprintf(" %s=%q", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, "")
}
