package devmapper

import (
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper/thinmeta"
)

// aPool is a pool with two images of two layers each on one base layer.
func aPool(t *testing.T, d *Driver) (images []string) {
	t.Helper()
	if err := d.CreatePool(d.opts.Pool); err != nil {
		t.Fatal(err)
	}
	shared := aLayer(t, d, "", "shared", 300)
	for i := range 2 {
		images = append(images, aLayer(t, d, shared, fmt.Sprint("image", i), 100))
	}
	return images
}

// aLayer seals a layer with one file of so many blocks of 4 KiB.
func aLayer(t *testing.T, d *Driver, parent, name string, blocks int) string {
	t.Helper()
	return sealed(t, d, parent, func(root *os.File) error { return writeIn(root, name, noise(int64(blocks), 4096*blocks)) })
}

// aRoot is a container's root.
type aRoot struct {
	claim storage.Claim
	src   storage.Source
}

func root(t *testing.T, d *Driver, layer string) *aRoot {
	t.Helper()
	src, c, err := prepare(d, "c", layer)
	if err != nil {
		t.Fatal(err)
	}
	return &aRoot{c, src}
}

func (r *aRoot) remove(t *testing.T, d *Driver) {
	t.Helper()
	if err := errors.Join(r.src.Mount.Close(), d.Remove(r.claim)); err != nil {
		t.Error(err)
	}
}

// write fills a file with what the seed makes, and has it written out.
func (r *aRoot) write(t *testing.T, name string, seed int64, bytes int) {
	t.Helper()
	if err := writeIn(r.src.Mount, name, noise(seed, bytes)); err != nil {
		t.Fatal(err)
	}
	r.sync(t)
}

// has tells if a file holds what write made of the seed, and no more.
func (r *aRoot) has(t *testing.T, name string, seed int64, bytes int) bool {
	t.Helper()
	f, err := openIn(r.src.Mount, name, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, bytes+1)
	n, err := f.ReadAt(got, 0)
	if err != nil && err != io.EOF {
		t.Error(err)
	}
	return string(got[:n]) == string(noise(seed, bytes))
}

// noise is what a seed makes.
func noise(seed int64, bytes int) []byte {
	b := make([]byte, bytes)
	rand.New(rand.NewSource(seed)).Read(b)
	return b
}

func (r *aRoot) sync(t *testing.T) {
	t.Helper()
	f, err := openRoot(r.src.Mount)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}

