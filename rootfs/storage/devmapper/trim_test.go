package devmapper

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/thinmeta"
	"thinrun/rootfs/storage/durable"
)

func TestWithout(t *testing.T) {
	rnd := rand.New(rand.NewSource(3))
	for range 2000 {
		free := make([]bool, 60)
		var keep []thinmeta.Run
		for at := uint64(rnd.Intn(9)); at < 50; at += uint64(rnd.Intn(9)) {
			n := uint64(1 + rnd.Intn(6))
			keep = append(keep, thinmeta.Run{From: at, To: at + n})
			at += n
		}
		run := thinmeta.Run{From: uint64(rnd.Intn(30))}
		run.To = run.From + uint64(rnd.Intn(30))
		for i := run.From; i < run.To; i++ {
			free[i] = !slices.ContainsFunc(keep, func(k thinmeta.Run) bool { return i >= k.From && i < k.To })
		}
		for _, left := range without(run, keep) {
			for i := left.From; i < left.To; i++ {
				if !free[i] {
					t.Fatalf("%v without %v: %d is given twice or was kept", run, keep, i)
				}
				free[i] = false
			}
		}
		if slices.Contains(free, true) {
			t.Fatalf("%v without %v leaves some out", run, keep)
		}
	}
}

// dropCaches has what is read next come from the disk.
func dropCaches(t *testing.T) {
	t.Helper()
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
}

