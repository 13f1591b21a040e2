package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/tests/box"
)

// plant makes what the tests' layers come upon; a "/" at the end for a directory, "->"
// for a link.
func plant(t *testing.T, dir string, files ...string) {
	t.Helper()
	for _, f := range files {
		p := filepath.Join(dir, f)
		name, target, isLink := strings.Cut(f, "->")
		switch {
		case isLink:
			must(t, os.Symlink(target, filepath.Join(dir, name)))
		case strings.HasSuffix(f, "/"):
			must(t, os.MkdirAll(p, 0o755))
		default:
			must(t, os.MkdirAll(filepath.Dir(p), 0o755))
			must(t, os.WriteFile(p, []byte("lower"), 0o644))
		}
	}
}

// harvest lists what is in dir, with "=upper" for a file that is not the lower layer's.
func harvest(t *testing.T, dir string) (list []string) {
	t.Helper()
	must(t, filepath.Walk(dir, func(p string, st os.FileInfo, err error) error {
		if err != nil || p == dir {
			return err
		}
		name := strings.TrimPrefix(p, dir+"/")
		switch {
		case st.IsDir():
			name += "/"
		case st.Mode().IsRegular():
			if data, err := os.ReadFile(p); err != nil || string(data) != "lower" {
				name += "=upper"
			}
		}
		list = append(list, name)
		return nil
	}))
	return list
}

// Whiteouts are about lower layers, in whatever order the members come.
func TestWhiteouts(t *testing.T) {
	for _, c := range []struct {
		name    string
		lower   []string
		members []tar.Header
		want    []string
	}{
		{"a file", []string{"d/a", "d/b"}, []tar.Header{file("d/.wh.a")}, []string{"d/", "d/b"}},
		{"a directory", []string{"d/a/x/y", "d/b"}, []tar.Header{file("d/.wh.a")}, []string{"d/", "d/b"}},
		{"at the top", []string{"a", "b"}, []tar.Header{file(".wh.a")}, []string{"b"}},
		{"of nothing", []string{"b"}, []tar.Header{file(".wh.a"), file("c/d/.wh.x")}, []string{"b"}},
		{"of a link, not of its target", []string{"d/a", "l->d"}, []tar.Header{file(".wh.l")}, []string{"d/", "d/a"}},
		{"below a link", []string{"d/a", "d/b", "l->d"}, []tar.Header{file("l/.wh.a")}, []string{"d/", "d/b", "l"}},
		{"after the file of this layer", []string{"a"}, []tar.Header{file("a"), file(".wh.a")}, []string{"a=upper"}},
		{"before it", []string{"a"}, []tar.Header{file(".wh.a"), file("a")}, []string{"a=upper"}},
		{"after a directory of this layer", []string{"d/a", "d/e/b"}, []tar.Header{dirM("d"), file("d/c"), file(".wh.d")}, []string{"d/", "d/c=upper"}},
		{"before it, too", []string{"d/a"}, []tar.Header{file(".wh.d"), dirM("d"), file("d/c")}, []string{"d/", "d/c=upper"}},
		{"opaque first", []string{"d/a", "d/e/b"}, []tar.Header{dirM("d"), file("d/.wh..wh..opq"), file("d/c")}, []string{"d/", "d/c=upper"}},
		{"opaque last", []string{"d/a", "d/e/b", "d/e/f"}, []tar.Header{dirM("d"), file("d/c"), file("d/e/b"), file("d/.wh..wh..opq")}, []string{"d/", "d/c=upper", "d/e/", "d/e/b=upper"}},
		{"opaque last, by another name", []string{"d/a", "l->d"}, []tar.Header{file("d/c"), file("l/.wh..wh..opq")}, []string{"d/", "d/c=upper", "l"}},
		{"opaque at the root", []string{"a", "d/b"}, []tar.Header{file("c"), file(".wh..wh..opq")}, []string{"c=upper"}},
		{"directory for a file", []string{"a"}, []tar.Header{dirM("a"), file("a/b")}, []string{"a/", "a/b=upper"}},
		{"file for a full directory", []string{"d/a/b", "d/c"}, []tar.Header{file("d")}, []string{"d=upper"}},
		{"link for a full directory", []string{"d/a", "e/x"}, []tar.Header{link("d", "e")}, []string{"d", "e/", "e/x"}},
		{"directory for a link", []string{"e/x", "d->e"}, []tar.Header{dirM("d")}, []string{"d/", "e/", "e/x"}},
		{"directory onto a directory", []string{"d/a"}, []tar.Header{dirM("d")}, []string{"d/", "d/a"}},
		{"aufs's own", []string{"a"}, []tar.Header{file(".wh..wh.aufs"), dirM(".wh..wh.plnk"), file(".wh..wh.plnk/x"), dirM(".wh..wh.orph")}, []string{"a"}},
		{"hard link to a lower file", []string{"d/a"}, []tar.Header{hard("b", "d/a")}, []string{"b", "d/", "d/a"}},
		{"a whiteout for a directory", []string{"d/a", "b"}, []tar.Header{dirM(".wh.d")}, []string{"b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			box.Require(t)
			dir := t.TempDir()
			plant(t, dir, c.lower...)
			apply(t, dir, archive(t, c.members))
			equal(t, "files", harvest(t, dir), c.want)
		})
	}
}

