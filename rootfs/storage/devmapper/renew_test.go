package devmapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/thinmeta"
)

// setClock rewrites an inactive pool's metadata with another time.
func setClock(t *testing.T, d *Driver, clock uint32) {
	t.Helper()
	m, err := d.record()
	if err != nil {
		t.Fatal(err)
	}
	xml, err := exec.Command("thin_dump", m.meta.path).Output()
	if err != nil {
		t.Fatalf("thin_dump: %v", err)
	}
	xml = regexp.MustCompile(`(<superblock [^>]*time=")\d+`).ReplaceAll(xml, fmt.Appendf(nil, "${1}%d", clock))
	path := t.TempDir() + "/xml"
	if err := os.WriteFile(path, xml, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("thin_restore", "-i", path, "-o", m.meta.path).CombinedOutput(); err != nil {
		t.Fatalf("thin_restore: %v %s", err, out)
	}
}

// nearItsEnd is a pool whose clock has 10 snapshots left, with a stopped container that
// has written, and thin devices that were made and written to at the last times.
func nearItsEnd(t *testing.T, d *Driver, images []string) *aRoot {
	t.Helper()
	stopped := root(t, d, images[0])
	stopped.write(t, "mine", 5, 3<<20)
	if err := stopped.src.Mount.Close(); err != nil {
		t.Fatal(err)
	}
	waitGone(t, d, stopped.claim.Device)
	deactivate(t, d)
	setClock(t, d, 1<<24-10)
	return stopped
}

// waitGone: the kernel removes a device whose last mount is closed in a while.
func waitGone(t *testing.T, d *Driver, name string) {
	t.Helper()
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	if err := p.removeDevice(name); err != nil {
		t.Fatal(err)
	}
}

// clock is the pool's.
func clock(t *testing.T, d *Driver) uint32 {
	t.Helper()
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s.Clock
}

// thinSum is the content of a thin device, at first hand.
func thinSum(t *testing.T, d *Driver, id uint32) string {
	t.Helper()
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	dev, err := p.raise(id, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	// All that the small file systems here have used; to read a GiB of nothing takes long.
	out, err := exec.Command("sh", "-c", "head -c 48M "+dev.Node()+" | md5sum").Output()
	if err = errors.Join(err, p.removeDevice(dev.Name)); err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[0]
}

func TestRenewNearTheEnd(t *testing.T) {
	state := t.TempDir()
	if err := os.Mkdir(state+"/c", 0o755); err != nil {
		t.Fatal(err)
	}
	d := fresh(t, Options{StateRoot: state})
	images := aPool(t, d)
	stopped := nearItsEnd(t, d, images)
	defer func() {
		if err := d.Remove(stopped.claim); err != nil {
			t.Error(err)
		}
	}()
	_, _, err := prepare(d, "c", images[0])
	if !errors.Is(err, ErrWornOut) {
		t.Fatalf("a start on a worn-out pool: %v, want %v", err, ErrWornOut)
	}
	layers, err := d.layers()
	if err != nil || len(layers) != 4 {
		t.Fatal(layers, err)
	}
	want := map[uint32]string{stopped.claim.ThinID: thinSum(t, d, stopped.claim.ThinID)}
	for _, l := range layers {
		if l.base || l.id() == images[0] {
			want[l.thin] = thinSum(t, d, l.thin)
		}
	}
	if err := d.Renew(); err != nil {
		t.Fatal(err)
	}
	if now := clock(t, d); now != 1 {
		t.Errorf("the clock says %d, want 1", now)
	}
	if out, err := thinTool(t, d, "thin_check"); err != nil {
		t.Errorf("thin_check: %v\n%s", err, out)
	}
	// Containers start, and write to what they share with others and to what is new.
	var running []*aRoot
	for i := range 4 {
		r := root(t, d, images[i%2])
		defer r.remove(t, d)
		r.write(t, "shared", int64(100+i), 300*4096) // overwrites the file of the lowest layer
		r.write(t, "new", int64(i), 1<<20)
		running = append(running, r)
	}
	if now := clock(t, d); now != 5 {
		t.Errorf("the clock says %d after 4 starts, want 5", now)
	}
	dropCaches(t)
	for i, r := range running {
		for _, f := range []struct {
			name  string
			seed  int64
			bytes int
		}{{"shared", int64(100 + i), 300 * 4096}, {"new", int64(i), 1 << 20}} {
			if !r.has(t, f.name, f.seed, f.bytes) {
				t.Errorf("container %d does not have what it wrote to %q", i, f.name)
			}
		}
	}
	if err := d.Renew(); !errors.Is(err, ErrInUse) || !strings.Contains(fmt.Sprint(err), `container "c" is running`) {
		t.Errorf("renewed under running containers: %v", err)
	}
	l, err := d.NewLayer(images[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Renew(); !errors.Is(err, ErrInUse) {
		t.Errorf("renewed under a writer: %v", err)
	}
	// What a new layer is made of is not what an older one was, nor the other way round.
	if err := writeIn(l.(*open).mnt, "later", []byte("later")); err != nil {
		t.Fatal(err)
	}
	id, err := l.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	later := layerSum(t, d, id)
	again := root(t, d, id)
	again.write(t, "later", 77, 1<<20)
	again.remove(t, d)
	dropCaches(t)
	if layerSum(t, d, id) != later {
		t.Error("a layer of after the renewal was written to by its container")
	}
	for thin, sum := range want {
		if got := thinSum(t, d, thin); got != sum {
			t.Errorf("thin device %06x is not what it was", thin)
		}
	}
	for _, l := range layers { // their ids are still good
		if _, err := d.layer(l.id()); err != nil {
			t.Error(err)
		}
	}
	if r, err := d.Check(); err != nil || !r.OK || r.Leaked != 0 {
		t.Errorf("check: %+v, %v", r, err)
	}
}

// TestRenewKilledAnywhere: the pool is the old or the new one and works, after a kill
// before each step.
func TestRenewKilledAnywhere(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	sums := map[string]string{}
	for _, id := range images {
		sums[id] = layerSum(t, d, id)
	}
	steps := map[string]int{}
	for n := 1; ; n++ {
		r := root(t, d, images[n%2]) // so that there is something to set back
		r.write(t, "f", int64(n), 1<<20)
		r.remove(t, d)
		reserve(t, d)
		before := clock(t, d)
		died := act{Do: "renew", Storage: d.storage, KillAt: n}.start(t)
		steps[died]++
		r = root(t, d, images[0]) // the next command
		if now := clock(t, d); now != before+1 && now != 2 {
			t.Errorf("killed before %q: the clock was %d and is %d", died, before, now)
		}
		r.write(t, "shared", int64(n), 300*4096)
		r.remove(t, d)
		if c, err := d.Check(); err != nil || !c.OK || c.Leaked != 0 {
			t.Fatalf("killed before %q: %+v, %v", died, c, err)
		}
		for _, id := range images {
			if got := layerSum(t, d, id); got != sums[id] {
				t.Fatalf("killed before %q: layer %s is not what it was", died, id)
			}
		}
		for _, left := range []string{"renew", "renew.tmp"} {
			if exists(d.dir + "/" + left) {
				t.Errorf("killed before %q: %s is left", died, left)
			}
		}
		if died == "" {
			break
		}
	}
	for _, want := range []string{"plan renewal", "log renewal", "write renewed block", "drop renewal's log", "renewed"} {
		if steps[want] == 0 {
			t.Errorf("was not killed before %q: %v", want, steps)
		}
	}
	t.Log(steps)
}

// reserve has the kernel make a metadata snapshot, as thinrun once did and as others do.
func reserve(t *testing.T, d *Driver) {
	t.Helper()
	p, err := d.enter()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	if err := p.message("reserve_metadata_snap"); err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: there is one
		t.Fatal(err)
	}
}

// TestMetadataSnapshotGoes: one that somebody has left goes when the pool is next
// activated, and gives back what only it had: whether it is whole, or the power went while
// it was made, or while it was released.
func TestMetadataSnapshotGoes(t *testing.T) {
	for _, torn := range []string{"whole", "half made", "half released"} {
		t.Run(torn, func(t *testing.T) {
			d := fresh(t, Options{})
			images := aPool(t, d)
			sum := layerSum(t, d, images[0])
			used := func() uint64 {
				p, err := d.enter()
				if err != nil {
					t.Fatal(err)
				}
				defer p.leave()
				if err := p.look(0); err != nil || p.kernel.held != "-" && torn == "whole" {
					t.Fatalf("metadata snapshot at %s, %v", p.kernel.held, err)
				}
				return p.kernel.dataUsed
			}
			before := used()
			r := root(t, d, images[0])
			r.write(t, "f", 1, 8<<20)
			if torn != "half made" {
				reserve(t, d)
			}
			r.remove(t, d)
			deactivate(t, d)
			if torn != "whole" {
				held := uint64(0)
				if torn == "half made" { // block 1 stands for any
					held = 1
				}
				patch(t, d, func(b []byte) { binary.LittleEndian.PutUint64(b[56:], held) })
				if torn == "half released" { // nothing tells of it but a check: to renew it is the cure
					if c, err := d.Check(); err != nil || c.OK {
						t.Errorf("check before: %+v, %v", c, err)
					}
					if err := d.Renew(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if after := used(); after != before {
				t.Errorf("%d blocks in use, %d before", after, before)
			}
			if out, err := thinTool(t, d, "thin_check"); err != nil {
				t.Errorf("thin_check: %v\n%s", err, out)
			}
			if c, err := d.Check(); err != nil || !c.OK || c.Leaked != 0 {
				t.Errorf("check: %+v, %v", c, err)
			}
			// The kernel goes on with the new counts.
			for i := range 3 {
				r := root(t, d, images[i%2])
				r.write(t, "shared", int64(i), 300*4096)
				r.write(t, "f", int64(i), 8<<20)
				r.remove(t, d)
			}
			if got := layerSum(t, d, images[0]); got != sum {
				t.Error("layer is not what it was")
			}
			if out, err := thinTool(t, d, "thin_check"); err != nil {
				t.Errorf("thin_check in the end: %v\n%s", err, out)
			}
		})
	}
}

// TestTornRenewal: the power goes while a block is written, and half of it is there.
func TestTornRenewal(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	sum := layerSum(t, d, images[0])
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.look(0), p.takeDown(), p.logRewrite((*thinmeta.Superblock).Renewal)); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(p.renewalPath())
	if err != nil {
		t.Fatal(err)
	}
	p.leave()
	last := log[len(log)-32-4096:] // the superblock
	writeAt(t, d.dir+"/meta", 0, append(bytes.Clone(last[:512]), make([]byte, 512)...))
	if got := layerSum(t, d, images[0]); got != sum {
		t.Error("layer is not what it was")
	}
	if now := clock(t, d); now != 2 { // the look at the layer was a snapshot
		t.Errorf("the clock says %d, want 2", now)
	}
	// A log that is not whole, or another pool's, is not written out.
	deactivate(t, d)
	meta, err := os.ReadFile(d.dir + "/meta")
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range [][]byte{nil, log[:len(log)-1], append(bytes.Clone(log), 0), bytes.Replace(log, []byte("renew 1"), []byte("renew 2"), 1)} {
		if err := os.WriteFile(d.dir+"/renew", bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.NewLayer(""); !errors.Is(err, ErrForeign) {
			t.Errorf("log %d: %v, want %v", i, err, ErrForeign)
		}
	}
	if now, err := os.ReadFile(d.dir + "/meta"); err != nil || !bytes.Equal(now, meta) {
		t.Errorf("a bad log was written, %v", err)
	}
	if err := os.Remove(d.dir + "/renew"); err != nil {
		t.Fatal(err)
	}
}

// TestRenewOnDevices: a metadata device is renewed in place.
func TestRenewOnDevices(t *testing.T) {
	needKernel(t)
	o := small()
	paths, _ := loops(t, o.DataBytes, o.MetaBytes)
	o.DataBytes, o.MetaBytes = 0, 0
	o.DataDevice, o.MetadataDevice = paths[0], paths[1]
	d := fresh(t, Options{Pool: o})
	images := aPool(t, d)
	sum := layerSum(t, d, images[0])
	for n := 1; ; n++ {
		r := root(t, d, images[0])
		r.write(t, "shared", int64(n), 300*4096)
		r.remove(t, d)
		died := act{Do: "renew", Storage: d.storage, KillAt: n}.start(t)
		if got := layerSum(t, d, images[0]); got != sum {
			t.Fatalf("killed before %q: layer is not what it was", died)
		}
		if c, err := d.Check(); err != nil || !c.OK {
			t.Fatalf("killed before %q: %+v, %v", died, c, err)
		}
		if died == "" {
			break
		}
	}
	if now := clock(t, d); now != 2 {
		t.Errorf("the clock says %d, want 2", now)
	}
	done, err := d.Trim()
	if err != nil || done.Bytes < 100<<20 {
		t.Errorf("trim of a device: %+v, %v", done, err)
	}
	if got := layerSum(t, d, images[0]); got != sum {
		t.Error("after trim: layer is not what it was")
	}
}