// sum is over all files at the top of a mount.
func sum(t *testing.T, mnt *os.File) string {
	t.Helper()
	dir, err := openRoot(mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		f, err := openIn(mnt, name, unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := f.Stat(); err != nil || st.IsDir() {
			f.Close()
			continue
		}
		fmt.Fprintln(h, name)
		if _, err := io.Copy(h, f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// layerSum is the content of a sealed layer, by a view of it.
func layerSum(t *testing.T, d *Driver, id string) string {
	t.Helper()
	l, err := d.NewLayer(id)
	if err != nil {
		t.Fatal(err)
	}
	s := sum(t, l.(*open).mnt)
	if err := l.Abort(); err != nil {
		t.Fatal(err)
	}
	return s
}

func hostBytes(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return uint64(st.Blocks) * 512
}

// TestTrimUnderWriters: the host has its space back, and nobody loses a byte, while four
// containers write and others come and go.
func TestTrimUnderWriters(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	big := root(t, d, images[0])
	big.write(t, "garbage", 1, 90<<20)
	old := root(t, d, images[1])
	old.write(t, "kept", 2, 8<<20)
	defer old.remove(t, d)
	big.remove(t, d)
	dropCaches(t)
	want := map[string]string{"old": sum(t, old.src.Mount)}
	for _, id := range images {
		want[id] = layerSum(t, d, id)
	}
	before := hostBytes(t, d.dir+"/data")

	writers := make([]*aRoot, 4)
	for i := range writers {
		writers[i] = root(t, d, images[i%2])
		defer writers[i].remove(t, d)
	}
	over := make(chan struct{})
	var work sync.WaitGroup
	failed := make(chan error, 10)
	seeds := make([][]int64, len(writers))
	for i, w := range writers {
		work.Go(func() {
			for n := int64(0); n < 24; n++ { // 6 MiB of each, however often it is overwritten
				select {
				case <-over:
					return
				default:
				}
				if err := writeIn(w.src.Mount, fmt.Sprint(n), noise(int64(i)<<32+n, 256<<10)); err != nil {
					failed <- err
					return
				}
				seeds[i] = append(seeds[i], n)
				if f, err := openRoot(w.src.Mount); err == nil {
					unix.Syncfs(int(f.Fd()))
					f.Close()
				}
			}
		})
	}
	work.Go(func() { // and more come and go
		o := again(t, d)
		for range 3 {
			select {
			case <-over:
				return
			default:
			}
			root(t, o, images[0]).remove(t, o)
		}
	})
	var given uint64
	for range 4 {
		done, err := d.Trim()
		if err != nil {
			t.Error(err)
		}
		given += done.Bytes
	}
	close(over)
	work.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	after := hostBytes(t, d.dir+"/data")
	t.Logf("%d MiB on the host, %d given back, %d now", before>>20, given>>20, after>>20)
	if after+60<<20 > before || given < 60<<20 {
		t.Errorf("of %d bytes, 90 MiB of them garbage, %d are left; it says %d were given back", before, after, given)
	}
	// From the disk, not the page cache.
	for _, w := range append(writers, old) {
		w.sync(t)
	}
	dropCaches(t)
	if got := sum(t, old.src.Mount); got != want["old"] {
		t.Error("a container's file is not what it was")
	}
	for i, w := range writers {
		for _, n := range seeds[i] {
			if !w.has(t, fmt.Sprint(n), int64(i)<<32+n, 256<<10) {
				t.Errorf("writer %d, file %d: not what was written", i, n)
			}
		}
	}
	for _, id := range images {
		if got := layerSum(t, d, id); got != want[id] {
			t.Errorf("layer %s is not what it was", id)
		}
	}
	if out, err := thinTool(t, d, "thin_check"); err != nil {
		t.Errorf("thin_check: %v\n%s", err, out)
	}
	if r, err := d.Check(); err != nil || !r.OK || r.Leaked != 0 {
		t.Errorf("check: %+v, %v", r, err)
	}
}

// TestTrimmedPoolOnAFullHost: the next lowBytes of new blocks are there, wherever the
// kernel takes them from.
func TestTrimmedPoolOnAFullHost(t *testing.T) {
	needKernel(t)
	disks := strings.Fields(os.Getenv("LAB_DISKS"))
	if len(disks) == 0 {
		t.Fatal("needs a disk of the lab (-disk)")
	}
	dir := t.TempDir()
	for _, c := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", disks[0], "600M"}, {"mount", disks[0], dir}} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", c, err, out)
		}
	}
	o := small()
	o.LowWater = 32 << 20
	d, err := Open(dir, Options{Pool: o})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(d.Destroy(), d.Close(), unix.Unmount(dir, 0)); err != nil {
			t.Error(err)
		}
	}()
	images := aPool(t, d)
	for _, inactive := range []bool{false, true} {
		big := root(t, d, images[0])
		big.write(t, "garbage", 1, 60<<20)
		big.remove(t, d)
		done, err := d.Trim()
		if err != nil || done.Bytes == 0 || done.Reserve < o.LowWater {
			t.Fatalf("%+v, %v", done, err)
		}
		if inactive {
			deactivate(t, d)
		}
		w := root(t, d, images[0])
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(dir + "/fill")
		if err != nil {
			t.Fatal(err)
		}
		for n := int64(st.Bavail) * st.Bsize; n > 4096; n /= 2 {
			at, _ := f.Seek(0, 2)
			for unix.Fallocate(int(f.Fd()), 0, at, n) == nil {
				at += n
			}
			f.Seek(at, 0)
		}
		f.Close()
		w.write(t, "more", 9, 20<<20) // write checks that syncfs has no error
		dropCaches(t)
		fsyncs(t, w)
		if left := sum(t, w.src.Mount); left == "" {
			t.Error("nothing there")
		}
		w.remove(t, d)
		if err := os.Remove(dir + "/fill"); err != nil {
			t.Fatal(err)
		}
	}
}

