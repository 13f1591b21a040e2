// Package crash kills the runtime where it hurts, runs much of it at once, feeds it
// nonsense and fills its disks, and looks for what is left. "Nothing is left" is the
// promise of DESIGN.md 4: after one delete --force that answers 0 there is no cgroup,
// process, mount, device, thin id, file or claimed id of the container.
package crash

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"thinrun/rootfs/storage/devmapper"
	"thinrun/tests/box"
	"thinrun/tests/crash/step"
	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// patience is for hangs only: a busy machine may take many times as long as ours.
const patience = 5 * time.Minute

// drivers calls f for each storage driver: what it says must hold on all.
func drivers(t *testing.T, f func(t *testing.T, p *place)) {
	for _, driver := range []string{"dir", "overlay", "devmapper"} {
		t.Run(driver, func(t *testing.T) { f(t, newPlace(t, driver)) })
	}
}

// place is a state directory and a storage with an image, and bundles on it.
type place struct {
	t      *testing.T
	rt     *testbundle.Runtime
	driver string
	sleeps string // a bundle whose program sleeps
	speaks string // one whose program says "up" and sleeps
	ends   string // one whose program ends at once
	out    *os.File
	pool   *devmapper.Driver // nil: another driver

	base  testbundle.Snapshot
	files []string
}

func newPlace(t *testing.T, driver string) *place {
	t.Helper()
	box.Require(t)
	if driver == "devmapper" {
		if err := devmapper.Supported(); err != nil {
			box.Lacks(t, "dm-thin: %v", err)
		}
	}
	p := &place{t: t, rt: testbundle.NewRuntime(t), driver: driver}
	p.output()
	var err error
	b := testbundle.New(t).Args("sleep", "1000")
	root := b.Root()
	if driver != "dir" {
		p.rt.Globals = []string{"--storage-driver", driver}
		if driver == "devmapper" {
			p.rt.OK("pool", "create", "--data-size", "512M", "--metadata-size", "16M", "--low-water", "64M", "--base-size", "1G")
			t.Cleanup(func() {
				p.rt.OK("image", "rm", "base")
				p.rt.OK("pool", "destroy")
			})
			if p.pool, err = devmapper.Open(p.rt.Storage, devmapper.Options{StateRoot: p.rt.Root}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.pool.Close() })
		}
		p.rt.OK("image", "import", "base", root)
		b.Image("base")
	}
	p.sleeps = b.Path()
	same := func(s *specs.Spec) { s.Annotations, s.Root.Path = b.Spec.Annotations, root }
	p.ends = testbundle.New(t).Args("true").Edit(same).Path()
	p.speaks = testbundle.New(t).Shell("echo up; exec sleep 1000").Edit(same).Path()
	// One container's whole life first: what is made once and stays (the state directory,
	// directories above a container's cgroup) is not a leftover.
	p.life("warm-up")
	p.base, p.files = p.rt.Snapshot(), p.listing()
	return p
}

// output makes the file that all commands print into.
func (p *place) output() {
	var err error
	if p.out, err = os.CreateTemp(p.t.TempDir(), "output"); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { p.out.Close() })
}

// fork is the same place for another goroutine.
func (p *place) fork() *place {
	q := *p
	q.output()
	return &q
}

// argv is a command line.
func (p *place) argv(args ...string) []string {
	all := append([]string{p.rt.Binary, "--root", p.rt.Root, "--storage", p.rt.Storage}, p.rt.Globals...)
	return append(all, args...)
}

// start starts a command. Unlike testbundle's it uses one file for all output, since
// there are thousands.
func (p *place) start(attr *syscall.SysProcAttr, args ...string) *os.Process {
	p.t.Helper()
	if err := p.out.Truncate(0); err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.out.Seek(0, 0); err != nil {
		p.t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		p.t.Fatal(err)
	}
	defer null.Close()
	argv := p.argv(args...)
	proc, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: []*os.File{null, p.out, p.out}, Sys: attr,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return proc
}

// starter is start for later.
func (p *place) starter(args ...string) step.Start {
	return func(attr *syscall.SysProcAttr) *os.Process { return p.start(attr, args...) }
}

// said is what the last command printed.
func (p *place) said() string {
	b, _ := os.ReadFile(p.out.Name())
	return string(bytes.TrimSpace(b))
}

// run runs a command to its end.
func (p *place) run(args ...string) (code int) {
	p.t.Helper()
	state, err := p.start(nil, args...).Wait()
	if err != nil {
		p.t.Fatal(err)
	}
	return state.ExitCode()
}

// refused runs a command that may fail, and then with exit code 1 and one line of 1 to
// 4096 bytes.
func (p *place) refused(args ...string) bool {
	p.t.Helper()
	code := p.run(args...)
	if code != 0 {
		p.oneLine(code, args)
	}
	return code != 0
}

func (p *place) oneLine(code int, args []string) {
	p.t.Helper()
	text := p.said()
	switch {
	case code != 1:
		p.t.Errorf("thinrun %q: exit code %d: %.5000s", args, code, text)
	case len(text) < 1 || len(text) > 4096 || strings.ContainsAny(text, "\n\r\x00") || strings.Contains(text, "BUG"):
		p.t.Errorf("thinrun %q: not one line of 1 to 4096 bytes: %.5000q", args, text)
	}
}

func (p *place) ok(args ...string) {
	p.t.Helper()
	if code := p.run(args...); code != 0 {
		p.t.Fatalf("thinrun %q: exit code %d: %s", args, code, p.said())
	}
}

// life is a container's whole life.
func (p *place) life(id string) {
	p.t.Helper()
	p.ok("create", "--bundle", p.sleeps, id)
	p.ok("start", id)
	p.ok("kill", id, "KILL")
	p.ok("delete", "--force", id)
}

// listing is every name below the storage and in the directories for temporary files.
func (p *place) listing() (names []string) {
	_ = filepath.WalkDir(p.rt.Storage, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			names = append(names, path)
		}
		return nil
	})
	for _, dir := range []string{os.TempDir(), "/run", "/dev/shm", p.sleeps, p.ends, p.rt.Root} {
		list, _ := os.ReadDir(dir)
		for _, e := range list {
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// clean reports what is there and was not before. delete has just said that all is gone,
// so only the ends of killed processes, which are for us to collect, are waited for.
func (p *place) clean(what string) bool {
	p.t.Helper()
	var left []string
	waiting := false
	for _, line := range p.rt.Snapshot().Since(p.base) {
		if strings.HasPrefix(line, "process ") {
			waiting = true
		} else {
			left = append(left, line)
		}
	}
	if waiting {
		for _, line := range p.rt.Left(p.base) {
			if !slices.Contains(left, line) {
				left = append(left, line)
			}
		}
	}
	for _, name := range p.listing() {
		if _, found := slices.BinarySearch(p.files, name); !found {
			left = append(left, "file "+name)
		}
	}
	if p.pool != nil {
		gone, err := p.pool.GC()
		if err != nil {
			left = append(left, "gc: "+err.Error())
		}
		if len(gone.Removed)+len(gone.Busy)+len(gone.Missing) > 0 {
			left = append(left, fmt.Sprintf("thin ids %+v", gone))
		}
	}
	if len(left) > 0 {
		p.t.Errorf("%s: left behind:\n%s", what, strings.Join(left, "\n"))
	}
	return len(left) == 0
}

// took measures a command that runs undisturbed.
func (p *place) took(args ...string) time.Duration {
	p.t.Helper()
	start := time.Now()
	p.ok(args...)
	return time.Since(start)
}
