package devmapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/loop"
)

func try(d *Driver, layer string) error {
	src, c, err := prepare(d, "c9", layer)
	if err != nil {
		if c.Driver != "" {
			return errors.Join(fmt.Errorf("refused after the claim was saved"), err)
		}
		return err
	}
	return errors.Join(src.Mount.Close(), d.Remove(c))
}

// patch changes the superblock of a pool that is not active, checksum included.
func patch(t *testing.T, d *Driver, change func(b []byte)) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(d.dir, "meta"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 4096)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	change(b)
	binary.LittleEndian.PutUint32(b, ^crc32.Checksum(b[4:], crc32.MakeTable(crc32.Castagnoli))^160774)
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedByName: a pool that is not well gives one line that names what it has, and
// nothing is changed.
func TestRefusedByName(t *testing.T) {
	le := binary.LittleEndian
	for _, test := range []struct {
		name string
		harm func(b []byte)
		want error
		text string
		live bool // the pool activates all the same
	}{
		{"needs check", func(b []byte) { b[4] |= 1 }, ErrNeedsCheck, "thin_check", false},
		{"foreign", func(b []byte) { le.PutUint64(b[48:], 42) }, ErrForeign, "fingerprint is 000000000000002a, the record says", false},
		{"worn out", func(b []byte) { le.PutUint32(b[44:], clockLimit) }, ErrWornOut, "16711680 snapshots", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := fresh(t, Options{})
			layer := image(t, d)
			deactivate(t, d)
			var saved []byte
			patch(t, d, func(b []byte) { saved = append([]byte(nil), b...); test.harm(b) })
			defer func() { deactivate(t, d); patch(t, d, func(b []byte) { copy(b, saved) }) }()
			before := sums(t, d)
			s, err := d.Status()
			if err != nil || !strings.Contains(s.Problem, test.want.Error()) {
				t.Errorf("status says %q, %v; want %q", s.Problem, err, test.want)
			}
			err = try(d, layer)
			oneLine(t, err, test.want, test.text)
			if _, err := d.NewLayer(layer); !errors.Is(err, test.want) {
				t.Errorf("a layer: %v, want %v", err, test.want)
			}
			if !test.live {
				if after := sums(t, d); after != before {
					t.Error("the refused pool's files have changed")
				}
				same(t, "devices", nil, devices(t, d))
			} else if s, err := d.Status(); err != nil || !s.Active || s.Clock != clockLimit || !strings.Contains(s.Problem, test.want.Error()) {
				t.Errorf("status %+v, %v", s, err)
			}
		})
	}
}

func sums(t *testing.T, d *Driver) [2]uint32 {
	t.Helper()
	var s [2]uint32
	for i, name := range []string{"meta", "data"} {
		f, err := os.Open(filepath.Join(d.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		sum := crc32.NewIEEE()
		_, err = io.Copy(sum, f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		s[i] = sum.Sum32()
	}
	return s
}

func oneLine(t *testing.T, err, want error, text string) {
	t.Helper()
	if !errors.Is(err, want) || !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v\nwant one line with %q, and with %q", err, want, text)
	}
}

// TestTruncatedFile: active or not, a pool file that has become shorter is named, and
// nothing is read from it or written to it.
func TestTruncatedFile(t *testing.T) {
	for _, name := range []string{"data", "meta"} {
		for _, active := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s active %v", name, active), func(t *testing.T) {
				d := fresh(t, Options{})
				layer := image(t, d)
				path := filepath.Join(d.dir, name)
				st, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if !active {
					deactivate(t, d)
				}
				if err := os.Truncate(path, st.Size()-4096); err != nil {
					t.Fatal(err)
				}
				before := sums(t, d)
				oneLine(t, try(d, layer), ErrTruncated, path+" has")
				oneLine(t, try(d, layer), ErrTruncated, "put the whole file back")
				if s, err := d.Status(); err != nil || !strings.Contains(s.Problem, ErrTruncated.Error()) {
					t.Errorf("status says %q, %v", s.Problem, err)
				}
				if sums(t, d) != before {
					t.Error("the files have changed")
				}
				if !active {
					same(t, "devices", nil, devices(t, d))
				}
				if err := os.Truncate(path, st.Size()); err != nil { // its last block was never used
					t.Fatal(err)
				}
				if err := try(d, layer); err != nil {
					t.Errorf("with the file put back: %v", err)
				}
			})
		}
	}
}

