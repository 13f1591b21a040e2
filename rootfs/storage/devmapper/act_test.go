package devmapper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/durable"
	"thinrun/rootfs/storage/storagetest"
)

// The test binary is also the process that is killed: with actEnv set it does one thing
// to a pool and dies before the step of that number.
const actEnv = "THINRUN_DEVMAPPER_ACT"

type act struct {
	Do      string // pool, layer, prepare, remove, remove layer, fork, guard, grow, lock, destroy, gc
	Storage string
	Layer   string
	Claim   string // file: prepare saves into it, remove reads it
	KillAt  int    // 0: not
	Times   int    // stress: how many containers
	Guard   bool   // fork: with a guardian
	TermAt  string // the step at which it sends itself SIGTERM
}

func TestMain(m *testing.M) {
	if text := os.Getenv(actEnv); text != "" {
		var a act
		err := json.Unmarshal([]byte(text), &a)
		if err == nil {
			err = a.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	storagetest.Main(m)
}

func (a act) run() error {
	if a.Storage == "" {
		return a.write()
	}
	steps := 0
	var guard func(string) (func(), error)
	if a.Guard {
		guard = a.guard
	}
	d, err := Open(a.Storage, Options{Pool: small(), Guard: guard, Step: func(name string) {
		if name == a.TermAt {
			unix.Kill(os.Getpid(), unix.SIGTERM)
		}
		if steps++; steps == a.KillAt {
			fmt.Println(name)
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}})
	if err != nil {
		return err
	}
	switch a.Do {
	case "pool":
		return d.CreatePool(small())
	case "layer":
		l, err := d.NewLayer(a.Layer)
		if err != nil {
			return err
		}
		if err := unix.Mkdirat(int(l.Root().Fd()), "made", 0o755); err != nil {
			return err
		}
		_, err = l.Commit("")
		return err
	case "prepare":
		_, err := d.Prepare(storage.Request{ContainerID: "c1", Image: "i", Layer: a.Layer}, saveTo(a.Claim))
		return err
	case "remove":
		c, err := loadClaim(a.Claim)
		if err != nil {
			return err
		}
		return d.Remove(c)
	case "remove layer":
		return d.RemoveLayer(a.Layer)
	case "fork":
		c, err := loadClaim(a.Claim)
		if err != nil {
			return err
		}
		l, err := d.Fork(c)
		if err != nil {
			return err
		}
		return l.Abort()
	case "guard":
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
		return d.ResumeSuspended(a.Claim)
	case "grow":
		_, err := d.Grow(GrowOptions{AddData: 64 * mib, AddMeta: 4 * mib})
		return err
	case "lock":
		_, err := d.locked(unix.LOCK_EX)
		return err
	case "repair":
		return d.Repair()
	case "destroy":
		return d.Destroy()
	case "gc":
		_, err := d.GC()
		return err
	case "renew":
		return d.Renew()
	case "trim":
		_, err := d.Trim()
		return err
	case "check":
		_, err := d.Check()
		return err
	case "stress":
		for i := range a.Times {
			src, c, err := prepare(d, fmt.Sprint(i), a.Layer)
			if err == nil {
				err = errors.Join(writeIn(src.Mount, "f", []byte(c.Key)), src.Mount.Close())
			}
			if err = errors.Join(err, d.Remove(c)); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("act %q", a.Do)
}

// guard is a process that outlives the fork and resumes the device at the end of a pipe.
func (a act) guard(device string) (func(), error) {
	b, err := json.Marshal(act{Do: "guard", Storage: a.Storage, Claim: device})
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), actEnv+"="+string(b))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // the test waits until these are closed
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() { pipe.Close(); cmd.Wait() }, nil
}

func saveTo(path string) func(storage.Claim) error {
	return func(c storage.Claim) error {
		b, err := json.Marshal(c)
		if err != nil {
			return err
		}
		return durable.Write(path, b)
	}
}

func loadClaim(path string) (c storage.Claim, err error) {
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	return c, err
}

// openIn opens a file below a root, which may be a mount that is attached nowhere.
func openIn(root *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(root.Fd()), name, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func writeIn(mnt *os.File, name string, content []byte) error {
	f, err := openIn(mnt, name, unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

func (a act) command(t *testing.T) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), actEnv+"="+string(b))
	return cmd
}

// start runs it and tells before which step it died; "" when it came to its end.
func (a act) start(t *testing.T) string {
	t.Helper()
	cmd := a.command(t)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == unix.SIGKILL {
		return strings.TrimSpace(string(out))
	}
	if err != nil {
		t.Fatalf("%+v: %v\n%s", a, err, exit.Stderr)
	}
	return ""
}

// deactivate takes the pool's device down, as a reboot does.
func deactivate(t *testing.T, d *Driver) {
	t.Helper()
	p, err := d.openAny(unix.LOCK_EX)
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	if err := p.takeDown(); err != nil {
		t.Fatal(err)
	}
}

// image makes a pool with a layer that holds the file "hello".
func image(t *testing.T, d *Driver) string {
	t.Helper()
	return sealed(t, d, "", func(root *os.File) error { return writeIn(root, "hello", []byte("layer")) })
}

// sealed is a layer that fill has written.
func sealed(t *testing.T, d *Driver, parent string, fill func(root *os.File) error) string {
	t.Helper()
	l, err := d.NewLayer(parent)
	if err != nil {
		t.Fatal(err)
	}
	if err := fill(l.Root()); err != nil {
		t.Fatal(err)
	}
	id, err := l.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// prepare starts a container, and gives the claim that was saved, also of one that fails.
func prepare(d *Driver, name, layer string) (src storage.Source, c storage.Claim, err error) {
	src, err = d.Prepare(storage.Request{ContainerID: name, Image: "i", Layer: layer}, func(claim storage.Claim) error { c = claim; return nil })
	return src, c, err
}

// prepared is a container's root; it is removed when the test ends.
func prepared(t *testing.T, d *Driver, layer string) (storage.Source, storage.Claim) {
	t.Helper()
	src, c, err := prepare(d, "c1", layer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		src.Mount.Close()
		if err := d.Remove(c); err != nil {
			t.Error(err)
		}
	})
	return src, c
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// TestKilledAnywhere: SIGKILL before each step of each verb. Afterwards the next command
// works, Remove by the saved claim and a look in passing give everything back.
func TestKilledAnywhere(t *testing.T) {
	for _, verb := range []string{"layer", "prepare", "remove", "remove layer", "grow", "gc"} {
		t.Run(verb, func(t *testing.T) {
			d := fresh(t, Options{})
			layer := image(t, d)
			before := held(t, d)
			for n := 1; ; n++ {
				a := act{Do: verb, Storage: d.storage, Layer: layer, Claim: filepath.Join(t.TempDir(), "claim"), KillAt: n}
				switch verb {
				case "remove":
					p := a
					p.Do, p.KillAt = "prepare", 0
					p.start(t)
				case "remove layer":
					a.Layer = image(t, d)
				case "grow", "gc":
					// It must work on a pool with something running in it.
					src, c := prepared(t, d, layer)
					defer func() {
						src.Mount.Close()
						if err := d.Remove(c); err != nil {
							t.Error(err)
						}
					}()
					before = held(t, d)
				}
				if verb == "gc" { // with something to do
					p, err := d.enter()
					if err != nil {
						t.Fatal(err)
					}
					if err := p.message("create_snap 4711 %d", mustID(t, layer)); err != nil {
						t.Fatal(err)
					}
					if _, err := p.raise(4711, gib); err != nil {
						t.Fatal(err)
					}
					p.leave()
				}
				died := a.start(t)
				if c, err := loadClaim(a.Claim); err == nil {
					for range 2 {
						if err := again(t, d).Remove(c); err != nil {
							t.Errorf("killed before %q: remove: %v", died, err)
						}
					}
				}
				if verb == "remove layer" {
					if err := d.RemoveLayer(a.Layer); err != nil {
						t.Errorf("killed before %q: remove layer again: %v", died, err)
					}
				}
				if err := d.CheapGC(100); err != nil {
					t.Errorf("killed before %q: look in passing: %v", died, err)
				}
				if verb == "gc" {
					if _, err := d.GC(); err != nil {
						t.Errorf("killed before %q: gc again: %v", died, err)
					}
				}
				now := held(t, d)
				if verb == "layer" { // killed after the seal it is a layer that no image uses
					ids, err := d.Layers()
					if err != nil {
						t.Fatal(err)
					}
					for _, l := range ids {
						if l.ID != layer {
							if err := d.RemoveLayer(l.ID); err != nil {
								t.Error(err)
							}
						}
					}
					now = held(t, d)
				}
				same(t, fmt.Sprintf("held after a kill before step %d %q", n, died), before, now)
				src, c := prepared(t, d, layer)
				src.Mount.Close()
				if err := d.Remove(c); err != nil {
					t.Error(err)
				}
				if died == "" {
					t.Logf("%d steps", n-1)
					if n < 4 {
						t.Errorf("only %d steps: the kills miss the point", n-1)
					}
					return
				}
			}
		})
	}
}

// TestPoolKilledAnywhere: also while the pool is made, activated and destroyed.
func TestPoolKilledAnywhere(t *testing.T) {
	for n := 1; ; n++ {
		d := fresh(t, Options{})
		died := act{Do: "pool", Storage: d.storage, KillAt: n}.start(t)
		if died != "" {
			if _, err := d.Status(); !errors.Is(err, ErrNoPool) {
				t.Errorf("killed before %q: status says %v, want %v", died, err, ErrNoPool)
			}
			if _, err := d.Prepare(storage.Request{ContainerID: "c", Layer: "000001-00000001"}, nil); !errors.Is(err, ErrNoPool) {
				t.Errorf("killed before %q: prepare says %v, want %v", died, err, ErrNoPool)
			}
		}
		image(t, d) // makes the pool, unless it is there
		destroyed(t, d)
		if died == "" {
			t.Logf("make: %d steps", n-1)
			break
		}
	}
	for n := 1; ; n++ {
		d := fresh(t, Options{})
		layer := image(t, d)
		deactivate(t, d)
		died := act{Do: "prepare", Storage: d.storage, Layer: layer, Claim: filepath.Join(t.TempDir(), "claim"), KillAt: n}.start(t)
		src, c := prepared(t, d, layer)
		src.Mount.Close()
		if err := d.Remove(c); err != nil {
			t.Error(err)
		}
		if _, err := d.GC(); err != nil {
			t.Error(err)
		}
		destroyed(t, d)
		if died == "claim" { // from here on it is Prepare, which TestKilledAnywhere kills
			t.Logf("activate: %d steps", n-1)
			break
		}
	}
	for n := 1; ; n++ {
		d := fresh(t, Options{})
		image(t, d)
		died := act{Do: "destroy", Storage: d.storage, KillAt: n}.start(t)
		destroyed(t, d)
		if died == "" {
			t.Logf("destroy: %d steps", n-1)
			break
		}
	}
}

func destroyed(t *testing.T, d *Driver) {
	t.Helper()
	if err := d.Destroy(); err != nil && !errors.Is(err, ErrNoPool) {
		t.Error(err)
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			t.Errorf("left in the pool's directory: %s", e.Name())
		}
	}
	same(t, "devices after destroy", nil, devices(t, d))
}

// TestManyProcesses: eight processes make and remove containers, the first of them on a
// pool that all of them find inactive.
func TestManyProcesses(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	before := held(t, d)
	deactivate(t, d)
	var all []*exec.Cmd
	for range 8 {
		cmd := act{Do: "stress", Storage: d.storage, Layer: layer, Times: 10}.command(t)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	same(t, "held after 80 containers", before, held(t, d))
}

func mustID(t *testing.T, layer string) uint32 {
	t.Helper()
	id, _, ok := parseLayerID(layer)
	if !ok {
		t.Fatalf("layer id %q", layer)
	}
	return id
}

// TestTakenIDs: a random id may be a layer's, a container's, or garbage in the pool; none
// of them is touched, and the next id is taken.
func TestTakenIDs(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	_, other := prepared(t, d, layer)
	p, err := d.enter()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.message("create_thin 4711"); err != nil { // what a killed process left
		t.Fatal(err)
	}
	p.leave()
	ids := []uint32{mustID(t, layer), other.ThinID, 4711, 4712}
	o := again(t, d)
	o.opts.NewID = func() uint32 {
		id := ids[0]
		ids = ids[1:]
		return id
	}
	want := slices.Clone(ids)
	var saved []storage.Claim
	src, err := o.Prepare(storage.Request{ContainerID: "c2", Image: "i", Layer: layer}, func(claim storage.Claim) error {
		saved = append(saved, claim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	src.Mount.Close()
	if len(saved) != len(want) || saved[len(saved)-1].ThinID != 4712 {
		t.Fatalf("saved %+v, want the ids %d", saved, want)
	}
	// A create that is killed in between leaves a record with an id that has an owner. To
	// remove by it takes nothing of theirs: the key is not the owner's.
	for _, c := range saved {
		if err := d.Remove(c); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if !exists(d.claimPath(other.ThinID)) || !exists(d.layerPath(mustID(t, layer))) {
		t.Error("the other container's claim or the layer is gone")
	}
	// Nor does it wait for an owner that is at work.
	l, err := d.NewLayer("")
	if err != nil {
		t.Fatal(err)
	}
	foreign := saved[0]
	foreign.ThinID = l.(*open).layer.thin
	foreign.Device = strings.Replace(foreign.Device, fmt.Sprintf("%06x", saved[0].ThinID), fmt.Sprintf("%06x", foreign.ThinID), 1)
	if err := d.Remove(foreign); err != nil {
		t.Error(err)
	}
	if _, err := l.Commit(""); err != nil {
		t.Errorf("the layer that was being written: %v", err)
	}
	got, err := d.GC()
	if err != nil || !slices.Equal(got.Removed, []uint32{4711}) {
		t.Errorf("GC removed %d, %v; want 4711 alone", got.Removed, err)
	}
}

// TestRepeatedRemove: a delete that is repeated after its id was used again takes nothing
// of the new owner.
func TestRepeatedRemove(t *testing.T) {
	d := fresh(t, Options{NewID: func() func() uint32 {
		n := uint32(100)
		return func() uint32 { n++; return n }
	}()})
	layer := image(t, d)
	first, c1 := prepared(t, d, layer)
	first.Mount.Close()
	if err := d.Remove(c1); err != nil {
		t.Fatal(err)
	}
	d.opts.NewID = func() uint32 { return c1.ThinID }
	second, c2 := prepared(t, d, layer)
	if c2.ThinID != c1.ThinID {
		t.Fatalf("id %d, want %d again", c2.ThinID, c1.ThinID)
	}
	second.Mount.Close() // not even active: only the claim protects it
	if err := d.Remove(c1); err != nil {
		t.Error(err)
	}
	if list := held(t, d); !slices.Contains(list, fmt.Sprintf("thin %06x", c2.ThinID)) {
		t.Errorf("the second container's disk is gone: %q", list)
	}
}

// TestClaimGoesWithItsState: GC keeps a stopped container's snapshot as long as its state
// directory is there, and no longer; not even when another one has its name.
func TestClaimGoesWithItsState(t *testing.T) {
	root := t.TempDir()
	d := fresh(t, Options{StateRoot: root})
	layer := image(t, d)
	before := held(t, d)
	state := filepath.Join(root, "c1")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	src, c := prepared(t, d, layer)
	src.Mount.Close()
	if got, err := d.GC(); err != nil || len(got.Removed) > 0 {
		t.Errorf("GC with the state there: removed %d, %v", got.Removed, err)
	}
	if err := d.Destroy(); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), `"c1"`) {
		t.Errorf("destroy with a container: %v, want %v naming c1", err, ErrInUse)
	}
	if err := os.Rename(state, state+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := d.GC(); err != nil || !slices.Equal(got.Removed, []uint32{c.ThinID}) {
		t.Errorf("GC with another container's state: removed %d, %v; want %d", got.Removed, err, c.ThinID)
	}
	same(t, "held", before, held(t, d))
}

// TestReboot: whatever was claimed in another boot is garbage, and the first command gives
// it back; layers stay.
func TestReboot(t *testing.T) {
	d := fresh(t, Options{})
	layer := image(t, d)
	before := held(t, d)
	src, c := prepared(t, d, layer)
	src.Mount.Close()
	path := d.claimPath(c.ThinID)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), bootID(), "another-boot", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	// A claim that the power cut has emptied, and one that it cut in the middle.
	for name, text := range map[string]string{"0000aa": "", "0000ab": "what \"contai"} {
		if err := os.WriteFile(filepath.Join(d.claimsDir(), name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	deactivate(t, d)
	s, err := d.Status()
	if err != nil || s.Active || s.Mode != "inactive" || s.Problem != "" || s.Data.UsedBytes == 0 {
		t.Errorf("status of the inactive pool: %+v, %v", s, err)
	}
	if ids, err := d.Layers(); err != nil || len(ids) != 1 || ids[0].ID != layer {
		t.Errorf("layers %q, %v; want %q", ids, err, layer)
	}
	next, _ := prepared(t, again(t, d), layer)
	next.Mount.Close()
	list := held(t, d)
	if slices.Contains(list, fmt.Sprintf("thin %06x", c.ThinID)) || slices.Contains(list, "claims/0000aa") {
		t.Errorf("still held after the reboot: %q", list)
	}
	if len(list) != len(before)+2 { // the new container's id and claim
		t.Errorf("held %q, before the reboot's container it was %q", list, before)
	}
}
