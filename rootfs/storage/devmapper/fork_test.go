package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// isClean runs e2fsck over a thin id that is not active, without mounting it before: a
// journal to replay would be found. It changes nothing.
func isClean(t *testing.T, d *Driver, id uint32, bytes uint64) {
	t.Helper()
	p, err := d.enter()
	if err != nil {
		t.Fatal(err)
	}
	defer p.leave()
	dev, err := p.raise(id, bytes)
	if err != nil {
		t.Fatal(err)
	}
	fsckClean(t, dev.Node())
	if err := p.removeDevice(dev.Name); err != nil {
		t.Error(err)
	}
}

func fsckClean(t *testing.T, node string) {
	t.Helper()
	fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		fsck = "/usr/sbin/e2fsck"
	}
	out, err := exec.Command(fsck, "-fn", node).CombinedOutput()
	if err != nil {
		t.Errorf("e2fsck -fn %s: %v\n%s", node, err, out)
	}
}

func inRoot(root *os.File, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", root.Fd(), name)
}

func readIn(root *os.File, name string) string {
	b, err := os.ReadFile(inRoot(root, name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestNobodyWaitsForWhatIsDirty: gigabytes may have to be written before a copy is made,
// and before a layer is sealed. The pool's lock is free meanwhile.
func TestNobodyWaitsForWhatIsDirty(t *testing.T) {
	d := fresh(t, Options{})
	base := image(t, d)
	src, c := prepared(t, d, base)
	defer src.Mount.Close()
	free := map[string]bool{}
	d.opts.Step = func(name string) {
		if name != "write out" && name != "sync layer" {
			return
		}
		f, err := os.Open(d.dir + "/lock")
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		free[name] = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
	}
	l, err := d.Fork(c)
	if err == nil {
		_, err = l.Commit("")
	}
	if err != nil || !free["write out"] || !free["sync layer"] {
		t.Errorf("%v; the lock was free: %v", err, free)
	}
}

// TestFork: of a root that is written to all the time, and of one whose container has
// ended; what was written before is in the copy, what comes after is not.
func TestFork(t *testing.T) {
	for _, test := range []struct {
		name    string
		running bool
		bytes   uint64
	}{{"running", true, 0}, {"stopped", false, 0}, {"larger disk", true, 2 * gib}} {
		t.Run(test.name, func(t *testing.T) {
			d := fresh(t, Options{})
			base := image(t, d)
			var c storage.Claim
			src, err := d.Prepare(storage.Request{ContainerID: "c1", Image: "i", Layer: base, SizeBytes: test.bytes},
				func(claim storage.Claim) error { c = claim; return nil })
			if err != nil {
				t.Fatal(err)
			}
			if err := writeIn(src.Mount, "before", []byte("written before")); err != nil {
				t.Fatal(err)
			}
			var stop atomic.Bool
			wrote := make(chan error, 1)
			if test.running {
				go func() {
					for !stop.Load() {
						if err := writeSync(src.Mount, "busy", 1); err != nil {
							wrote <- err
							return
						}
					}
					wrote <- nil
				}()
			} else {
				src.Mount.Close()
			}
			l, err := d.Fork(c)
			if err != nil {
				t.Fatal(err)
			}
			if test.running {
				if err := writeIn(src.Mount, "after", []byte("x")); err != nil {
					t.Errorf("the container cannot write after the fork: %v", err)
				}
				stop.Store(true)
				if err := <-wrote; err != nil {
					t.Errorf("the container that was forked: %v", err)
				}
			}
			if got := readIn(l.Root(), "before"); got != "written before" {
				t.Errorf("the copy has %q", got)
			}
			if exists(inRoot(l.Root(), "after")) {
				t.Error("the copy has what was written after it was made")
			}
			id, err := l.Commit("sha256:chain")
			if err != nil {
				t.Fatal(err)
			}
			infos, err := d.Layers()
			if want := (storage.LayerInfo{ID: id, Parent: base, Chain: "sha256:chain"}); err != nil || !slices.Contains(infos, want) {
				t.Errorf("layers %+v, %v; want %+v", infos, err, want)
			}
			sealed, err := d.layer(id)
			if want := max(test.bytes, gib); err != nil || sealed.bytes != want {
				t.Errorf("the layer's disk has %d bytes, %v; want %d", sealed.bytes, err, want)
			}
			isClean(t, d, sealed.thin, sealed.bytes)
			next, c2 := prepared(t, d, id)
			if got := readIn(next.Mount, "before"); got != "written before" {
				t.Errorf("a container of the copy has %q", got)
			}
			next.Mount.Close()
			src.Mount.Close()
			for _, c := range []storage.Claim{c2, c} {
				if err := d.Remove(c); err != nil {
					t.Error(err)
				}
			}
			if _, err := d.Fork(c); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("fork of a removed container: %v, want %v", err, fs.ErrNotExist)
			}
		})
	}
}

// TestForkNeedsNoReplay: the snapshot itself, before anybody mounts it.
func TestForkNeedsNoReplay(t *testing.T) {
	d := fresh(t, Options{})
	src, c := prepared(t, d, image(t, d))
	for i := range 5 {
		if err := writeSync(src.Mount, fmt.Sprint("busy", i), 1); err != nil {
			t.Fatal(err)
		}
		p, err := d.enter()
		if err != nil {
			t.Fatal(err)
		}
		mnt, err := p.holdActive(c.Device, "")
		if err != nil {
			t.Fatal(err)
		}
		made, err := p.freeze(c.Device, mnt, layer{thin: c.ThinID, bytes: gib})
		if err = errors.Join(err, mnt.Close()); err != nil {
			t.Fatal(err)
		}
		p.leave()
		isClean(t, d, made.thin, gib)
		p, err = d.enter()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(p.giveBack(made.thin, nil, true), made.discard()); err != nil {
			t.Error(err)
		}
		p.leave()
	}
}

// TestForkKilled: SIGKILL before each step. Between suspend and resume the container's
// writers stand; the next command lets them go on, and with a guardian nobody waits for it.
func TestForkKilled(t *testing.T) {
	for _, guarded := range []bool{false, true} {
		name := map[bool]string{false: "alone", true: "guarded"}[guarded]
		t.Run(name, func(t *testing.T) {
			d := fresh(t, Options{})
			layer := image(t, d)
			src, c := prepared(t, d, layer)
			path := filepath.Join(t.TempDir(), "claim")
			if err := saveTo(path)(c); err != nil {
				t.Fatal(err)
			}
			before := held(t, d)
			suspended := 0
			for n := 1; ; n++ {
				died := act{Do: "fork", Storage: d.storage, Claim: path, KillAt: n, Guard: guarded}.start(t)
				ctl, err := d.dm()
				if err != nil {
					t.Fatal(err)
				}
				info, err := ctl.Info(c.Device)
				if err != nil {
					t.Fatal(err)
				}
				wrote := make(chan error, 1)
				go func() { wrote <- writeSync(src.Mount, "f", 1) }()
				if info.Suspended {
					suspended++
					if guarded {
						t.Errorf("killed before %q: still suspended after the guardian's end", died)
					}
				}
				switch {
				case guarded: // nobody else does anything
				case n%2 == 0:
					if err := again(t, d).CheapGC(100); err != nil {
						t.Errorf("killed before %q: look in passing: %v", died, err)
					}
				default:
					if _, err := again(t, d).GC(); err != nil {
						t.Errorf("killed before %q: gc: %v", died, err)
					}
				}
				if err := <-wrote; err != nil { // a test that hangs here has a writer in D state
					t.Errorf("killed before %q: write in the container: %v", died, err)
				}
				if err := d.CheapGC(100); err != nil {
					t.Errorf("killed before %q: %v", died, err)
				}
				same(t, "held after a kill before "+died, before, held(t, d))
				if died == "" {
					t.Logf("%d steps, suspended after %d", n-1, suspended)
					if !guarded && suspended < 2 {
						t.Error("no kill came between suspend and resume")
					}
					break
				}
			}
		})
	}
}

// TestRemoveAfterKilledFork: a container whose device was left suspended can be removed, by
// delete's two calls, also when its last process has gone meanwhile.
func TestRemoveAfterKilledFork(t *testing.T) {
	for _, mounted := range []bool{true, false} {
		t.Run(fmt.Sprintf("resumed first %v", mounted), func(t *testing.T) {
			d := fresh(t, Options{})
			layer := image(t, d)
			before := held(t, d)
			src, c, err := prepare(d, "c1", layer)
			if err != nil {
				t.Fatal(err)
			}
			ctl, err := d.dm()
			if err != nil {
				t.Fatal(err)
			}
			if err := ctl.Suspend(c.Device, 0); err != nil {
				t.Fatal(err)
			}
			if mounted {
				if err := d.ResumeSuspended(c.Device); err != nil {
					t.Error(err)
				}
				if info, err := ctl.Info(c.Device); err != nil || info.Suspended {
					t.Errorf("%+v, %v; want it resumed", info, err)
				}
			}
			src.Mount.Close()
			if err := d.Remove(c); err != nil {
				t.Error(err)
			}
			if err := d.ResumeSuspended(c.Device); err != nil {
				t.Errorf("of a device that is not there: %v", err)
			}
			same(t, "held", before, held(t, d))
		})
	}
}

// TestForkHoldsSignals: SIGTERM in the middle of it ends the process after the resume.
func TestForkHoldsSignals(t *testing.T) {
	d := fresh(t, Options{})
	src, c := prepared(t, d, image(t, d))
	path := filepath.Join(t.TempDir(), "claim")
	if err := saveTo(path)(c); err != nil {
		t.Fatal(err)
	}
	cmd := act{Do: "fork", Storage: d.storage, Claim: path, TermAt: "snapshot of suspended origin"}.command(t)
	err := cmd.Run()
	if exit, ok := err.(*exec.ExitError); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("ended with %v, want by SIGTERM", err)
	}
	if err := writeSync(src.Mount, "f", 1); err != nil {
		t.Error(err)
	}
	ctl, err := d.dm()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := ctl.Info(c.Device); err != nil || info.Suspended {
		t.Errorf("%+v, %v; want it resumed", info, err)
	}
	if err := d.CheapGC(100); err != nil {
		t.Error(err)
	}
	if !exists(d.claimPath(c.ThinID)) {
		t.Error("the container's claim is gone")
	}
}
