package devmapper

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// TestStrict: starts are refused as soon as what runs could fill the pool; what a
// container has written counts once, and one that has ended promises nothing.
func TestStrict(t *testing.T) {
	o := PoolOptions{DataBytes: 3 * gib, MetaBytes: 16 * mib, BaseBytes: gib, LowWater: 8 * mib, MaxBytes: 3 * gib, Strict: true}
	d := onDisk(t, o)
	layer := image(t, d)
	first, c1 := prepared(t, d, layer)
	second, _ := prepared(t, d, layer)
	err := try(d, layer)
	oneLine(t, err, ErrPromised, "promised to 2 containers and layers at work, and this one may write 1.0 GiB")
	oneLine(t, err, ErrPromised, "`thinrun pool grow`")
	if _, err := d.NewLayer(layer); !errors.Is(err, ErrPromised) {
		t.Errorf("a layer: %v, want %v", err, ErrPromised)
	}
	if _, err := d.Fork(c1); !errors.Is(err, ErrPromised) {
		t.Errorf("a fork: %v, want %v", err, ErrPromised)
	}
	before, err := d.Status()
	if err != nil || before.Admission != "strict" || before.Writers != 2 || before.PromisedBytes > 2*gib || !strings.Contains(before.Problem, ErrPromised.Error()) {
		t.Errorf("status %+v, %v", before, err)
	}
	// What they write was promised to them.
	if err := writeSync(second.Mount, "f", 200); err != nil {
		t.Fatal(err)
	}
	after, err := d.Status()
	if wrote := before.PromisedBytes - after.PromisedBytes; err != nil || wrote < 190*mib || wrote > 250*mib {
		t.Errorf("200 MiB written, promised %s before and %s after, %v", size(before.PromisedBytes), size(after.PromisedBytes), err)
	}
	// One fills its disk: ENOSPC comes from its own file system, and not from the pool, which
	// keeps what it has promised to the other.
	if err := fillDisk(second.Mount); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a container that fills its disk gets %v, want %v", err, unix.ENOSPC)
	}
	s, err := d.Status()
	if err != nil || s.Mode != "rw" || s.Data.TotalBytes-s.Data.UsedBytes < s.PromisedBytes || s.PromisedBytes < 900*mib {
		t.Errorf("after one disk is full: %+v, %v", s, err)
	}
	first.Mount.Close()
	if err := d.Remove(c1); err != nil {
		t.Fatal(err)
	}
	if err := try(d, layer); err != nil {
		t.Errorf("after one has gone: %v", err)
	}
}

