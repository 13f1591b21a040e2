package devmapper

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper/dm"
)

// writer is a process with a container's root that writes until it is killed.
type writer struct {
	cmd  *exec.Cmd
	said *bufio.Reader
	gate io.WriteCloser
}

// writing starts one: "own" rewrites its own file, one round for each line that it is
// sent; "hog" writes new files, says the first error, and goes on trying.
func writing(t *testing.T, what string, mnt *os.File) *writer {
	t.Helper()
	cmd := act{Do: what}.command(t)
	cmd.ExtraFiles = []*os.File{mnt}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	gate, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := &writer{cmd, bufio.NewReader(out), gate}
	t.Cleanup(func() { w.kill(t) })
	return w
}

func (w *writer) line(t *testing.T) string {
	t.Helper()
	line, err := w.said.ReadString('\n')
	if err != nil {
		t.Errorf("the writer says no more: %v", err)
	}
	return strings.TrimSpace(line)
}

// round lets an "own" write and waits for what came of it.
func (w *writer) round(t *testing.T) string {
	t.Helper()
	io.WriteString(w.gate, "go\n")
	return w.line(t)
}

// kill ends it. A process that cannot be killed keeps Wait, and the test fails by its
// time limit.
func (w *writer) kill(t *testing.T) {
	if w.cmd.ProcessState == nil {
		w.cmd.Process.Kill()
		w.cmd.Wait()
	}
}

// write is the process: descriptor 3 is the root.
func (a act) write() error {
	root := os.NewFile(3, "root")
	switch a.Do {
	case "own":
		f, err := openIn(root, "own", unix.O_RDWR|unix.O_CREAT)
		if err != nil {
			return err
		}
		piece := make([]byte, 256<<10)
		in := bufio.NewReader(os.Stdin)
		for n := byte(0); ; n++ {
			if _, err := in.ReadString('\n'); err != nil {
				return nil
			}
			for i := range piece {
				piece[i] = n
			}
			_, err := f.WriteAt(piece, 0)
			fmt.Println(errors.Join(err, f.Sync()))
		}
	case "hog":
		said := false
		for n := 0; ; n++ {
			err := writeSync(root, fmt.Sprint("hog", n), 4)
			if err != nil && !said {
				said = true
				fmt.Println(err)
			}
		}
	}
	return fmt.Errorf("act %q", a.Do)
}

// settledJournal writes so many changes of metadata that the file system's journal (32
// MiB) has gone round once: from then on all of it is the container's own. Before, each
// commit may need a block that a full pool does not have.
func settledJournal(t *testing.T, mnt *os.File) {
	t.Helper()
	root, err := openRoot(mnt)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	const files = 4000
	for i := range files {
		if err := writeIn(mnt, fmt.Sprint("inode", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 45 {
		for i := 0; i < files; i += 16 { // one in each block of the inode table
			if err := unix.Fchmodat(int(root.Fd()), fmt.Sprint("inode", i), uint32(0o400+round), 0); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Syncfs(int(root.Fd())); err != nil {
			t.Fatal(err)
		}
	}
}

// noneInD: no process sleeps for good where it cannot be killed. The kernel's own do for a
// moment while they write, so it is enough to find each of them out of it once.
func noneInD(t *testing.T) {
	t.Helper()
	stuck := inD()
	for deadline := time.Now().Add(5 * time.Minute); len(stuck) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in D state: %q", stuck)
		}
		now := inD()
		stuck = slices.DeleteFunc(stuck, func(process string) bool { return !slices.Contains(now, process) })
	}
}

func inD() (list []string) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		text := string(b)
		if name := text[:strings.LastIndexByte(text, ')')+1]; strings.HasPrefix(text[len(name):], " D") {
			list = append(list, name)
		}
	}
	return list
}

// replayed is isClean of a root that may have been read-only after an error: its journal is
// replayed first, by a mount.
func replayed(t *testing.T, d *Driver, id uint32, bytes uint64) {
	t.Helper()
	p, err := d.enter()
	if err != nil {
		t.Fatal(err)
	}
	dev, err := p.raise(id, bytes)
	if err != nil {
		t.Fatal(err)
	}
	mnt, err := p.mount(dev, false)
	if err != nil {
		t.Error(err)
	} else if err := mnt.Close(); err != nil {
		t.Error(err)
	}
	if err := p.removeDevice(dev.Name); err != nil {
		t.Fatal(err)
	}
	p.leave()
	isClean(t, d, id, bytes)
}