// thinTool runs one of thin-provisioning-tools on a copy of an active pool's metadata as it
// was committed last; those tools want a pool for themselves.
func thinTool(t *testing.T, d *Driver, args ...string) (string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta")
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	err = p.still(func() error {
		b, err := os.ReadFile(p.meta.path)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(args[0], append(args[1:], path)...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is missing in the lab (Debian: thin-provisioning-tools)", args[0])
	}
	return string(out), err
}

// TestReadersHoldWritersUp: what is read while somebody commits all the time is read from
// a suspended pool, which lives on afterwards and was never given a metadata snapshot: a
// power cut while one is made or given back destroys the pool.
func TestReadersHoldWritersUp(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	r := root(t, d, images[0])
	defer r.remove(t, d)
	r.write(t, "own", 7, 2<<20)
	p, err := d.enter()
	if err != nil {
		t.Fatal(err)
	}
	var got []uint32
	var suspended bool
	err = p.consistent(0, func(meta io.ReaderAt, sb *thinmeta.Superblock) error { // 0: as if all attempts were in vain
		info, err := p.ctl.Info(p.name())
		suspended = err == nil && info.Suspended
		thins, err := sb.Thins(meta)
		for _, thin := range thins {
			got = append(got, thin.ID)
		}
		if sb.HeldRoot != 0 {
			t.Errorf("a metadata snapshot at %d", sb.HeldRoot)
		}
		return err
	})
	p.leave()
	if err != nil || len(got) != 5 || !suspended {
		t.Errorf("%v, %v, suspended %v; want the base, three layers and a container", got, err, suspended)
	}
	r.write(t, "after", 7, 1<<20)
}

// TestReadersWaitForStarts: to a start that has sent the pool a message, a suspended pool
// is none. So who wants to read a suspended one waits until nobody is at work.
func TestReadersWaitForStarts(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	sending, suspended, started := make(chan bool), make(chan bool), make(chan bool)
	reads := make(chan error, 1)
	reader, err := Open(d.storage, Options{Step: func(name string) {
		if name == "pool is suspended" {
			close(suspended)
			<-started
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	starter, err := Open(d.storage, Options{Step: func(name string) {
		if name == "create_snap" {
			close(sending)
			waitForWaiter(t, d.dir+"/lock", suspended)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer starter.Close()
	go func() {
		<-sending
		p, err := reader.enter()
		if err == nil {
			err = p.consistent(0, func(io.ReaderAt, *thinmeta.Superblock) error { return nil })
			p.leave()
		}
		reads <- err
	}()
	src, claim, err := prepare(starter, "c", images[0])
	close(started)
	if err != nil {
		t.Errorf("start beside a reader: %v", err)
	} else {
		src.Mount.Close()
	}
	if err := errors.Join(<-reads, d.Remove(claim)); err != nil {
		t.Error(err)
	}
}

// waitForWaiter waits until somebody waits for a file's lock, or over is closed. There is no
// event for it.
func waitForWaiter(t *testing.T, path string, over chan bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Error(err)
		return
	}
	for {
		locks, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Error(err)
			return
		}
		for line := range strings.Lines(string(locks)) {
			if strings.Contains(line, "->") && strings.Contains(line, fmt.Sprintf(":%d ", st.Ino)) {
				return
			}
		}
		select {
		case <-over:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// TestReadersDoNotHoldWritersUpForLong: what cannot be read in time is not read.
func TestReadersDoNotHoldWritersUpForLong(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	p, err := d.enter()
	if err != nil {
		t.Fatal(err)
	}
	err = p.consistent(0, func(meta io.ReaderAt, _ *thinmeta.Superblock) error {
		for {
			if _, err := thinmeta.ReadSuperblock(meta, 0); err != nil {
				return err
			}
		}
	})
	p.leave()
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "too long") {
		t.Errorf("got %v, want %v", err, ErrInUse)
	}
	r := root(t, d, images[0])
	r.write(t, "f", 1, 1<<20)
	r.remove(t, d)
}

// TestDisksDoNotWait: who has the pool to itself keeps nobody from being told what else
// there is to tell.
func TestDisksDoNotWait(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	r := root(t, d, images[0])
	defer r.remove(t, d)
	claims := []storage.Claim{r.claim}
	alone, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	if disks, err := d.DisksOf(claims); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("while another has the pool: %v, %v", disks, err)
	}
	alone.leave()
	if disks, err := d.DisksOf(claims); err != nil || disks[0] == nil {
		t.Errorf("afterwards: %v, %v", disks, err)
	}
}

// TestUsageOfAnInactivePool is read from its file, and leaves it inactive.
func TestUsageOfAnInactivePool(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	want, err := d.Exclusive(map[string][]string{"a": images[:1]})
	if err != nil {
		t.Fatal(err)
	}
	deactivate(t, d)
	got, err := d.Exclusive(map[string][]string{"a": images[:1]})
	if err != nil || got["a"] != want["a"] {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if left := devices(t, d); len(left) != 0 {
		t.Errorf("devices: %q", left)
	}
}

// TestListAgreesWithThinLs with some thousand ids.
func TestListAgreesWithThinLs(t *testing.T) {
	d := fresh(t, Options{})
	aPool(t, d)
	p, err := d.enterAlone()
	if err != nil {
		t.Fatal(err)
	}
	base, err := p.layer(p.base)
	if err != nil {
		t.Fatal(err)
	}
	const many = 3000
	for i := range many {
		if err := p.ctl.Message(p.name(), fmt.Sprintf("create_snap %d %d", 1+i*5, base.thin)); err != nil && !errors.Is(err, unix.EEXIST) {
			t.Fatal(err)
		}
	}
	thins, err := p.thins()
	p.leave()
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, thin := range thins {
		fmt.Fprintln(&got, thin.ID, thin.Mapped, thin.Transaction, thin.Created, thin.Snapshotted)
	}
	out, err := thinTool(t, d, "thin_ls", "--no-headers", "--format", "DEV,MAPPED_BLOCKS,TRANSACTION,CREATE_TIME,SNAP_TIME")
	if err != nil {
		t.Fatal(err, out)
	}
	var want strings.Builder
	for line := range strings.Lines(out) {
		fmt.Fprintln(&want, strings.Join(strings.Fields(line), " "))
	}
	if got.String() != want.String() || len(thins) < many {
		t.Errorf("%d ids; ours\n%.200s\nthin_ls\n%.200s", len(thins), got.String(), want.String())
	}
	c, err := d.GC()
	if err != nil || len(c.Removed) < many-5 {
		t.Errorf("gc took %d of %d, %v", len(c.Removed), many, err)
	}
	if r, err := d.Check(); err != nil || !r.OK || r.Leaked != 0 || r.Thins != 4 {
		t.Errorf("afterwards: %+v, %v", r, err)
	}
}