// TestReadOnly: the kernel makes a pool read-only when a metadata write fails; here by its
// table.
func TestReadOnly(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	src, c := prepared(t, d, layer)
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	_, targets, err := p.ctl.Table(p.name())
	if err != nil {
		t.Fatal(err)
	}
	reload := func(target dm.Target) {
		t.Helper()
		if _, err := p.ctl.Load(p.name(), target); err != nil {
			t.Fatal(err)
		}
		if err := p.ctl.Suspend(p.name(), dm.NoFlush); err != nil {
			t.Fatal(err)
		}
		if _, err := p.ctl.Resume(p.name()); err != nil {
			t.Fatal(err)
		}
	}
	ro := targets[0]
	ro.Params = strings.Replace(ro.Params, "2 error_if_no_space", "3 read_only error_if_no_space", 1)
	ro.Params = strings.Replace(ro.Params, "2 no_discard_passdown error_if_no_space", "3 read_only no_discard_passdown error_if_no_space", 1)
	reload(ro)
	p.leave()
	oneLine(t, try(d, layer), ErrReadOnly, "the kernel's log")
	src.Mount.Close()
	oneLine(t, d.Remove(c), ErrReadOnly, "pool ")
	if !exists(d.claimPath(c.ThinID)) {
		t.Error("the claim went before its id")
	}
	oneLine(t, d.RemoveLayer(layer), ErrReadOnly, "")
	if !exists(d.layerPath(mustID(t, layer))) {
		t.Error("the layer's record went before its id")
	}
	p, err = d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	reload(targets[0])
	p.leave()
	if err := try(d, layer); err != nil {
		t.Errorf("writable again: %v", err)
	}
}

// TestFull: a container that overruns the pool gets an error, the others go on with the
// blocks they have, nothing new starts, and after its removal all is well.
func TestFull(t *testing.T) {
	o := small()
	o.MaxBytes = o.DataBytes
	d := fresh(t, Options{Pool: o})
	layer := image(t, d)
	other, _ := prepared(t, d, layer)
	if err := writeSync(other.Mount, "mine", 1); err != nil {
		t.Fatal(err)
	}
	src, c, err := prepare(d, "hog", layer)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeSync(src.Mount, "hog", 256); err == nil {
		t.Error("256 MiB fit into a pool of 192")
	}
	if err := writeSync(other.Mount, "mine", 1); err != nil {
		t.Errorf("another container cannot write where it had written: %v", err)
	}
	oneLine(t, try(d, layer), ErrFull, "0 bytes of 192.0 MiB free")
	if _, err := d.NewLayer(""); !errors.Is(err, ErrFull) {
		t.Errorf("a layer: %v, want %v", err, ErrFull)
	}
	src.Mount.Close()
	if err := d.Remove(c); err != nil {
		t.Fatal(err)
	}
	if err := try(d, layer); err != nil {
		t.Errorf("after its removal: %v", err)
	}
}

