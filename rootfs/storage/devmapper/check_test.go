package devmapper

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// churn does something to a pool that a pool is for, at random, without our records: what
// it makes is garbage by them, which is no fault.
type churn struct {
	p   *pool
	rnd *rand.Rand
	ids []uint32
}

func (c *churn) step(t *testing.T) {
	t.Helper()
	say := func(format string, args ...any) {
		if err := c.p.ctl.Message(c.p.name(), fmt.Sprintf(format, args...)); err != nil {
			t.Fatal(err)
		}
	}
	pick := func() uint32 { return c.ids[c.rnd.Intn(len(c.ids))] }
	switch n := c.rnd.Intn(10); {
	case len(c.ids) < 3 || n < 3:
		id := uint32(c.rnd.Intn(maxID))
		for _, have := range c.ids {
			if have == id {
				return
			}
		}
		say("create_snap %d %d", id, pick())
		c.ids = append(c.ids, id)
	case n < 4 && len(c.ids) > 4:
		i := 1 + c.rnd.Intn(len(c.ids)-1)
		say("delete %d", c.ids[i])
		c.ids = append(c.ids[:i], c.ids[i+1:]...)
	default:
		if c.ids[0] == pick() {
			return // the base
		}
		dev, err := c.p.raise(c.ids[len(c.ids)-1], 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.p.openThin(dev)
		if err != nil {
			t.Fatal(err)
		}
		for range c.rnd.Intn(40) {
			at := uint64(c.rnd.Intn(1<<30/65536)) * 65536
			if c.rnd.Intn(4) == 0 {
				err = discard(f, at, min(65536*uint64(1+c.rnd.Intn(8)), 1<<30-at)) // not past its end
			} else {
				_, err = f.WriteAt([]byte{1}, int64(at))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(f.Sync(), f.Close(), c.p.removeDevice(dev.Name)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoFalseAlarm: 200 states of a pool at random; thin_check is asked now and then.
func TestNoFalseAlarm(t *testing.T) {
	d := fresh(t, Options{})
	if err := d.CreatePool(d.opts.Pool); err != nil {
		t.Fatal(err)
	}
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	c := &churn{rnd: rand.New(rand.NewSource(seed))}
	churned := func() {
		p, err := d.enter()
		if err != nil {
			t.Fatal(err)
		}
		defer p.leave() // a failure's clean-up wants the pool alone
		if c.p = p; c.ids == nil {
			base, err := p.layer(p.base)
			if err != nil {
				t.Fatal(err)
			}
			c.ids = []uint32{base.thin}
		}
		for range 3 {
			c.step(t)
		}
		if p.kernel.dataTotal-p.kernel.dataUsed < 400 || p.kernel.metaTotal-p.kernel.metaUsed < 300 {
			for _, id := range c.ids[1:] {
				if err := p.message("delete %d", id); err != nil {
					t.Fatal(err)
				}
			}
			c.ids = c.ids[:1]
		}
	}
	for i := range 200 {
		churned()
		r, err := d.Check()
		if err != nil || !r.OK || r.Leaked != 0 || !r.Active || r.Thins != len(c.ids) {
			t.Fatalf("step %d: %+v, %v; %d ids", i, r, err, len(c.ids))
		}
		if i%20 == 19 {
			if out, err := thinTool(t, d, "thin_check"); err != nil {
				t.Fatalf("thin_check: %v\n%s", err, out)
			}
		}
	}
	deactivate(t, d)
	r, err := d.Check()
	if err != nil || !r.OK || r.Leaked != 0 || r.Active || r.Thins != len(c.ids) {
		t.Errorf("inactive: %+v, %v; %d ids", r, err, len(c.ids))
	}
	if left := devices(t, d); len(left) != 0 {
		t.Errorf("a check made %q", left)
	}
}

// TestCheckOfNone: who reads the JSON iterates over the problems.
func TestCheckOfNone(t *testing.T) {
	d := fresh(t, Options{})
	image(t, d)
	r, err := d.Check()
	if err != nil || !r.OK || r.Problems == nil || len(r.Problems) != 0 {
		t.Errorf("got %+v, %v, want no problems in a list", r, err)
	}
}

// TestCheckBesideWriters, who commit all the time.
func TestCheckBesideWriters(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	over := make(chan struct{})
	var work sync.WaitGroup
	for i := range 3 {
		r := root(t, d, images[i%2])
		defer r.remove(t, d)
		work.Go(func() {
			b := make([]byte, 64<<10)
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				if err := writeIn(r.src.Mount, fmt.Sprint(n%64), b); err != nil {
					t.Error(err)
					return
				}
				r.sync(t)
			}
		})
	}
	for range 20 {
		if r, err := d.Check(); err != nil || !r.OK || r.Leaked != 0 || r.Containers != 3 || r.Layers != 3 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	close(over)
	work.Wait()
}

// TestCheckFinds what is wrong, with the metadata and with the records.
func TestCheckFinds(t *testing.T) {
	for _, test := range []struct {
		name, want string
		active     bool
		spoil      func(t *testing.T, d *Driver, image string)
	}{
		{"a flipped bit in a block", "checksum", false, func(t *testing.T, d *Driver, _ string) {
			flipNode(t, d.dir+"/meta")
		}},
		{"no superblock", "no thin pool metadata", false, func(t *testing.T, d *Driver, _ string) {
			writeAt(t, d.dir+"/meta", 0, make([]byte, 4096))
		}},
		{"a layer that is not in the pool", "is not in the pool", true, func(t *testing.T, d *Driver, image string) {
			p, err := d.enterAlone()
			if err != nil {
				t.Fatal(err)
			}
			defer p.leave()
			l, err := p.layer(image)
			if err == nil {
				err = p.drop(l.thin)
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
		{"no base", "base layer", true, func(t *testing.T, d *Driver, _ string) {
			m, err := d.record()
			if err == nil {
				l, _ := d.layer(m.base)
				err = os.Rename(d.layerPath(l.thin), d.dir+"/away")
				t.Cleanup(func() { os.Remove(d.dir + "/away") })
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := fresh(t, Options{})
			images := aPool(t, d)
			if !test.active {
				deactivate(t, d)
			}
			test.spoil(t, d, images[0])
			r, err := d.Check()
			if err != nil || r.OK || !strings.Contains(strings.Join(r.Problems, "\n"), test.want) || r.Active != test.active {
				t.Errorf("%+v, %v; want %q", r, err, test.want)
			}
		})
	}
}

func writeAt(t *testing.T, path string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt(b, at)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// flipNode spoils the root of the details.
func flipNode(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := int64(binary.LittleEndian.Uint64(b[328:]))*4096 + 3000
	writeAt(t, path, at, []byte{b[at] ^ 1})
}

// TestWrongCounts: when only counts are wrong the check says what puts them right, of a pool
// that works as of one that is not active, and that does it once nobody uses the pool.
func TestWrongCounts(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	reserve(t, d)
	r := root(t, d, layer)
	r.write(t, "f", 1, 1<<20)
	r.remove(t, d)
	deactivate(t, d)
	patch(t, d, func(b []byte) { clear(b[56:64]) }) // the snapshot is gone, what it counted is not
	wrong := func(active bool) {
		t.Helper()
		report, err := d.Check()
		if err != nil || report.OK || report.Active != active || !strings.Contains(report.Cure, "`thinrun pool check --repair`") || !strings.Contains(report.Cure, "stop all containers") {
			t.Errorf("%+v, %v", report, err)
		}
	}
	wrong(false)
	src, c := prepared(t, d, layer)
	wrong(true)
	if err := d.Repair(); !errors.Is(err, ErrInUse) {
		t.Errorf("repair of a pool in use: %v", err)
	}
	src.Mount.Close()
	if err := errors.Join(d.Remove(c), d.Repair()); err != nil {
		t.Error(err)
	}
	if report, err := d.Check(); err != nil || !report.OK || report.Cure != "" || report.Leaked != 0 || !report.Active {
		t.Errorf("repaired: %+v, %v", report, err)
	}
	deactivate(t, d)
	flipNode(t, d.dir+"/meta")
	if report, err := d.Check(); err != nil || report.OK || report.Cure != "" {
		t.Errorf("damaged: %+v, %v; no repair does it", report, err)
	}
}

// TestSuspendedPoolComesBack: whoever was killed while it held the pool still.
func TestSuspendedPoolComesBack(t *testing.T) {
	d := fresh(t, Options{})
	images := aPool(t, d)
	r := root(t, d, images[0])
	defer r.remove(t, d)
	for _, next := range []struct {
		name string
		do   func() error
	}{
		{"guardian", func() error { m, _ := d.record(); return d.ResumeSuspended(m.name()) }},
		{"gc", func() error { _, err := d.GC(); return err }},
		{"check", func() error { _, err := d.Check(); return err }},
		{"trim", func() error { _, err := d.Trim(); return err }},
	} {
		p, err := d.enterAlone()
		if err != nil {
			t.Fatal(err)
		}
		if err := p.ctl.Suspend(p.name(), unix.DM_NOFLUSH_FLAG); err != nil {
			t.Fatal(err)
		}
		p.leave()
		if err := next.do(); err != nil {
			t.Errorf("%s: %v", next.name, err)
		}
		r.write(t, "after "+next.name, 1, 4096)
	}
}
