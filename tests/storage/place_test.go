// Package storage kills the commands that change what is stored wherever that can be,
// and mixes them at random. After the next command, everything must be as if the killed
// one had not begun or had ended: the images, the thin ids in the pool, the devices,
// mounts and files.
package storage

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"thinrun/rootfs/storage/devmapper"
	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/tests/box"
	"thinrun/tests/testbundle"
)

// patience is for hangs only: a busy machine may take many times as long as ours.
const patience = 5 * time.Minute

// place is a storage directory with its state directory.
type place struct {
	*testbundle.Caller
	t       *testing.T
	rt      *testbundle.Runtime
	driver  string
	control *dm.Control // nil: overlay
	work    string      // a directory for what commands read and write
}

// drivers calls f for overlay and for devmapper. Overlay is the same on each kernel, and
// this one is the faster.
func drivers(t *testing.T, f func(t *testing.T, p *place)) {
	t.Run("overlay", func(t *testing.T) {
		box.Require(t)
		box.NativeOnly(t, "overlay has nothing of the kernel that differs in the lab")
		f(t, newPlace(t, "overlay"))
	})
	t.Run("devmapper", func(t *testing.T) {
		box.Require(t)
		if err := devmapper.Supported(); err != nil {
			box.Lacks(t, "dm-thin: %v", err)
		}
		f(t, newPlace(t, "devmapper"))
	})
}

func newPlace(t *testing.T, driver string) *place {
	t.Helper()
	p := &place{t: t, rt: testbundle.NewRuntime(t), driver: driver, work: t.TempDir()}
	p.rt.Globals = []string{"--storage-driver", driver}
	p.Caller = p.rt.Caller()
	if driver == "devmapper" {
		nodes := new(devnode.Nodes)
		var err error
		if p.control, err = dm.Open(nodes); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.control.Close()
			nodes.Close()
		})
	}
	return p
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// withPool is for the tests that do not make it themselves.
func (p *place) withPool() *place {
	p.t.Helper()
	if p.driver == "devmapper" {
		p.OK(poolCreate...)
		p.t.Cleanup(func() { p.OK("pool", "destroy", "--force") })
	}
	return p
}

var poolCreate = []string{"pool", "create", "--data-size", "512M", "--metadata-size", "16M", "--low-water", "64M", "--base-size", "1G"}

// tree makes a directory to import: a shell, and a file that says which version it is.
// Small, because most calls of an import are otherwise those that write the tree.
func (p *place) tree(version string) string {
	p.t.Helper()
	dir := filepath.Join(p.work, "tree-"+version)
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		check(p.t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		box.Lacks(p.t, "/bin/busybox (Debian's busybox-static)")
	}
	testbundle.Copy(p.t, "/bin/busybox", filepath.Join(dir, "bin/busybox"))
	for _, name := range []string{"sh", "cat", "sha256sum", "sleep", "true"} {
		check(p.t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
	}
	check(p.t, os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644))
	return dir
}