// fsyncs tells write errors that a file system heard of late.
func fsyncs(t *testing.T, w *aRoot) {
	t.Helper()
	f, err := openIn(w.src.Mount, "more", unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !w.has(t, "more", 9, 20<<20) {
		t.Error("what was written on a full host is not there")
	}
	if err := f.Sync(); err != nil {
		t.Errorf("fsync: %v", err)
	}
}

// TestTrimKilledAnywhere: a container that waits for its disk gets it back, from the
// guardian at once or else from the next command, and nothing is lost or left.
func TestTrimKilledAnywhere(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprint("guarded=", guarded), func(t *testing.T) {
			d := fresh(t, Options{})
			images := aPool(t, d)
			want := layerSum(t, d, images[1])
			r := root(t, d, images[0])
			defer r.remove(t, d)
			r.write(t, "kept", 3, 4<<20)
			// Holes between what is kept.
			for i := range 6 {
				o := root(t, d, images[1])
				o.write(t, "gone", int64(i), 3<<20)
				r.write(t, fmt.Sprint("between", i), int64(i), 256<<10)
				o.remove(t, d)
			}
			before := held(t, d)
			dropCaches(t)
			content := sum(t, r.src.Mount)
			steps := map[string]int{}
			for n := 1; ; n++ {
				died := act{Do: "trim", Storage: d.storage, KillAt: n, Guard: guarded}.start(t)
				steps[died]++
				if !guarded {
					if _, err := d.GC(); err != nil {
						t.Fatal(err)
					}
				}
				r.write(t, "now", int64(n), 64<<10) // sleeps as long as the pool is suspended
				if err := unix.Unlinkat(int(r.src.Mount.Fd()), "now", 0); err != nil {
					t.Fatal(err)
				}
				dropCaches(t)
				if got := sum(t, r.src.Mount); got != content {
					t.Fatalf("killed before %q: the container's files are not what they were", died)
				}
				if _, err := d.GC(); err != nil {
					t.Fatal(err)
				}
				same(t, fmt.Sprintf("killed before %q", died), before, held(t, d))
				if c, err := d.Check(); err != nil || !c.OK || c.Leaked != 0 {
					t.Fatalf("killed before %q: %+v, %v", died, c, err)
				}
				if died == "" {
					break
				}
				if steps["give back"] > 2 {
					n += 20 // there are many, and the end is near
				}
			}
			for _, step := range []string{"create probe", "write probe", "suspend pool", "pool is suspended", "give back", "resume pool"} {
				if steps[step] == 0 {
					t.Errorf("was not killed before %q: %v", step, steps)
				}
			}
			if got := layerSum(t, d, images[1]); got != want {
				t.Error("a layer is not what it was")
			}
			t.Log(steps)
		})
	}
}

// sliced is a driver with a large pool, whose trim has a slice for each 256 MiB.
func sliced(t *testing.T, sparse bool) (d *Driver, image string, on map[string]func()) {
	t.Helper()
	o := small()
	o.DataBytes, o.ReturnSpace = gib, sparse
	d = fresh(t, Options{Pool: o})
	image = aPool(t, d)[0]
	on = map[string]func(){}
	d.opts.Step = func(step string) {
		if step == "give back" {
			time.Sleep(2 * pause) // as if it took as long as a slice
		}
		if do := on[step]; do != nil {
			do()
		}
	}
	return d, image, on
}

// TestStartDuringTrim: a container that wants to start while a trim has the pool is there
// before the trim goes on, and what it writes stays.
func TestStartDuringTrim(t *testing.T) {
	d, image, on := sliced(t, true)
	var events []string
	var started *aRoot
	var wanted chan error
	on["give back"] = func() {
		events = append(events, "give back")
		if len(events) != 2 {
			return
		}
		wanted = make(chan error, 1)
		o := again(t, d)
		go func() {
			src, c, err := prepare(o, "c", image)
			started = &aRoot{c, src}
			wanted <- err
		}()
		waitQueue(t, d, "FLOCK", 1)
	}
	came := func() {
		if err := <-wanted; err != nil {
			t.Fatal(err)
		}
		events = append(events, "started")
		started.write(t, "written", 7, 1<<20)
		wanted = nil
	}
	on["let others in"] = func() {
		if wanted != nil {
			came()
		}
	}
	done, err := d.Trim()
	if err != nil {
		t.Fatal(err)
	}
	if wanted != nil {
		came()
	}
	defer started.remove(t, d)
	if n := slices.Index(events, "started"); n < 0 || n == len(events)-1 {
		t.Errorf("the container started when the trim was over: %q", events)
	}
	t.Logf("%+v %q", done, events)
	dropCaches(t)
	if !started.has(t, "written", 7, 1<<20) {
		t.Error("what was written during the trim is not there")
	}
	if r, err := d.Check(); err != nil || !r.OK {
		t.Errorf("check: %+v, %v", r, err)
	}
}

