package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/tests/box"
)

// everything makes one of each kind of file in dir.
func everything(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.MkdirAll(at("usr/bin"), 0o755))
	must(t, os.WriteFile(at("usr/bin/tool"), []byte("#!/bin/sh\n"), 0o755))
	must(t, os.WriteFile(at("empty"), nil, 0o600))
	must(t, os.WriteFile(at("zeros"), make([]byte, 10000), 0o600))
	must(t, os.WriteFile(at("large"), bytes.Repeat([]byte("thinrun\n"), 100_000), 0o640))
	must(t, os.Link(at("usr/bin/tool"), at("usr/bin/again")))
	must(t, os.Symlink("usr/bin", at("bin")))
	must(t, os.Symlink("/nowhere/"+strings.Repeat("x/", 1000), at("dangling")))
	must(t, os.Link(at("bin"), at("bin-again"))) // a hard link to a symlink
	must(t, unix.Mkfifo(at("fifo"), 0o622))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 300_000))))
	must(t, os.WriteFile(at("a\nname with\tevery\\thing \xff\xfe ä"), []byte("x"), 0o644))
	long := at(strings.Repeat("long-", 50) + "/" + strings.Repeat("name-", 50))
	must(t, os.MkdirAll(long, 0o755))
	must(t, os.WriteFile(filepath.Join(long, strings.Repeat("z", 255)), []byte("deep"), 0o644))

	// Holes, at the start, inside and at the end.
	f, err := os.Create(at("sparse"))
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{1}, 8192), 1<<20)
	must(t, err)
	_, err = f.WriteAt([]byte("end"), 64<<20)
	must(t, err)
	must(t, f.Truncate(128<<20))
	must(t, f.Close())

	must(t, os.Lchown(at("usr/bin/tool"), 1234, 5678))
	must(t, os.Lchown(at("dangling"), 1, 2))
	must(t, os.Lchown(at("large"), 1<<31-1, 7))
	must(t, unix.Chmod(at("usr/bin/tool"), 0o6755))
	must(t, unix.Chmod(at("usr"), 0o1777))
	must(t, unix.Chmod(at("empty"), 0o000))
	caps := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_raw=ep
	must(t, unix.Setxattr(at("large"), "security.capability", []byte(caps), 0))
	must(t, unix.Setxattr(at("usr"), "trusted.mine", []byte{0, 1, 0xff}, 0))
	must(t, unix.Lsetxattr(at("bin"), "trusted.link", []byte("on a symlink"), 0))

	i := int64(0)
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i++
		ts := []unix.Timespec{{Sec: 1_500_000_000 + i, Nsec: 1}, {Sec: 1_600_000_000 + i, Nsec: 123_456_789}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// describe is every file below dir with all that an image must keep, one a line.
func describe(t *testing.T, dir string) (list []string) {
	t.Helper()
	first := make(map[uint64]string)
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		line := fmt.Sprintf("%q mode %o owner %d:%d nlink %d mtime %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			line = strings.Replace(line, fmt.Sprintf("nlink %d", st.Nlink), "", 1) // a file system's own affair
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			must(t, err)
			line += fmt.Sprintf(" -> %q", target)
		case unix.S_IFREG:
			f, err := os.Open(p)
			must(t, err)
			h := hash(t, f)
			line += fmt.Sprintf(" size %d hash %x", st.Size, h)
			must(t, f.Close())
			if st.Size > 1<<20 && st.Blocks*512 > 1<<20 {
				line += fmt.Sprintf(" NOT SPARSE: %d blocks", st.Blocks)
			}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if name, ok := first[st.Ino]; ok {
				line += " is " + name
			} else {
				first[st.Ino] = rel
			}
		}
		attrs, err := xattrs(p)
		must(t, err)
		slices.SortFunc(attrs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
		line += fmt.Sprintf(" %q", attrs)
		list = append(list, line)
		return nil
	}))
	return list
}

// without takes what a test cannot compare out of describe's lines.
func without(list []string, pattern string) []string {
	re := regexp.MustCompile(pattern)
	for i := range list {
		list[i] = re.ReplaceAllString(list[i], "")
	}
	return list
}

func hash(t *testing.T, r io.Reader) uint64 {
	t.Helper()
	h := uint64(14695981039346656037)
	buf := make([]byte, 1<<16)
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			h = (h ^ uint64(b)) * 1099511628211
		}
		if errors.Is(err, io.EOF) {
			return h
		}
		must(t, err)
	}
}