// writeSync writes so many MiB and waits until they are on the disk. In pieces: a large
// slice costs UML one mapping per page, of which its host has no more than 65530.
func writeSync(mnt *os.File, name string, n int) error {
	f, err := openIn(mnt, name, unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	piece := bytes.Repeat([]byte("x"), int(mib))
	for i := 0; i < n && err == nil; i++ {
		_, err = f.Write(piece)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// TestGrows: files of ours grow before the pool is full, while a container writes.
func TestGrows(t *testing.T) {
	o := small()
	o.DataBytes, o.LowWater = 96*mib, 40*mib
	d := fresh(t, Options{Pool: o})
	layer := image(t, d)
	src, _ := prepared(t, d, layer)
	if err := writeSync(src.Mount, "f", 60); err != nil {
		t.Fatal(err)
	}
	if err := try(d, layer); err != nil {
		t.Fatal(err)
	}
	s, err := d.Status()
	if err != nil || s.Data.TotalBytes <= 96*mib || s.Problem != "" {
		t.Errorf("the pool has not grown: %+v, %v", s, err)
	}
	if err := writeSync(src.Mount, "g", 60); err != nil {
		t.Errorf("the space is not there: %v", err)
	}
	src.Mount.Close()
	deactivate(t, d) // the record must agree with the files
	if err := try(d, layer); err != nil {
		t.Error(err)
	}
}

// TestFullDisk: where the files do not fit nothing is left of the attempt.
func TestFullDisk(t *testing.T) {
	d := fresh(t, Options{})
	o := small()
	o.DataBytes = 1 << 50
	err := d.CreatePool(o)
	oneLine(t, err, unix.ENOSPC, "free")
	destroyed(t, d)
}

// TestHeldOpen: what cannot be removed is named, and can be removed later.
func TestHeldOpen(t *testing.T) {
	d := fresh(t, Options{RemoveWait: 100 * time.Millisecond})
	layer := image(t, d)
	src, c := prepared(t, d, layer)
	oneLine(t, d.Remove(c), unix.EBUSY, c.Device+" ("+src.Device+") is held open by 1 others")
	if got := held(t, d); len(got) != 5 { // layer and its id; the container's id, device and claim
		t.Errorf("held %q", got)
	}
	src.Mount.Close()
	d.opts.RemoveWait = 0
	if err := d.Remove(c); err != nil {
		t.Error(err)
	}
}

// TestBiggerRoot: --rootfs-size.
func TestBiggerRoot(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	var c storage.Claim
	save := func(claim storage.Claim) error { c = claim; return nil }
	src, err := d.Prepare(storage.Request{ContainerID: "big", Image: "i", Layer: layer, SizeBytes: 3 << 30}, save)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(src.Mount.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if got := st.Blocks * uint64(st.Bsize); got < 2900<<20 {
		t.Errorf("the file system has %s, want 3 GiB less its own", size(got))
	}
	src.Mount.Close()
	if err := d.Remove(c); err != nil {
		t.Error(err)
	}
	_, err = d.Prepare(storage.Request{ContainerID: "small", Image: "web", Layer: layer, SizeBytes: 1 << 20}, save)
	if err == nil || !strings.Contains(err.Error(), `a root of 1.0 MiB is smaller than image "web"`) {
		t.Errorf("a smaller root: %v", err)
	}
	// The bitmaps of a huge one filled the pool under all that ran.
	held0 := held(t, d)
	before, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Prepare(storage.Request{ContainerID: "huge", Image: "web", Layer: layer, SizeBytes: 1 << 50}, save)
	oneLine(t, err, ErrFull, "a disk of 1048576.0 GiB takes up to 256.0 GiB of that before anything is on it; take a smaller --rootfs-size, or run `thinrun pool grow`")
	same(t, "what is held", held0, held(t, d))
	if after, err := d.Status(); err != nil || after.Data != before.Data {
		t.Errorf("the refused start changed the pool: %+v, before %+v, %v", after.Data, before.Data, err)
	}
}

// loops are two block devices, and the files below them.
func loops(t *testing.T, data, meta uint64) (paths []string, devices []*os.File) {
	t.Helper()
	var nodes devnode.Nodes
	t.Cleanup(func() { nodes.Close() }) // after the pools' own clean-ups
	dir := t.TempDir()
	for i, bytes := range []uint64{data, meta} {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := f.Truncate(int64(bytes)); err != nil {
			t.Fatal(err)
		}
		dev, err := loop.Attach(&nodes, f)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { dev.Close() })
		paths, devices = append(paths, dev.File.Name()), append(devices, dev.File)
	}
	return paths, devices
}

// TestSharedDevices: a device belongs to one pool, and to one half of it, active or not.
func TestSharedDevices(t *testing.T) {
	needKernel(t)
	paths, _ := loops(t, 128*mib, 128*mib)
	more, _ := loops(t, 128*mib, 128*mib)
	d := fresh(t, Options{Pool: PoolOptions{DataDevice: paths[0], MetadataDevice: paths[0], BaseBytes: gib}})
	if err := d.CreatePool(d.opts.Pool); err == nil || !strings.Contains(err.Error(), "are one device") {
		t.Errorf("one device for both: %v", err)
	}
	o := PoolOptions{DataDevice: paths[0], MetadataDevice: paths[1], BaseBytes: gib}
	if err := d.CreatePool(o); err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, active := range []bool{true, false} {
		if !active {
			deactivate(t, d)
		}
		for _, theirs := range []PoolOptions{o, {DataDevice: paths[0], MetadataDevice: more[1]}, {DataDevice: more[0], MetadataDevice: paths[1]}} {
			theirs.BaseBytes = gib
			err := other.CreatePool(theirs)
			if err == nil || !strings.Contains(err.Error(), paths[0]) && !strings.Contains(err.Error(), paths[1]) || strings.Contains(err.Error(), "\n") {
				t.Errorf("another storage, active %v, %+v: %v, want one line with the device", active, theirs, err)
			}
			if _, err := other.Status(); !errors.Is(err, ErrNoPool) {
				t.Errorf("left by the refused pool: %v", err)
			}
		}
	}
	if layer := image(t, d); try(d, layer) != nil {
		t.Error("the pool whose devices others wanted")
	}
}

// TestForeignFiles: a pool's file in another pool's place, on a device too.
func TestForeignFiles(t *testing.T) {
	d, other := fresh(t, Options{}), fresh(t, Options{})
	layer := image(t, d)
	image(t, other)
	if err := d.CreatePool(small()); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), "`thinrun pool destroy`") {
		t.Errorf("a second pool in one directory: %v", err)
	}
	for _, name := range []string{"data", "meta"} {
		deactivate(t, d)
		deactivate(t, other)
		mine, theirs := filepath.Join(d.dir, name), filepath.Join(other.dir, name)
		swap := func() {
			if err := unix.Renameat2(unix.AT_FDCWD, mine, unix.AT_FDCWD, theirs, unix.RENAME_EXCHANGE); err != nil {
				t.Fatal(err)
			}
		}
		swap()
		before := sums(t, d)
		oneLine(t, try(d, layer), ErrForeign, "")
		if after := sums(t, d); after != before {
			t.Errorf("%s: the foreign files have changed", name)
		}
		swap()
		if err := try(d, layer); err != nil {
			t.Errorf("with its own %s: %v", name, err)
		}
	}
	deactivate(t, d) // the other one is destroyed first, and counts devices
}

// TestForeignDevice: the metadata device has been given to somebody else meanwhile.
func TestForeignDevice(t *testing.T) {
	needKernel(t)
	paths, _ := loops(t, 128*mib, 128*mib)
	d := fresh(t, Options{Pool: PoolOptions{DataDevice: paths[0], MetadataDevice: paths[1], BaseBytes: gib}})
	layer := image(t, d)
	deactivate(t, d)
	// Through the file below: the device's own cache may be older.
	name, err := os.ReadFile("/sys/block/" + filepath.Base(paths[1]) + "/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	below, err := os.OpenFile(strings.TrimSpace(string(name)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	put := func(content []byte) {
		t.Helper()
		_, err := below.WriteAt(content, 0)
		if err = errors.Join(err, below.Sync()); err != nil {
			t.Fatal(err)
		}
	}
	var saved, now [4096]byte
	if _, err := below.ReadAt(saved[:], 0); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"zeros": make([]byte, 4096), "text": bytes.Repeat([]byte("not a pool "), 400)[:4096]} {
		put(content)
		err := try(d, layer)
		if err == nil || !strings.Contains(err.Error(), paths[1]) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with %s", name, err, paths[1])
		}
		if _, err := below.ReadAt(now[:], 0); err != nil || !bytes.Equal(now[:], content) {
			t.Errorf("%s: the device has been written to (%v)", name, err)
		}
	}
	put(saved[:])
	if err := try(d, layer); err != nil {
		t.Error(err)
	}
}

