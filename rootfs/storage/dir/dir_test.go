package dir

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/storagetest"
	"thinrun/tests/box"
)

func TestMain(m *testing.M) { storagetest.Main(m) }

func TestDriver(t *testing.T) {
	box.Root(t)
	storagetest.Run(t, func(t *testing.T) storagetest.Fixture {
		root := t.TempDir()
		if err := os.Chmod(root, 0o755); err != nil {
			t.Fatal(err)
		}
		return storagetest.Fixture{
			Driver: Driver{},
			Reopen: func(*testing.T) storage.Driver { return Driver{} },
			Held:   func(*testing.T) []string { return nil },
			Root:   root,
		}
	})
}

// The manager's mounts below the rootfs come along, and stay where they are.
func TestMountsBelow(t *testing.T) {
	box.Root(t)
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	sub := filepath.Join(root, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	// storagetest.Main has put us into a mount namespace of our own.
	if err := syscall.Mount("tmpfs", sub, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(sub, syscall.MNT_DETACH)
	if err := os.WriteFile(filepath.Join(sub, "below"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	src, err := Driver{}.Prepare(storage.Request{Path: root}, func(storage.Claim) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	defer src.Mount.Close()
	fd := int(src.Mount.Fd())
	for _, name := range []string{"mine", "sub/below"} {
		var st syscall.Stat_t
		if err := syscall.Stat(filepath.Join("/proc/self/fd", strconv.Itoa(fd), name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadPath(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", "rootfs", file, file + "-absent"} {
		_, err := Driver{}.Prepare(storage.Request{Path: path}, func(storage.Claim) error { return nil })
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("rootfs %q: %v; want an error that names it", path, err)
		}
	}
}