func needNodes(t *testing.T, dir string) {
	t.Helper()
	box.Root(t)
	probe := filepath.Join(dir, "probe")
	must(t, os.WriteFile(probe, nil, 0o600))
	if err := unix.Setxattr(probe, "trusted.probe", []byte("x"), 0); err != nil {
		box.Lacks(t, "a file system with trusted extended attributes at %s: %v", dir, err)
	}
	must(t, os.Remove(probe))
}

func compare(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("\n got %s\nwant %s", g, w)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// openDir opens a directory for the time of the test.
func openDir(t *testing.T, path string) *os.File {
	t.Helper()
	dir, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { dir.Close() })
	return dir
}

func complain(t *testing.T) Options {
	return Options{Note: func(s string) { t.Errorf("note: %s", s) }}
}

// exactly: what is in dir is all that everything makes, and as much.
func exactly(t *testing.T, dir string, done Done, want []string) {
	t.Helper()
	compare(t, describe(t, dir), want)
	if min := int64(128<<20 + 800_000); done.Bytes < min || done.Bytes > min+100_000 {
		t.Errorf("size %d", done.Bytes)
	}
}

func TestDirectoryIsExact(t *testing.T) {
	src := t.TempDir()
	needNodes(t, src)
	everything(t, src)
	want := describe(t, src)
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir := t.TempDir()
	done, err := Copy(t.Context(), openDir(t, dir), openDir(t, src), complain(t))
	must(t, err)
	exactly(t, dir, done, want)
}

// GNU tar packs, in each of its formats that can hold the tree, and we unpack.
func TestTarIsExact(t *testing.T) {
	src := t.TempDir()
	needNodes(t, src)
	everything(t, src)
	want := describe(t, src)
	plain := bytes.NewReader(pack(t, src, "."))

	dir := t.TempDir()
	done, err := Apply(t.Context(), openDir(t, dir), plain, complain(t))
	must(t, err)
	exactly(t, dir, done, want)
}

// Mounts below the directory and our own storage stay out, and the user hears of it.
func TestOtherMountsStayOut(t *testing.T) {
	box.Root(t)
	if inOwnMounts(t) {
		return
	}
	src := t.TempDir()
	for _, d := range []string{"proc", "mine"} {
		must(t, os.Mkdir(filepath.Join(src, d), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(src, "mine", "file"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(src, "bound"), nil, 0o644))
	must(t, unix.Mount("tmpfs", filepath.Join(src, "proc"), "tmpfs", 0, ""))
	defer unix.Unmount(filepath.Join(src, "proc"), unix.MNT_DETACH)
	must(t, os.WriteFile(filepath.Join(src, "proc", "inside"), nil, 0o644))
	// A bind mount of the same file system has the same device number.
	must(t, unix.Mount(filepath.Join(src, "mine", "file"), filepath.Join(src, "bound"), "", unix.MS_BIND, ""))
	defer unix.Unmount(filepath.Join(src, "bound"), unix.MNT_DETACH)

	must(t, os.MkdirAll(filepath.Join(src, "storage", "layers"), 0o755))
	dir := filepath.Join(src, "storage", "layers")
	var notes []string
	_, err := Copy(t.Context(), openDir(t, dir), openDir(t, src), Options{
		Storage: filepath.Join(src, "storage"), Note: func(s string) { notes = append(notes, s) },
	})
	must(t, err)
	var names []string
	must(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(p, dir))
		return err
	}))
	equal(t, "files", names, []string{"", "/proc", "/mine", "/mine/file", "/storage"})
	equal(t, "notes", notes, []string{
		`left out: what is in "proc", another mount`, `left out: what is in "bound", another mount`, `left out: what is in "storage", thinrun's own storage`,
	})
}

// A hole larger than any disk costs nothing.
func TestHugeHole(t *testing.T) {
	src := t.TempDir()
	f, err := os.Create(filepath.Join(src, "hole"))
	must(t, err)
	must(t, f.Truncate(1<<42))
	must(t, f.Close())
	start := time.Now()
	dir := t.TempDir()
	_, err = Copy(t.Context(), openDir(t, dir), openDir(t, src), complain(t))
	must(t, err)
	st, err := os.Stat(filepath.Join(dir, "hole"))
	must(t, err)
	if st.Size() != 1<<42 {
		t.Errorf("size %d after %v", st.Size(), time.Since(start))
	}
}