// TestGrowDevices: what a device has become larger by is taken up by grow, and only then.
func TestGrowDevices(t *testing.T) {
	needKernel(t)
	paths, devices := loops(t, 128*mib, 128*mib)
	d := fresh(t, Options{Pool: PoolOptions{DataDevice: paths[0], MetadataDevice: paths[1], BaseBytes: gib}})
	layer := image(t, d)
	if _, err := d.Grow(GrowOptions{}); !errors.Is(err, ErrNoRoom) || !strings.Contains(err.Error(), paths[0]+" is as large as before") {
		t.Errorf("grow of devices that have not grown: %v", err)
	}
	if _, err := d.Grow(GrowOptions{AddData: gib}); err == nil || !strings.Contains(err.Error(), paths[0]+" is a device") {
		t.Errorf("a size for a device: %v", err)
	}
	name, err := os.ReadFile("/sys/block/" + filepath.Base(paths[0]) + "/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(strings.TrimSpace(string(name)), 192<<20); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(devices[0].Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		t.Fatal(err)
	}
	deactivate(t, d)
	if err := try(d, layer); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Status(); err != nil || s.Data.TotalBytes != 128*mib {
		t.Errorf("before grow: %+v, %v", s.Data, err)
	}
	src, _ := prepared(t, d, layer)
	got, err := d.Grow(GrowOptions{})
	if want := (Grown{128 * mib, 192 * mib, 128 * mib, 128 * mib}); err != nil || got != want {
		t.Errorf("grown %+v, %v; want %+v", got, err, want)
	}
	if err := writeSync(src.Mount, "f", 150); err != nil {
		t.Error(err)
	}
	src.Mount.Close()
	deactivate(t, d)
	if err := try(d, layer); err != nil {
		t.Error(err)
	}
}

