package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWriteReplacesAndLeavesOneFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	// What a killed writer left is longer than what comes now.
	if err := os.WriteFile(path+".tmp", []byte("left by a killed one"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second"} {
		if err := Write(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != text {
			t.Fatalf("%q, %v; want %q", b, err, text)
		}
	}
	if err := Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err != nil {
		t.Fatalf("removed twice: %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Fatalf("%v, %v", list, err)
	}
}

// A failed write leaves the old file, and no temporary one.
func TestFailedWriteChangesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil { // no file can be renamed over it
		t.Fatal(err)
	}
	tmp := filepath.Join(dir, ".new")
	if err := WriteVia(tmp, path, nil); err == nil {
		t.Fatal("replaced a directory")
	}
	if _, err := os.Lstat(tmp); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", tmp, err)
	}
	if err := os.Symlink("elsewhere", tmp); err != nil {
		t.Fatal(err)
	}
	if err := WriteVia(tmp, filepath.Join(dir, "other"), nil); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
}

// procfs is a file system that cannot sync a directory.
func TestSyncDirOfWhatCannotSync(t *testing.T) {
	d, err := os.Open("/proc/self")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Sync(); !errors.Is(err, unix.EINVAL) {
		t.Skipf("fsync of /proc/self: %v", err)
	}
	if err := SyncDir("/proc/self"); err != nil {
		t.Error(err)
	}
	if err := SyncDir(filepath.Join(t.TempDir(), "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