// layersClean checks all sealed layers and the base.
func layersClean(t *testing.T, d *Driver) {
	t.Helper()
	layers, err := d.layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		isClean(t, d, l.thin, l.bytes)
	}
}

// begin tries to start something, and gives back what there is of it later.
func (f *failing) begin(t *testing.T, layer string) error {
	t.Helper()
	src, c, err := prepare(f.Driver, "late", layer)
	if err == nil {
		src.Mount.Close()
	}
	if c.Driver != "" {
		f.late = append(f.late, c)
	}
	return err
}

func start(t *testing.T, d *Driver, name, layer string) (storage.Source, storage.Claim) {
	t.Helper()
	src, c, err := prepare(d, name, layer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Mount.Close(); d.Remove(c) })
	return src, c
}

// goesOn: a container that writes what it has does not notice.
func goesOn(t *testing.T, when string, w *writer) {
	t.Helper()
	for range 20 {
		if said := w.round(t); said != "<nil>" {
			t.Errorf("%s: a container that writes to what it owns gets %q", when, said)
			return
		}
	}
}

// TestDataFull: the pool is full. Who needs a block gets ENOSPC or EIO and can be killed;
// who writes to what it has goes on; nothing new starts; deleting or growing heals it.
func TestDataFull(t *testing.T) {
	d := onDisk(t, PoolOptions{DataBytes: 256 * mib, MetaBytes: 8 * mib, BaseBytes: gib, LowWater: 16 * mib, MaxBytes: 256 * mib})
	layer := image(t, d)
	mine, c1 := start(t, d, "mine", layer)
	settledJournal(t, mine.Mount)
	own := writing(t, "own", mine.Mount)
	goesOn(t, "before", own)
	for _, heal := range []string{"delete", "grow"} {
		src, c := start(t, d, "hog", layer)
		hog := writing(t, "hog", src.Mount)
		if said := hog.line(t); !isFull(said) {
			t.Errorf("the hog gets %q", said)
		}
		goesOn(t, "data full", own)
		s, err := d.Status()
		if err != nil || s.Mode != "out_of_data_space" || !strings.Contains(s.Problem, ErrFull.Error()) {
			t.Errorf("status: %+v, %v", s, err)
		}
		oneLine(t, try(d, layer), ErrFull, "`thinrun pool grow`")
		if _, err := d.NewLayer(""); !errors.Is(err, ErrFull) {
			t.Errorf("a layer: %v", err)
		}
		if heal == "grow" {
			if _, err := d.Grow(GrowOptions{AddData: 64 * mib, MaxBytes: 512 * mib}); err != nil {
				t.Error(err)
			}
		}
		hog.kill(t)
		src.Mount.Close()
		noneInD(t)
		if heal == "grow" {
			replayed(t, d, c.ThinID, gib)
		}
		if err := d.Remove(c); err != nil {
			t.Error(err)
		}
		if err := try(d, layer); err != nil {
			t.Errorf("after %s: %v", heal, err)
		}
		goesOn(t, "after "+heal, own)
	}
	own.kill(t)
	mine.Mount.Close()
	isClean(t, d, c1.ThinID, gib)
	layersClean(t, d)
}

func isFull(said string) bool {
	return strings.Contains(said, unix.ENOSPC.Error()) || strings.Contains(said, unix.EIO.Error()) || strings.Contains(said, unix.EROFS.Error())
}

// mappedLayer is a layer with a large file, whose mappings take some metadata: whoever
// rewrites a little of it everywhere copies them.
func mappedLayer(t *testing.T, d *Driver, bytes int64) string {
	t.Helper()
	return sealed(t, d, "", func(root *os.File) error { return scatter(root, bytes, 64<<10) })
}