// TestDevices: given block devices instead of files; a device with something on it is
// refused, and after destroy the devices are blank for the next pool.
func TestDevices(t *testing.T) {
	needKernel(t)
	paths, files := loops(t, 128*mib, 128*mib)
	o := PoolOptions{DataDevice: paths[0], MetadataDevice: paths[1], BaseBytes: 1 << 30}
	if _, err := files[0].WriteAt([]byte("precious"), 1000); err != nil {
		t.Fatal(err)
	}
	d := fresh(t, Options{Pool: o})
	_, err := d.NewLayer("")
	if err == nil || !strings.Contains(err.Error(), paths[0]+" is not blank") {
		t.Errorf("a device with data: %v", err)
	}
	if _, err := files[0].WriteAt(make([]byte, 8), 1000); err != nil {
		t.Fatal(err)
	}
	layer := image(t, d)
	if err := try(d, layer); err != nil {
		t.Fatal(err)
	}
	s, err := d.Status()
	if err != nil || s.Data.File || s.Data.Device != paths[0] || s.Data.TotalBytes != 128<<20 || s.Clock == 0 {
		t.Errorf("status %+v, %v", s, err)
	}
	deactivate(t, d)
	if err := try(d, layer); err != nil {
		t.Errorf("activated again: %v", err)
	}
	destroyed(t, d)
	image(t, fresh(t, Options{Pool: o}))
}

// TestReturnSpace: with a sparse data file a removed container's blocks go back to the
// host.
func TestReturnSpace(t *testing.T) {
	o := small()
	o.ReturnSpace = true
	d := fresh(t, Options{Pool: o})
	layer := image(t, d)
	used := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(d.dir, "data"), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	before := used()
	src, c := prepared(t, d, layer)
	if err := writeSync(src.Mount, "f", 50); err != nil {
		t.Fatal(err)
	}
	if now := used(); now < before+40<<20 {
		t.Errorf("50 MiB written, the file went from %d to %d bytes", before, now)
	}
	src.Mount.Close()
	if err := d.Remove(c); err != nil {
		t.Fatal(err)
	}
	if now := used(); now > before+10<<20 {
		t.Errorf("after the removal the file holds %d bytes, before the container %d", now, before)
	}
}

