package loop

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/devnode"
)

func file(t *testing.T, bytes int64) *os.File {
	t.Helper()
	if os.Getenv("LAB") != "1" {
		t.Skip("makes loop devices: runs only in the lab (LAB=1)")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(bytes); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestLife(t *testing.T) {
	var nodes devnode.Nodes
	defer nodes.Close()
	f := file(t, 1<<20)
	d, err := Attach(&nodes, f)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := Find(&nodes, f); err != nil || !slices.Equal(found, []uint32{d.Minor}) {
		t.Errorf("found on %d, %v; want %d", found, err, d.Minor)
	}
	if _, err := d.File.WriteAt(bytes.Repeat([]byte("x"), 4096), 8192); err != nil {
		t.Fatal(err)
	}
	if err := d.File.Sync(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 8192+100); err != nil || b[0] != 'x' {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if err := f.Truncate(2 << 20); err != nil {
		t.Fatal(err)
	}
	if err := d.Grow(); err != nil {
		t.Fatal(err)
	}
	if n, err := d.File.Seek(0, 2); err != nil || n != 2<<20 {
		t.Errorf("grown to %d bytes, %v; want %d", n, err, 2<<20)
	}
	other, err := Open(&nodes, d.Minor)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if found, err := Find(&nodes, f); err != nil || len(found) != 1 {
		t.Errorf("with another user found on %d, %v; want one", found, err)
	}
	other.Close() // the last one: LO_FLAGS_AUTOCLEAR
	if found, err := Find(&nodes, f); err != nil || len(found) != 0 {
		t.Errorf("after its last user found on %d, %v; want none", found, err)
	}
}

// TestManyAtOnce: nobody gets a device that another has taken meanwhile.
func TestManyAtOnce(t *testing.T) {
	var nodes devnode.Nodes
	defer nodes.Close()
	f := file(t, 1<<20)
	var all [16]*Device
	var wait sync.WaitGroup
	for i := range all {
		wait.Go(func() {
			d, err := Attach(&nodes, f)
			if err != nil {
				t.Error(err)
				return
			}
			all[i] = d
		})
	}
	wait.Wait()
	minors := map[uint32]bool{}
	for _, d := range all {
		if d != nil {
			minors[d.Minor] = true
			defer d.Close()
		}
	}
	if len(minors) != len(all) {
		t.Errorf("%d devices for %d callers", len(minors), len(all))
	}
}

func TestWithoutNodes(t *testing.T) {
	file(t, 0)
	var nodes devnode.Nodes
	defer nodes.Close()
	own, err := nodes.Open("/nowhere/loop-control", devnode.Char, 10, controlMisc, unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	if _, err := unix.IoctlRetInt(int(own.Fd()), unix.LOOP_CTL_GET_FREE); err != nil {
		t.Errorf("the own node is no loop-control: %v", err)
	}
	// A node that is there but another device is not taken.
	wrong, err := nodes.Path("/dev/null", devnode.Char, 10, controlMisc)
	if err != nil || wrong == "/dev/null" {
		t.Errorf("for loop-control /dev/null is taken: %q, %v", wrong, err)
	}
}
