package devmapper

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/durable"
)

func TestPoolSizes(t *testing.T) {
	for _, test := range []struct {
		name       string
		free       uint64
		o          PoolOptions
		data, meta uint64
		low        uint64
		bad        string
	}{
		{"large host", 1000 * gib, PoolOptions{}, 2 * gib, 128 * mib, 2 * gib / 10, ""},
		{"lab disk", 3900 * mib, PoolOptions{}, 1920 * mib, 120 * mib, 192 * mib, ""},
		{"tmpfs", 1000 * mib, PoolOptions{}, 448 * mib, 28 * mib, 448 * mib / 10, ""},
		{"small", 100 * mib, PoolOptions{}, 128 * mib, 8 * mib, 128 * mib / 10, ""},
		{"given", 0, PoolOptions{DataBytes: 10 * gib, MetaBytes: gib, LowWater: gib}, 10 * gib, gib, gib, ""},
		{"maximum", 1000 * gib, PoolOptions{MaxBytes: gib}, gib, 64 * mib, gib / 10, ""},
		{"odd block", 0, PoolOptions{BlockSectors: 100}, 0, 0, 0, "multiples of 64 KiB"},
		{"odd base", 0, PoolOptions{BaseBytes: 5 * gib}, 0, 0, 0, "1, 10 and 100 GiB"},
		{"one device", 0, PoolOptions{DataDevice: "/dev/sdb"}, 0, 0, 0, "both or for none"},
		{"device and size", 0, PoolOptions{DataDevice: "/dev/sdb", MetadataDevice: "/dev/sdc", DataBytes: gib}, 0, 0, 0, "sizes are for pools on files"},
		{"device and maximum", 0, PoolOptions{DataDevice: "/dev/sdb", MetadataDevice: "/dev/sdc", MaxBytes: gib}, 0, 0, 0, "sizes are for pools on files"},
		{"strict and sparse", 0, PoolOptions{Strict: true, ReturnSpace: true}, 0, 0, 0, "choose one"},
		{"strict and too small", 0, PoolOptions{Strict: true, DataBytes: 2 * gib, MaxBytes: 10 * gib}, 0, 0, 0, "disk, here of 10.0 GiB"},
		{"strict and just large enough", 0, PoolOptions{Strict: true, DataBytes: gib, BaseBytes: gib, MaxBytes: gib + 64*mib, LowWater: 100 * mib}, gib, 64 * mib, 100 * mib, ""},
		{"too much metadata", 0, PoolOptions{MetaBytes: 20 * gib}, 0, 0, 0, "at most 15.9 GiB"},
		{"maximum below the start", 0, PoolOptions{DataBytes: gib, MaxBytes: 512 * mib}, 0, 0, 0, "below the 1.0 GiB to begin with"},
		{"low water", 0, PoolOptions{DataBytes: gib, LowWater: 600 * mib}, 0, 0, 0, "hardly anything would ever start"},
		{"large blocks", 0, PoolOptions{DataBytes: 100 * mib, BlockSectors: 2 << 20}, 0, 0, 0, "too small"},
		{"too small", 0, PoolOptions{DataBytes: mib}, 0, 0, 0, "at least 64 MiB"},
	} {
		o, err := test.o.fill(test.free)
		if test.bad != "" {
			if err == nil || !strings.Contains(err.Error(), test.bad) {
				t.Errorf("%s: %v, want %q", test.name, err, test.bad)
			}
			continue
		}
		if err != nil || o.DataBytes != test.data || o.MetaBytes != test.meta || o.LowWater != test.low || o.BaseBytes == 0 {
			t.Errorf("%s: %+v, %v; want data %d meta %d low %d", test.name, o, err, test.data, test.meta, test.low)
		}
	}
}

// TestFirstUse: the first layer makes a pool with all defaults.
func TestFirstUse(t *testing.T) {
	needKernel(t)
	d, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	layer := image(t, d)
	src, c := prepared(t, d, layer)
	s, err := d.Status()
	if err != nil || !s.Active || s.Mode != "rw" || s.Problem != "" || s.Layers != 1 || s.Containers != 1 || s.Unfinished != 0 ||
		s.BaseBytes != 10*gib || s.Clock != 2 || s.Data.TotalBytes < 64*mib || s.Data.UsedBytes == 0 {
		t.Errorf("status %+v, %v", s, err)
	}
	if !strings.HasPrefix(s.Data.Device, "/dev/loop") || s.Data.Device == s.Metadata.Device {
		t.Errorf("on %q and %q, want two loop devices", s.Data.Device, s.Metadata.Device)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.EXT4_SUPER_MAGIC && (!s.Data.DirectIO || !s.Metadata.DirectIO) {
		t.Errorf("the files are on ext4, but without direct I/O: %+v", s)
	}
	if err := d.Destroy(); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), `by container "c1"; delete it first`) {
		t.Errorf("destroy with a container: %v, want %v and its name", err, ErrInUse)
	}
	l, err := d.NewLayer(layer)
	if err != nil {
		t.Fatal(err)
	}
	src.Mount.Close()
	if err := d.Remove(c); err != nil {
		t.Fatal(err)
	}
	if err := d.Destroy(); !errors.Is(err, ErrInUse) {
		t.Errorf("destroy with a layer being written: %v, want %v", err, ErrInUse)
	}
	if err := l.Abort(); err != nil {
		t.Fatal(err)
	}
	if err := d.CreatePool(PoolOptions{}); err == nil {
		t.Error("a second pool was made on the first")
	}
	destroyed(t, d)
}

// TestMetadataFull: out of metadata the kernel refuses even to delete, so new work is
// refused before, and everything can still be given back.
func TestMetadataFull(t *testing.T) {
	o := small()
	o.MetaBytes = 2 * mib
	d := fresh(t, Options{Pool: o})
	layer := image(t, d)
	// As on a host without room: the file cannot be grown.
	p, err := d.openAny(unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	p.meta.ours = false
	if err := durable.Write(p.recordPath(), p.encode()); err != nil {
		t.Fatal(err)
	}
	p.leave()
	p, err = d.enter()
	if err != nil {
		t.Fatal(err)
	}
	for p.kernel.metaUsed < 400 { // faster than containers
		// Of some thousand random ids two are the same now and then.
		if err := p.message("create_thin %d", p.newID()); err != nil && !errors.Is(err, unix.EEXIST) {
			p.leave()
			t.Fatal(err)
		}
	}
	p.leave()
	var claims []storage.Claim
	for range 500 {
		src, c, err2 := prepare(d, "c", layer)
		if err = err2; err != nil {
			break
		}
		claims = append(claims, c)
		src.Mount.Close()
	}
	oneLine(t, err, ErrMetaFull, "blocks used")
	t.Logf("after %d containers: %v", len(claims), err)
	p, err = d.openAny(unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	p.meta.ours = true
	if err := durable.Write(p.recordPath(), p.encode()); err != nil {
		t.Fatal(err)
	}
	p.leave()
	if err := try(d, layer); err != nil { // now there is room
		t.Errorf("grown: %v", err)
	}
	if s, err := d.Status(); err != nil || s.Metadata.TotalBytes <= 2*mib {
		t.Errorf("metadata has not grown: %+v, %v", s.Metadata, err)
	}
	for _, c := range claims {
		if err := d.Remove(c); err != nil {
			t.Fatal(err)
		}
	}
}