// The directory in which something was added or removed has the times that it had, and
// one that the layer lists has the layer's.
func TestTimesAfterWhiteouts(t *testing.T) {
	box.Require(t)
	dir := t.TempDir()
	plant(t, dir, "kept/a", "kept/b", "kept/sub/x", "kept/sub/y", "listed/a")
	old := []unix.Timespec{{Sec: 1000, Nsec: 7}, {Sec: 2000, Nsec: 9}}
	for _, d := range []string{"kept/sub", "kept", "listed", "."} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, d), old, 0))
	}
	apply(t, dir, archive(t, []tar.Header{
		file("kept/.wh.a"), file("kept/new/deep"), file("kept/sub/x"), file("kept/sub/.wh..wh..opq"), dirM("listed"), file("listed/.wh.a"),
	}))
	for d, want := range map[string]int64{".": 2000, "kept": 2000, "kept/sub": 2000, "listed": 1} {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, d), &st))
		if st.Mtim.Sec != want {
			t.Errorf("%s has the time %d, want %d", d, st.Mtim.Sec, want)
		}
	}
	equal(t, "files", harvest(t, dir), []string{"kept/", "kept/b", "kept/new/", "kept/new/deep=upper", "kept/sub/", "kept/sub/x=upper", "listed/"})
}

// A hard link to a lower file shares its inode; a directory loses the attributes that the
// layer does not give it; what is made in a setgid directory has the layer's owner and mode.
func TestMetadataOverLower(t *testing.T) {
	box.Require(t)
	dir := t.TempDir()
	needNodes(t, dir)
	plant(t, dir, "d/a", "s/")
	must(t, unix.Setxattr(filepath.Join(dir, "d"), "trusted.old", []byte("x"), 0))
	must(t, os.Chown(filepath.Join(dir, "s"), 0, 50))
	must(t, unix.Chmod(filepath.Join(dir, "s"), 0o2775))
	apply(t, dir, archive(t, []tar.Header{hard("b", "d/a"), attr(dirM("d"), "trusted.new", "y"), file("s/f"), dirM("s/d"), with(file("g"), func(h *tar.Header) { h.Mode = 0o666 })}))
	var a, b unix.Stat_t
	must(t, unix.Stat(filepath.Join(dir, "d/a"), &a))
	must(t, unix.Stat(filepath.Join(dir, "b"), &b))
	if a.Ino != b.Ino {
		t.Error("the hard link has an inode of its own")
	}
	list, err := xattrs(filepath.Join(dir, "d"))
	must(t, err)
	if fmt.Sprint(list) != "[{trusted.new y}]" {
		t.Errorf("attributes %q", list)
	}
	for name, mode := range map[string]uint32{"s/f": 0o100644, "s/d": 0o40755, "g": 0o100666} {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, name), &st))
		if st.Mode != mode || st.Gid != 0 {
			t.Errorf("%s: mode %o, group %d; want %o, 0", name, st.Mode, st.Gid, mode)
		}
	}
}