// fillDisk takes all blocks of a disk, with a little data in each block of the pool.
func fillDisk(mnt *os.File) error {
	f, err := openIn(mnt, "full", unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	end := int64(0)
	for _, step := range []int64{64 << 20, 1 << 20, 64 << 10, 4 << 10} {
		for unix.Fallocate(int(f.Fd()), 0, end, step) == nil {
			end += step
		}
	}
	piece := []byte("taken")
	for at := int64(0); at < end && err == nil; at += 64 << 10 {
		_, err = f.WriteAt(piece, at)
	}
	if err == nil {
		err = f.Sync()
	}
	for at := end; err == nil; at += 4 << 10 { // beyond: the file system itself is full
		_, err = f.WriteAt(piece, at)
	}
	return errors.Join(err, f.Close())
}

// TestStrictGrows: a file grows by what has to be promised before the start.
func TestStrictGrows(t *testing.T) {
	d := onDisk(t, PoolOptions{DataBytes: 128 * mib, MetaBytes: 16 * mib, BaseBytes: gib, LowWater: 8 * mib, Strict: true})
	layer := image(t, d)
	src, _ := prepared(t, d, layer)
	if err := writeSync(src.Mount, "f", 300); err != nil {
		t.Errorf("the space is not there: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(d.dir, "data"), &st); err != nil || st.Blocks*512 < int64(gib) {
		t.Errorf("%s of the data file are allocated, %v; want what was promised", size(uint64(st.Blocks)*512), err)
	}
}

// TestStrictOneByOne: of eight processes that want the last place at once one gets it.
func TestStrictOneByOne(t *testing.T) {
	d := onDisk(t, PoolOptions{DataBytes: 3 * gib, MetaBytes: 16 * mib, BaseBytes: gib, LowWater: 8 * mib, MaxBytes: 3 * gib, Strict: true})
	layer := image(t, d)
	src, _ := prepared(t, d, layer)
	got := make(chan error, 8)
	var claims [8]storage.Claim
	var mounts [8]*os.File
	for i := range 8 {
		go func() {
			o, err := Open(d.storage, Options{Pool: d.opts.Pool})
			if err == nil {
				var src storage.Source
				src, claims[i], err = prepare(o, fmt.Sprint(i), layer)
				mounts[i] = src.Mount
				o.Close()
			}
			got <- err
		}()
	}
	started := 0
	for range 8 {
		err := <-got
		if err == nil {
			started++
		} else if !errors.Is(err, ErrPromised) {
			t.Errorf("got %v, want %v", err, ErrPromised)
		}
	}
	if started != 1 {
		t.Errorf("%d of 8 started in the one place that was left", started)
	}
	src.Mount.Close()
	for i, c := range claims {
		if mounts[i] != nil {
			mounts[i].Close()
			if err := d.Remove(c); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestStrictKeepsThePlace: to grow takes the lock alone, which gives the place up that was
// taken. Who goes on because there is room yet has taken it again.
func TestStrictKeepsThePlace(t *testing.T) {
	d := onDisk(t, PoolOptions{DataBytes: 3 * gib, MetaBytes: 16 * mib, BaseBytes: gib, LowWater: 8 * mib, Strict: true})
	image(t, d)
	d.opts.Guard = func(string) (func(), error) { return nil, errors.New("no guardian") } // so it does not grow
	p, err := d.enter()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	p.kernel.metaUsed = p.kernel.metaTotal * 6 / 10 // it wants to
	if err := p.admitOrGrow(gib, 0); err != nil {
		t.Fatal(err)
	}
	f, err := d.lockFile()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	place := unix.Flock_t{Type: unix.F_WRLCK, Start: admissionByte, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &place); err != nil || place.Type == unix.F_UNLCK {
		t.Errorf("another could have the same place (%v)", err)
	}
	d.opts.Guard = nil
}

// TestClock: from three quarters on each command warns once, in one line.
func TestClock(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	deactivate(t, d)
	var saved []byte
	patch(t, d, func(b []byte) {
		saved = append([]byte(nil), b...)
		binary.LittleEndian.PutUint32(b[44:], clockWarn)
	})
	defer func() { deactivate(t, d); patch(t, d, func(b []byte) { copy(b, saved) }) }()
	var said []string
	d.opts.Warn = func(line string) { said = append(said, line) }
	for range 2 {
		p, err := d.enter()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.admitOrGrow(gib, 0); err != nil {
			t.Errorf("three quarters through nothing starts: %v", err)
		}
		p.leave()
	}
	if len(said) != 1 || !strings.Contains(said[0], "75 % of the 16711680 snapshots") || !strings.Contains(said[0], "`thinrun pool renew`") || strings.Contains(said[0], "\n") {
		t.Errorf("said %q, want one line once", said)
	}
	_ = layer
}

// TestWatch: with nobody starting anything, a waiting process grows the pool before what
// runs has filled it.
func TestWatch(t *testing.T) {
	d := onDisk(t, PoolOptions{DataBytes: 128 * mib, MetaBytes: 8 * mib, BaseBytes: gib, LowWater: 8 * mib, MaxBytes: 512 * mib})
	layer := image(t, d)
	src, _ := prepared(t, d, layer)
	w, err := Open(d.storage, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Watch(ctx) }()
	// In steps that it can follow: the next is written when there is room for it.
	for i := range 40 {
		if err := writeSync(src.Mount, fmt.Sprint(i), 8); err != nil {
			t.Fatalf("after %d MiB: %v", 8*i, err)
		}
		for s, err := d.Status(); err == nil && s.Data.TotalBytes-s.Data.UsedBytes < 16*mib && len(ended) == 0; s, err = d.Status() {
		}
	}
	s, err := d.Status()
	if err != nil || s.Data.TotalBytes != 512*mib || s.Mode != "rw" {
		t.Errorf("320 MiB written: %+v, %v; want it grown to its maximum", s, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestGrow: sizes, additions, limits; what cannot be is refused and changes nothing.
func TestGrow(t *testing.T) {
	d := onDisk(t, PoolOptions{DataBytes: 128 * mib, MetaBytes: 8 * mib, BaseBytes: gib, LowWater: 8 * mib, MaxBytes: 256 * mib})
	layer := image(t, d)
	src, _ := prepared(t, d, layer)
	for _, test := range []struct {
		name string
		o    GrowOptions
		want Grown
		bad  string
	}{
		{"by hand", GrowOptions{DataBytes: 160 * mib}, Grown{128 * mib, 160 * mib, 8 * mib, 8 * mib}, ""},
		{"more metadata", GrowOptions{AddMeta: 8 * mib}, Grown{160 * mib, 160 * mib, 8 * mib, 16 * mib}, ""},
		{"smaller", GrowOptions{DataBytes: 100 * mib}, Grown{}, "cannot become smaller; `thinrun pool trim`"},
		{"as it is", GrowOptions{DataBytes: 160 * mib}, Grown{}, "has that size already"},
		{"beyond the maximum", GrowOptions{DataBytes: gib}, Grown{}, "at most 256.0 MiB are allowed; say --max-size"},
		{"both", GrowOptions{DataBytes: gib, AddData: gib}, Grown{}, "either the new size or how much is added"},
		{"metadata beyond dm-thin", GrowOptions{MetaBytes: 16 * gib}, Grown{}, "at most 15.9 GiB"},
		{"more than the host has", GrowOptions{AddData: 1 << 40, MaxBytes: 1 << 41}, Grown{}, "no space left"},
		{"one step", GrowOptions{}, Grown{160 * mib, 256 * mib, 16 * mib, 16 * mib}, ""},
		{"at the maximum", GrowOptions{}, Grown{}, "the maximum is 256.0 MiB"},
		{"a new maximum", GrowOptions{MaxBytes: 512 * mib, AddData: 64 * mib}, Grown{256 * mib, 320 * mib, 16 * mib, 16 * mib}, ""},
	} {
		before := allocated(t, d)
		got, err := d.Grow(test.o)
		if test.bad != "" {
			if err == nil || !strings.Contains(err.Error(), test.bad) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: %v, want one line with %q", test.name, err, test.bad)
			}
			if after := allocated(t, d); after != before {
				t.Errorf("%s: the files have changed from %v to %v", test.name, before, after)
			}
			continue
		}
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v; want %+v", test.name, got, err, test.want)
		}
	}
	if err := writeSync(src.Mount, "f", 250); err != nil {
		t.Errorf("the space is not there: %v", err)
	}
	src.Mount.Close()
	deactivate(t, d)
	if err := try(d, layer); err != nil {
		t.Errorf("activated again: %v", err)
	}
}

// TestGrowsBeyondItsMetadata: to count a terabyte takes more metadata than there is. It
// grows with the data, and on devices, where it cannot, nothing happens to the pool.
func TestGrowsBeyondItsMetadata(t *testing.T) {
	o := PoolOptions{DataBytes: 192 * mib, MetaBytes: 2 * mib, BaseBytes: gib, LowWater: 8 * mib, ReturnSpace: true}
	for _, files := range []bool{true, false} {
		t.Run(fmt.Sprint("files ", files), func(t *testing.T) {
			d := fresh(t, Options{Pool: o})
			layer := image(t, d)
			src, c := prepared(t, d, layer)
			if !files { // as if they were devices, of which only one has become larger
				p, err := d.enterAlone()
				if err != nil {
					t.Fatal(err)
				}
				next := p.made
				next.data.bytes, next.data.ours, next.meta.ours = 1<<40, false, false
				err = p.growTo(next)
				p.leave()
				if !errors.Is(err, ErrMetaFull) {
					t.Errorf("got %v, want %v", err, ErrMetaFull)
				}
			} else if g, err := d.Grow(GrowOptions{DataBytes: 1 << 40}); err != nil || g.DataTo != 1<<40 || g.MetaTo != 18*mib {
				t.Errorf("%+v, %v", g, err)
			}
			if err := writeSync(src.Mount, "f", 20); err != nil {
				t.Error(err)
			}
			src.Mount.Close()
			if err := d.Remove(c); err != nil {
				t.Error(err)
			}
			deactivate(t, d)
			if err := try(d, layer); err != nil {
				t.Errorf("activated again: %v", err)
			}
			if r, err := d.Check(); err != nil || !r.OK {
				t.Errorf("check: %+v, %v", r, err)
			}
		})
	}
}

func allocated(t *testing.T, d *Driver) (sizes [2]int64) {
	t.Helper()
	for i, name := range []string{"data", "meta"} {
		st, err := os.Stat(filepath.Join(d.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sizes[i] = st.Size()
	}
	return sizes
}

// disk is the lab's first scratch disk with a new ext4, mounted for the test.
func disk(t *testing.T) string {
	t.Helper()
	needKernel(t)
	dev, _, _ := strings.Cut(os.Getenv("LAB_DISKS"), " ")
	if dev == "" {
		t.Fatal("no scratch disk (labexec -disk 8G)")
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", dev).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4 %s: %v\n%s", dev, err, out)
	}
	dir := t.TempDir()
	if err := unix.Mount(dev, dir, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// onDisk is a pool on the scratch disk.
func onDisk(t *testing.T, o PoolOptions) *Driver {
	t.Helper()
	dir := disk(t) // before the pool, so that it is unmounted after it
	d := fresh(t, Options{Pool: o})
	d.storage = dir
	d.dir = filepath.Join(d.storage, "pool")
	return d
}