// TestFileSystemsAreClean: the base, a layer and a container's root, by e2fsck.
func TestFileSystemsAreClean(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	for _, id := range []string{p.base, layer} {
		l, err := d.layer(id)
		if err != nil {
			t.Fatal(err)
		}
		dev, err := p.raise(l.thin, l.bytes)
		if err != nil {
			t.Fatal(err)
		}
		fsck, err := exec.LookPath("e2fsck")
		if err != nil {
			fsck = "/usr/sbin/e2fsck"
		}
		if out, err := exec.Command(fsck, "-fn", dev.Node()).CombinedOutput(); err != nil {
			t.Errorf("e2fsck of layer %s: %v\n%s", id, err, out)
		}
		if err := p.removeDevice(dev.Name); err != nil {
			t.Error(err)
		}
	}
	if p.kernel.dataUsed*p.blockBytes() > 16*mib {
		t.Errorf("an empty base and a layer of one file use %s of the pool", size(p.kernel.dataUsed*p.blockBytes()))
	}
}

// TestWithoutDev: a /dev that has none of the nodes.
func TestWithoutDev(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	deactivate(t, d)
	if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, ""); err != nil { // in this test's own mount namespace
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount("/dev", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if err := Supported(); err != nil {
		t.Error(err)
	}
	o := again(t, d)
	if err := try(o, layer); err != nil {
		t.Error(err)
	}
	if _, err := d.Grow(GrowOptions{AddData: 32 * mib}); err != nil {
		t.Error(err)
	}
}

func TestMissingPool(t *testing.T) {
	d, err := Open(filepath.Join(t.TempDir(), "none"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Status(); !errors.Is(err, ErrNoPool) {
		t.Errorf("status: %v", err)
	}
	if _, err := d.GC(); err != nil {
		t.Errorf("gc: %v", err)
	}
	if err := d.Remove(storage.Claim{Driver: Name, ThinID: 5, Device: "thinrun-x", Key: "k"}); err != nil {
		t.Errorf("remove: %v", err)
	}
	if err := d.RemoveLayer("000001-00000001"); err != nil {
		t.Errorf("remove layer: %v", err)
	}
	if _, err := os.Lstat(d.storage); err == nil {
		t.Error("asking has made the directory")
	}
}

func TestParseStatus(t *testing.T) {
	for _, test := range []struct {
		line string
		want kernelStatus
		bad  bool
	}{
		{line: "1 1649/16384 0/16384 - rw discard_passdown queue_if_no_space - 1024",
			want: kernelStatus{1, 1649, 16384, 0, 16384, "-", "rw", false, true}},
		{line: "18446744073709551615 1/2 3/4 783 out_of_data_space no_discard_passdown error_if_no_space - 0",
			want: kernelStatus{1<<64 - 1, 1, 2, 3, 4, "783", "out_of_data_space", false, false}},
		{line: "0 1/2 3/4 - ro no_discard_passdown error_if_no_space needs_check 0",
			want: kernelStatus{0, 1, 2, 3, 4, "-", "ro", true, false}},
		{line: "Fail", want: kernelStatus{mode: "Fail"}},
		{line: "Error", want: kernelStatus{mode: "Error"}},
		{line: "", bad: true},
		{line: "1 2 3", bad: true},
		{line: "x 1/2 3/4 - rw a b - 0", bad: true},
		{line: "1 1/x 3/4 - rw a b - 0", bad: true},
		{line: "1 1/2 3 - rw a b - 0", bad: true},
	} {
		got, err := parseStatus(test.line)
		if (err != nil) != test.bad || !test.bad && got != test.want {
			t.Errorf("%q: %+v, %v; want %+v", test.line, got, err, test.want)
		}
	}
}

func TestRecord(t *testing.T) {
	text := lines("name", "a \"b\"\nc", "n", uint32(7), "yes", true, "no", false, "empty", "")
	r, err := parseRecord("r", text)
	if err != nil || r.str("name") != "a \"b\"\nc" || r.num("n") != 7 || !r.yes("yes") || r.yes("no") || r.str("empty") != "" {
		t.Errorf("%q reads as %q, %v", text, r, err)
	}
	for i := range text {
		if _, err := parseRecord("r", text[:i]); !errors.Is(err, errCut) {
			t.Errorf("%q: %v, want %v", text[:i], err, errCut)
		}
	}
	if _, err := parseRecord("r", []byte("nonsense\nend\n")); err == nil || errors.Is(err, errCut) {
		t.Errorf("nonsense: %v", err)
	}
}