// A layer may say something about the root (buildah's do), which may be known by a
// mount's descriptor.
func TestRootOfAMount(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	root := os.NewFile(uintptr(fd), dir)
	defer root.Close()
	for _, whiteouts := range []bool{false, true} {
		layer := archive(t, []tar.Header{us(with(dirM("./"), func(h *tar.Header) { h.Mode = 0o711 })), us(file("f"))})
		_, err = Apply(t.Context(), root, bytes.NewReader(layer), Options{Whiteouts: whiteouts})
		must(t, err)
	}
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	if st.Mode != 0o40711 || st.Mtim.Sec != 1 {
		t.Errorf("mode %o, time %d", st.Mode, st.Mtim.Sec)
	}
}

// What is made in a directory with a default ACL has the layer's mode and no ACL: neither a
// file, nor a directory, nor one that is only on the way.
func TestDefaultACLIsNotInherited(t *testing.T) {
	box.Require(t)
	dir := t.TempDir()
	plant(t, dir, "d/")
	if err := unix.Setxattr(filepath.Join(dir, "d"), aclDefault, []byte(acl), 0); err != nil {
		box.Lacks(t, "a file system with ACLs at %s: %v", dir, err)
	}
	apply(t, dir, archive(t, []tar.Header{
		file("d/f"), dirM("d/sub"), file("d/sub/f"), with(file("d/pipe"), func(h *tar.Header) { h.Typeflag = tar.TypeFifo }), link("d/l", "f"),
		file("d/way/f"), attr(with(file("d/own"), func(h *tar.Header) { h.Mode = 0o670 }), aclAccess, acl),
	}))
	for name, mode := range map[string]uint32{
		"d/f": 0o100644, "d/sub": 0o40755, "d/sub/f": 0o100644, "d/pipe": 0o10644, "d/way": 0o40755, "d/way/f": 0o100644, "d/own": 0o100670,
	} {
		p := filepath.Join(dir, name)
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		list, err := xattrs(p)
		must(t, err)
		if want := map[bool]int{true: 1}[name == "d/own"]; st.Mode != mode || len(list) != want {
			t.Errorf("%s: mode %o, attributes %q; want %o, %d", name, st.Mode, list, mode, want)
		}
	}
}

// An attribute that no Linux file system has, as tar has them on a Mac, is left out.
func TestAttributeOfAMac(t *testing.T) {
	dir := t.TempDir()
	var notes []string
	_, err := Apply(t.Context(), openDir(t, dir), bytes.NewReader(archive(t, []tar.Header{
		us(attr(file("a"), "com.apple.provenance", "x")), us(attr(file("b"), "com.apple.provenance", "x")),
	})), Options{Note: func(s string) { notes = append(notes, s) }})
	if err != nil || len(notes) != 1 || !strings.Contains(notes[0], `"com.apple.provenance" of "a"`) {
		t.Errorf("%v, notes %q", err, notes)
	}
	equal(t, "files", harvest(t, dir), []string{"a=upper", "b=upper"})
}

// acl is one for user 33, as the kernel has it: version 2; then tag, permissions, id. The
// owner rwx, the user rwx, the group r-x, the mask rwx, others nothing.
const acl = "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\x21\x00\x00\x00" +
	"\x04\x00\x05\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"

// us makes a member ours, so that nobody needs to be root for it.
func us(h tar.Header) tar.Header {
	h.Uid, h.Gid = os.Getuid(), os.Getgid()
	return h
}

