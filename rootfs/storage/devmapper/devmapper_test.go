package devmapper

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/storagetest"
)

// needKernel: these tests make pools, so they run in the lab's kernel.
func needKernel(t *testing.T) {
	t.Helper()
	lab := os.Getenv("LAB") == "1"
	switch err := Supported(); {
	case err != nil && lab:
		t.Fatalf("the lab's kernel must have it: %v", err)
	case err != nil:
		t.Skipf("%v (run it in the lab)", err)
	case !lab:
		t.Skip("makes device-mapper and loop devices: runs only in the lab (LAB=1)")
	}
}

// small is a pool that fits in a tmpfs many times.
func small() PoolOptions {
	return PoolOptions{DataBytes: 192 << 20, MetaBytes: 8 << 20, BaseBytes: 1 << 30, LowWater: 8 << 20}
}

// fresh is a driver on a storage of its own, without a pool yet.
func fresh(t *testing.T, o Options) *Driver {
	t.Helper()
	needKernel(t)
	if o.Pool == (PoolOptions{}) {
		o.Pool = small()
	}
	d, err := Open(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Destroy(); err != nil && !strings.Contains(err.Error(), ErrNoPool.Error()) {
			t.Errorf("destroy: %v", err)
		}
		d.Close()
		if left := devices(t, d); len(left) > 0 {
			t.Errorf("devices left after destroy: %q", left)
		}
	})
	return d
}

func again(t *testing.T, d *Driver) *Driver {
	t.Helper()
	o, err := Open(d.storage, Options{Pool: d.opts.Pool, StateRoot: d.opts.StateRoot})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

// devices lists all dm devices and all loop devices on files below the storage.
func devices(t *testing.T, d *Driver) []string {
	t.Helper()
	var list []string
	ctl, err := d.dm()
	if err != nil {
		t.Fatal(err)
	}
	all, err := ctl.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, dev := range all {
		list = append(list, dev.Name)
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, path := range loops {
		if b, err := os.ReadFile(path); err == nil && strings.HasPrefix(string(b), d.storage) {
			list = append(list, strings.TrimSpace(string(b)))
		}
	}
	return list
}

// held lists what the pool holds but for itself and its base.
func held(t *testing.T, d *Driver) []string {
	t.Helper()
	var list []string
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	thins, err := p.thins()
	if err != nil {
		t.Fatal(err)
	}
	for _, thin := range thins {
		if l, err := p.layer(p.base); err != nil || l.thin != thin.ID {
			list = append(list, fmt.Sprintf("thin %06x", thin.ID))
		}
	}
	all, err := p.ctl.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, dev := range all {
		if dev.Name != p.name() {
			list = append(list, "device "+dev.Name)
		}
	}
	for _, dir := range []string{d.claimsDir(), d.openDir(), d.layersDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !e.IsDir() && !strings.HasPrefix(p.base, e.Name()) {
				list = append(list, filepath.Base(dir)+"/"+e.Name())
			}
		}
	}
	return list
}

func TestDriver(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storagetest.Fixture {
		d := fresh(t, Options{})
		if err := d.CreatePool(small()); err != nil {
			t.Fatal(err)
		}
		return storagetest.Fixture{
			Driver: d, Layers: d,
			Reopen: func(t *testing.T) storage.Driver { return again(t, d) },
			Held:   func(t *testing.T) []string { return held(t, d) },
		}
	})
}