// TestPoolChangesDuringTrim: between two slices the pool is anybody's.
func TestPoolChangesDuringTrim(t *testing.T) {
	for name, x := range map[string]struct {
		between func(t *testing.T, d *Driver)
		err     error
		least   uint64 // bytes of the file in the end
	}{
		"taken down": {between: deactivate},
		"grown":      {between: grownBy(512 * mib), least: 512 * mib},
		"destroyed":  {between: gone, err: ErrNoPool},
		"another in its place": {between: func(t *testing.T, d *Driver) {
			gone(t, d)
			aPool(t, again(t, d))
		}, err: ErrForeign, least: gib},
	} {
		t.Run(name, func(t *testing.T) {
			d, _, on := sliced(t, false)
			slices := 0
			on["let others in"] = func() {
				if slices++; slices == 2 {
					x.between(t, d)
				}
			}
			done, err := d.Trim()
			t.Log(done, err)
			if !errors.Is(err, x.err) || slices < 2 {
				t.Errorf("after %d slices: %v, want %v", slices, err, x.err)
			}
			if done.Bytes == 0 || err == nil && done.Bytes < gib/2 {
				t.Errorf("given back: %+v", done)
			}
			if x.least > 0 && hostBytes(t, d.dir+"/data") < x.least {
				t.Errorf("the host has %d bytes for the file, want %d: what is new was taken from it", hostBytes(t, d.dir+"/data"), x.least)
			}
			if r, err := d.Check(); !errors.Is(err, ErrNoPool) && (err != nil || !r.OK) {
				t.Errorf("check: %+v, %v", r, err)
			}
		})
	}
}

func gone(t *testing.T, d *Driver) {
	t.Helper()
	if err := again(t, d).Destroy(); err != nil {
		t.Fatal(err)
	}
}

func grownBy(bytes uint64) func(*testing.T, *Driver) {
	return func(t *testing.T, d *Driver) {
		t.Helper()
		if _, err := again(t, d).Grow(GrowOptions{AddData: bytes}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTrimsTakeTurns: of two the second would make holes in what the first keeps.
func TestTrimsTakeTurns(t *testing.T) {
	d, _, on := sliced(t, false)
	var given atomic.Int32 // by the second
	var second chan error
	on["let others in"] = func() {
		if second == nil {
			second = make(chan error, 1)
			o := again(t, d)
			o.opts.Step = func(step string) {
				if step == "give back" {
					given.Add(1)
				}
			}
			go func() {
				_, err := o.Trim()
				second <- err
			}()
		}
		for queue(t, d, "OFDLCK") == 0 && given.Load() == 0 {
			time.Sleep(time.Millisecond)
		}
		if given.Load() > 0 {
			t.Error("a second trim gives back before the first has come to its end")
		}
	}
	done, err := d.Trim()
	if err = errors.Join(err, <-second); err != nil || done.Reserve < small().LowWater || given.Load() == 0 {
		t.Errorf("%+v, %v; the second gave back %d times", done, err, given.Load())
	}
}

func TestStrictPoolIsNotTrimmed(t *testing.T) {
	d := fresh(t, Options{})
	if err := d.CreatePool(d.opts.Pool); err != nil {
		t.Fatal(err)
	}
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	p.strict = true
	err = durable.Write(p.recordPath(), p.encode())
	p.leave()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Trim(); !errors.Is(err, ErrPromised) {
		t.Errorf("got %v, want %v", err, ErrPromised)
	}
}
