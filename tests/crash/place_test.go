// Package crash kills the runtime where it hurts, runs much of it at once, feeds it
// nonsense and fills its disks, and looks for what is left. "Nothing is left" means:
// after one delete --force that answers 0 there is no cgroup, process, mount, device, thin
// id, file or claimed id of the container.
package crash

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"thinrun/rootfs/storage/devmapper"
	"thinrun/tests/box"
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
	*testbundle.Caller
	t      *testing.T
	rt     *testbundle.Runtime
	driver string
	sleeps string            // a bundle whose program sleeps
	speaks string            // one whose program says "up" and sleeps
	ends   string            // one whose program ends at once
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
	p.Caller = p.rt.Caller()
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

// fork is the same place for another goroutine.
func (p *place) fork() *place {
	q := *p
	q.Caller = p.Fork(p.t)
	return &q
}

// life is a container's whole life.
func (p *place) life(id string) {
	p.t.Helper()
	p.OK("create", "--bundle", p.sleeps, id)
	p.OK("start", id)
	p.OK("kill", id, "KILL")
	p.OK("delete", "--force", id)
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