// garbage takes metadata until so many blocks are used: each thin device takes one, and
// none of data.
func garbage(t *testing.T, d *Driver, until uint64) {
	t.Helper()
	p, err := d.enter()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	for p.kernel.metaUsed < until {
		if err := p.message("create_thin %d", p.newID()); err != nil && !errors.Is(err, unix.EEXIST) { // of 500 random ids, once in 130 times
			t.Fatal(err)
		}
	}
}

// TestMetadataFullAndRebooted: there is not even metadata to delete what the boot has made
// garbage. To grow the pool is the cure, and may be the first command.
func TestMetadataFullAndRebooted(t *testing.T) {
	d := onDisk(t, PoolOptions{DataBytes: 512 * mib, MetaBytes: 2 * mib, BaseBytes: gib, LowWater: 16 * mib, MaxBytes: 512 * mib})
	const bytes = 200 << 20
	layer := mappedLayer(t, d, bytes)
	ballast := fillHost(t, d, mib)
	src, c := start(t, d, "hog", layer)
	garbage(t, d, 506)
	if err := scatter(src.Mount, bytes, 5<<20); err == nil {
		t.Error("the metadata is not full")
	}
	src.Mount.Close()
	deactivate(t, d)
	_, err := d.GC()
	oneLine(t, err, ErrReadOnly, "`thinrun pool grow")
	if err != nil && strings.Count(err.Error(), "pool "+d.dir) != 1 {
		t.Errorf("%v: says twice where", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	deactivate(t, d)
	if _, err := d.Grow(GrowOptions{AddMeta: 8 * mib}); err != nil { // the first command after the boot
		t.Error(err)
	}
	if c, err := d.GC(); err != nil || len(c.Removed) < 100 {
		t.Errorf("gc: %d, %v", len(c.Removed), err)
	}
	if err := errors.Join(d.Remove(c), try(d, layer)); err != nil {
		t.Error(err)
	}
}

// TestMetadataFullRunning: out of metadata, on a host that has no room to grow it. The
// kernel makes the pool read-only; growing makes it writable again.
func TestMetadataFullRunning(t *testing.T) {
	d := onDisk(t, PoolOptions{DataBytes: 512 * mib, MetaBytes: 2 * mib, BaseBytes: gib, LowWater: 16 * mib, MaxBytes: 512 * mib})
	const bytes = 200 << 20
	layer := mappedLayer(t, d, bytes)
	mine, c1 := start(t, d, "mine", layer)
	settledJournal(t, mine.Mount)
	own := writing(t, "own", mine.Mount)
	goesOn(t, "before", own)
	var hogs []storage.Source
	var claims []storage.Claim
	ballast := fillHost(t, d, mib) // the claims need a little
	for i := range 4 {
		src, c := start(t, d, fmt.Sprint("hog", i), layer)
		hogs, claims = append(hogs, src), append(claims, c)
	}
	garbage(t, d, 470)
	oneLine(t, try(d, layer), ErrMetaFull, "`thinrun pool grow`")
	garbage(t, d, 506)
	full := 0 // each rewrites a little everywhere, which copies the leaves of its mappings
	for _, src := range hogs {
		if err := scatter(src.Mount, bytes, 5<<20); err != nil {
			full++
		}
	}
	s, err := d.Status()
	t.Logf("%d of %d got an error; %s, metadata %d of %d: %s; %v", full, len(hogs), s.Mode, s.Metadata.UsedBytes/4096, s.Metadata.TotalBytes/4096, s.Problem, err)
	if full == 0 || s.Mode != "ro" || s.NeedsCheck {
		t.Errorf("the metadata is not full: %+v", s)
	}
	goesOn(t, "metadata full", own)
	noneInD(t)
	oneLine(t, try(d, layer), ErrReadOnly, "`thinrun pool grow")
	hogs[0].Mount.Close()
	oneLine(t, d.Remove(claims[0]), ErrReadOnly, "`thinrun pool grow")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Grow(GrowOptions{AddMeta: 8 * mib}); err != nil {
		t.Error(err)
	}
	for i := range hogs {
		hogs[i].Mount.Close()
		if err := d.Remove(claims[i]); err != nil {
			t.Error(err)
		}
	}
	if err := try(d, layer); err != nil {
		t.Error(err)
	}
	goesOn(t, "grown", own)
	own.kill(t)
	mine.Mount.Close()
	isClean(t, d, c1.ThinID, gib)
	layersClean(t, d)
}

// scatter writes 4 KiB every so many bytes into a file, and waits until they are written.
func scatter(root *os.File, bytes, every int64) error {
	f, err := openIn(root, "scattered", unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, bytes); err != nil {
		return errors.Join(err, f.Close())
	}
	piece := make([]byte, 4096)
	piece[0] = 1
	for at := int64(0); at < bytes && err == nil; at += every {
		_, err = f.WriteAt(piece, at)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// fillHost takes all of the disk that the pool's files are on, less so many bytes.
func fillHost(t *testing.T, d *Driver, less uint64) string {
	t.Helper()
	path := filepath.Join(d.storage, "ballast")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end := int64(0)
	for _, step := range []int64{1 << 30, 64 << 20, 1 << 20, 4 << 10} {
		for unix.Fallocate(int(f.Fd()), 0, end, step) == nil {
			end += step
		}
	}
	if err := f.Truncate(end - int64(less)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHostFull: the disk below the pool's files is full. With preallocated files nothing
// happens at all; with a sparse one nothing new starts, and who needs new blocks gets EIO.
func TestHostFull(t *testing.T) {
	for _, sparse := range []bool{false, true} {
		t.Run(fmt.Sprintf("return space %v", sparse), func(t *testing.T) {
			d := onDisk(t, PoolOptions{DataBytes: 256 * mib, MetaBytes: 8 * mib, BaseBytes: gib, LowWater: 16 * mib, ReturnSpace: sparse})
			layer := image(t, d)
			mine, c1 := start(t, d, "mine", layer)
			settledJournal(t, mine.Mount)
			own := writing(t, "own", mine.Mount)
			goesOn(t, "before", own)
			src, c := start(t, d, "hog", layer)
			spare := image(t, d)
			ballast := fillHost(t, d, 0)
			if !sparse {
				if err := writeSync(src.Mount, "f", 64); err != nil {
					t.Errorf("new blocks of a preallocated file: %v", err)
				}
				// The claim of a start is a file there, too.
				if _, err := d.NewLayer(layer); !errors.Is(err, unix.ENOSPC) || strings.Contains(err.Error(), "\n") {
					t.Errorf("a layer: %v, want one line with %v", err, unix.ENOSPC)
				}
				goesOn(t, "host full", own)
				if err := d.RemoveLayer(spare); err != nil {
					t.Errorf("remove a layer: %v", err)
				}
				oneLineAny(t, second(d.Grow(GrowOptions{AddData: gib})), ErrNoRoom)
			} else {
				hog := writing(t, "hog", src.Mount)
				if said := hog.line(t); !isFull(said) {
					t.Errorf("the hog gets %q", said)
				}
				goesOn(t, "host full", own)
				s, err := d.Status()
				if err != nil || s.Mode != "rw" {
					t.Errorf("%+v, %v", s, err)
				}
				oneLine(t, try(d, layer), ErrFull, "its file is sparse")
				hog.kill(t)
			}
			noneInD(t)
			src.Mount.Close()
			if err := d.Remove(c); err != nil {
				t.Error(err)
			}
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			if err := try(d, layer); err != nil {
				t.Errorf("with space again: %v", err)
			}
			goesOn(t, "with space again", own)
			own.kill(t)
			mine.Mount.Close()
			isClean(t, d, c1.ThinID, gib)
			layersClean(t, d)
		})
	}
}

func second[T any](_ T, err error) error { return err }

func oneLineAny(t *testing.T, err, want error) {
	t.Helper()
	oneLine(t, err, want, "")
}

// failing is a pool on devices below which the lab can put an error.
type failing struct {
	*Driver
	ctl   *dm.Control
	late  []storage.Claim
	good  map[string]dm.Target
	nodes map[string]string
}

func onFailing(t *testing.T) *failing {
	t.Helper()
	needKernel(t)
	disks := strings.Fields(os.Getenv("LAB_DISKS"))
	if len(disks) < 2 {
		t.Fatal("no second scratch disk (labexec -disk 8G -disk 4G)")
	}
	d, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	ctl, err := d.dm()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(disks[1], &st); err != nil {
		t.Fatal(err)
	}
	f := &failing{d, ctl, nil, map[string]dm.Target{}, map[string]string{}}
	sectors := map[string]uint64{"meta": 16 << 11, "data": 256 << 11}
	at := uint64(0)
	for _, name := range []string{"meta", "data"} {
		n := sectors[name]
		f.good[name] = dm.Target{Length: n, Type: "linear", Params: fmt.Sprintf("%d:%d %d", unix.Major(st.Rdev), unix.Minor(st.Rdev), at)}
		at += n
		if _, err := ctl.Create("lab-"+name, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if _, err := ctl.Remove("lab-"+name, false); err != nil {
				t.Error(err)
			}
		})
		if _, err := ctl.Load("lab-"+name, f.good[name]); err != nil {
			t.Fatal(err)
		}
		dev, err := ctl.Resume("lab-" + name)
		if err != nil {
			t.Fatal(err)
		}
		f.nodes[name] = dev.Node()
		w, err := os.OpenFile(dev.Node(), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(make([]byte, mib))
		if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.CreatePool(PoolOptions{DataDevice: f.nodes["data"], MetadataDevice: f.nodes["meta"], BaseBytes: gib}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, name := range []string{"meta", "data"} {
			f.put(t, name, f.good[name])
		}
		if err := d.Destroy(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// put swaps what is below a device.
func (f *failing) put(t *testing.T, name string, target dm.Target) {
	t.Helper()
	target.Length = f.good[name].Length
	if _, err := f.ctl.Load("lab-"+name, target); err != nil {
		t.Fatal(err)
	}
	if err := f.ctl.Suspend("lab-"+name, dm.NoFlush|dm.SkipLockFS); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ctl.Resume("lab-" + name); err != nil {
		t.Fatal(err)
	}
}

// TestFailingDevices: one of the pool's devices fails, in whole or for writes only. Nothing
// new starts, all processes can be killed, and once the device is well and the pool has
// been checked it works again, without a reboot.
func TestFailingDevices(t *testing.T) {
	for _, name := range []string{"meta", "data"} {
		for _, how := range []string{"error", "flakey"} {
			t.Run(name+" "+how, func(t *testing.T) {
				f := onFailing(t)
				d := f.Driver
				layer := image(t, d)
				mine, c1 := start(t, d, "mine", layer)
				if name == "meta" && how == "flakey" {
					settledJournal(t, mine.Mount)
				}
				own := writing(t, "own", mine.Mount)
				goesOn(t, "before", own)
				src, c2 := start(t, d, "hog", layer)
				bad := dm.Target{Type: "error"}
				if how == "flakey" { // always down, and then writes fail
					bad = dm.Target{Type: "flakey", Params: f.good[name].Params + " 0 3600 1 error_writes"}
				}
				f.put(t, name, bad)
				hog := writing(t, "hog", src.Mount)
				if said := hog.line(t); !isFull(said) {
					t.Errorf("who needs a block gets %q", said)
				}
				if name == "meta" && how == "flakey" { // when it cannot even be read, the kernel lets nothing through
					goesOn(t, "metadata device fails", own)
				}
				err := f.begin(t, layer)
				t.Logf("a start: %v", err)
				if err == nil || strings.Contains(err.Error(), "\n") {
					t.Errorf("a start: %v, want one line", err)
				}
				s, err := d.Status()
				t.Logf("status: %s, %s; %v", s.Mode, s.Problem, err)
				if name == "meta" { // on a device that cannot be read, no check at all
					r, err := d.Check()
					if said := fmt.Sprint(r.Problems, err); r.OK || how == "flakey" && !strings.Contains(said, ErrNeedsCheck.Error()) {
						t.Errorf("a check: %+v, %v", r, err)
					}
				}
				hog.kill(t)
				own.kill(t)
				noneInD(t)
				f.put(t, name, f.good[name])
				src.Mount.Close()
				mine.Mount.Close()
				repaired := d.Repair()
				t.Logf("repair: %v", repaired)
				if name == "meta" { // a data device that loses writes loses the containers' own
					replayed(t, d, c1.ThinID, gib)
					replayed(t, d, c2.ThinID, gib)
				}
				for _, c := range append(f.late, c1, c2) {
					if err := d.Remove(c); err != nil {
						t.Errorf("remove: %v", err)
					}
				}
				if err := try(d, layer); err != nil {
					t.Errorf("with the device well again: %v", err)
				}
				if s, err := d.Status(); err != nil || s.Mode != "rw" || s.NeedsCheck || s.Problem != "" {
					t.Errorf("status %+v, %v", s, err)
				}
				layersClean(t, d)
				if r, err := d.Check(); err != nil || !r.OK {
					t.Errorf("check: %+v, %v", r, err)
				}
			})
		}
	}
}

// TestKilledRepair: SIGKILL before each step of a repair; the next one finishes it. With
// damaged metadata it refuses and changes nothing.
func TestKilledRepair(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	before := held(t, d)
	for n := 1; ; n++ {
		deactivate(t, d)
		patch(t, d, func(b []byte) { b[4] |= 1 })
		oneLine(t, try(d, layer), ErrNeedsCheck, "`thinrun pool check --repair`")
		died := act{Do: "repair", Storage: d.storage, KillAt: n}.start(t)
		if err := d.Repair(); err != nil {
			t.Errorf("killed before %q: %v", died, err)
		}
		if err := try(d, layer); err != nil {
			t.Errorf("killed before %q: %v", died, err)
		}
		same(t, "held after a kill before "+died, before, held(t, d))
		if died == "" {
			if n < 4 {
				t.Errorf("only %d steps", n-1)
			}
			break
		}
	}
	deactivate(t, d)
	var saved []byte
	patch(t, d, func(b []byte) {
		saved = append([]byte(nil), b...)
		b[4] |= 1
		b[320] ^= 0xff // where the mappings begin
	})
	sum := sums(t, d)
	if err := d.Repair(); !errors.Is(err, ErrNeedsCheck) || !strings.Contains(err.Error(), "thin_repair") || strings.Contains(err.Error(), "\n") {
		t.Errorf("repair of damaged metadata: %v", err)
	}
	if sums(t, d) != sum {
		t.Error("repair has changed damaged metadata")
	}
	patch(t, d, func(b []byte) { copy(b, saved) })
	src, _ := prepared(t, d, layer)
	if err := d.Repair(); err != nil {
		t.Errorf("repair of a pool that is well and in use: %v", err)
	}
	src.Mount.Close()
}

// TestKilledGrowingStart: a start that has to make room first, killed anywhere.
func TestKilledGrowingStart(t *testing.T) {
	needKernel(t)
	last := ""
	for n := 1; last != "claim"; n++ { // from there on it is like any start
		t.Run(fmt.Sprint("step ", n), func(t *testing.T) {
			d := fresh(t, Options{Pool: PoolOptions{DataBytes: 96 * mib, MetaBytes: 8 * mib, BaseBytes: gib, LowWater: 40 * mib, MaxBytes: 192 * mib}})
			layer := image(t, d)
			src, c := start(t, d, "c1", layer)
			if err := scatter(src.Mount, 60<<20, 64<<10); err != nil {
				t.Fatal(err)
			}
			claim := filepath.Join(t.TempDir(), "claim")
			last = act{Do: "prepare", Storage: d.storage, Layer: layer, Claim: claim, KillAt: n}.start(t)
			if c, err := loadClaim(claim); err == nil {
				if err := d.Remove(c); err != nil {
					t.Error(err)
				}
			}
			if err := try(d, layer); err != nil { // resumes a pool that was left suspended, too
				t.Errorf("killed before %q: %v", last, err)
			}
			if err := scatter(src.Mount, 60<<20, 64<<10); err != nil {
				t.Errorf("killed before %q: the container: %v", last, err)
			}
			s, err := d.Status()
			if err != nil || s.Data.TotalBytes != 192*mib {
				t.Errorf("killed before %q: %+v, %v; want it grown", last, s.Data, err)
			}
			src.Mount.Close()
			if err := d.Remove(c); err != nil {
				t.Error(err)
			}
		})
		if n > 15 {
			t.Fatalf("step %q after %d", last, n)
		}
	}
}