// Layers against the host, and against their own lower layers.
func TestHostileLayers(t *testing.T) {
	box.Root(t)
	if inOwnMounts(t) {
		return
	}
	host := newHost(t, "dir")
	canary := host.canary
	up := strings.Repeat("../", 30) + canary[1:]
	whiteouts := []hostile{
		{"whiteout through a link", []tar.Header{link("l", canary), file("l/.wh.file")}, "", []string{"l"}},
		{"whiteout through a link of the lower layer", []tar.Header{file("out/.wh.file"), file("up/.wh.file")}, "", []string{"out"}},
		{"opaque through a link", []tar.Header{file("out/.wh..wh..opq"), file("up/.wh..wh..opq")}, "", []string{"out"}},
		{"whiteout of the link itself", []tar.Header{file(".wh.out")}, "", nil},
		{"whiteout of a directory with links in it", []tar.Header{file(".wh.d")}, "", []string{"out"}},
		{"file for a directory with links in it", []tar.Header{file("d")}, "", []string{"d"}},
		{"whiteout of dot-dot", []tar.Header{file("d/.wh...")}, "d/.wh...", nil},
		{"whiteout of dot", []tar.Header{file("d/.wh..")}, "d/.wh..", nil},
		{"whiteout of nothing", []tar.Header{file("d/.wh.")}, "d/.wh.", nil},
		{"whiteout of the root", []tar.Header{file(".wh.")}, ".wh.", nil},
		{"whiteout with a slash", []tar.Header{file(".wh.d/x")}, ".wh.d/x", nil},
		{"whiteout with dot-dot behind it", []tar.Header{file(".wh.d/../x")}, ".wh.d/../x", nil},
		{"whiteout with dot-dot before it", []tar.Header{file("../.wh.file")}, "../.wh.file", nil},
		{"whiteout of a path out", []tar.Header{file(up + "/.wh.file")}, up + "/.wh.file", nil},
		{"whiteout with a link loop above", []tar.Header{link("a", "b"), link("b", "a"), file("a/.wh.x")}, "a/.wh.x", nil},
		{"opaque at the root", []tar.Header{file(".wh..wh..opq")}, "", nil},
		{"hard link to a whiteouted file", []tar.Header{file("d/.wh.x"), hard("h", "d/x")}, "h", nil},
		{"hard link, then its whiteout, then write", []tar.Header{hard("h", "d/x"), file("d/.wh.x"), file("h")}, "", []string{"h"}},
		{"hard link in the place of a directory that has its target", []tar.Header{hard("d", "d/x")}, "d", nil},
		{"hard link through the lower link", []tar.Header{hard("h", "out/file")}, "h", nil},
		{"write through the lower link", []tar.Header{file("out/new")}, "out/new", nil},
		{"write over the lower link", []tar.Header{file("tofile")}, "", []string{"tofile"}},
		{"directory over the lower link, then write", []tar.Header{dirM("out"), file("out/file")}, "", []string{"out/file"}},
		{"whiteout that is a link", []tar.Header{link(".wh.d", canary)}, "", nil},
		{"whiteout that is a device 0:0", []tar.Header{with(file(".wh.out"), func(h *tar.Header) { h.Typeflag = tar.TypeChar })}, ".wh.out", nil},
		{"aufs's directory with dot-dot", []tar.Header{file(".wh..wh.plnk/../../x")}, ".wh..wh.plnk/../../x", nil},
		{"whiteout, owner 2^31", []tar.Header{with(file(".wh.d"), func(h *tar.Header) { h.Uid = 1 << 31 })}, ".wh.d", nil},
	}
	all := append(whiteouts, archives(canary)...)
	if len(all) < 80 {
		t.Errorf("%d archives", len(all))
	}
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			root, err := host.attack(t, c, Options{Whiteouts: true},
				"d/x", "d/deep/y", "out->"+canary, "up->"+up, "tofile->"+canary+"/file", "d/out->"+canary)
			switch c.name { // as an OCI layer, these mean something else than in a plain tar
			case "opaque mark", "full directory, then a link", "whiteout through a link":
				return
			case "hard link over a full directory", "whiteout of dot-dot":
				if err != nil && !strings.Contains(err.Error(), "archive member") {
					t.Error(err)
				}
				return
			}
			c.judge(t, root, err)
		})
	}
}
