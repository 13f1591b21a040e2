// Package storagetest is the one suite that every storage driver passes.
//
// It knows nothing of any driver: what a driver holds outside of this process
// (directories, thin ids, devices) the driver's own test lists in Fixture.Held, and
// the suite compares.
package storagetest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"thinrun/rootfs/storage"
)

// Fixture is a driver on a storage of its own, empty, gone when the test ends.
type Fixture struct {
	Driver storage.Driver
	// Layers makes images; nil for a driver that keeps none.
	Layers storage.LayerStore
	// Reopen is the driver as the next process sees it: same storage, no shared memory.
	Reopen func(t *testing.T) storage.Driver
	// Held lists all that the driver holds now, one name each, in any order: layers,
	// containers' roots, ids, devices. Never what is there for good (the pool).
	Held func(t *testing.T) []string
	// Root is the directory that the dir driver takes as root.path; Layers is nil then.
	Root string
}

// Run runs the suite. fresh is called once for each part of it.
func Run(t *testing.T, fresh func(t *testing.T) Fixture) {
	for _, part := range []struct {
		name   string
		images bool // only for drivers that keep images
		run    func(*testing.T, Fixture)
	}{
		{"root", false, testRoot},
		{"remove", false, testRemove},
		{"host", false, testHost},
		{"failed save", false, testFailedSave},
		{"missing", false, testMissing},
		{"isolation", true, testIsolation},
		{"chain", true, testChain},
		{"abort", true, testAbort},
		{"remove layer", true, testRemoveLayer},
		{"self-dismantling", true, testDropped},
		{"sixteen at once", true, testConcurrent},
		{"layers", true, testLayers},
		{"fork", true, testFork},
		{"fork of nothing", true, testForkMissing},
		{"disks of", true, testDisksOf},
		{"exclusive", true, testExclusive},
	} {
		t.Run(part.name, func(t *testing.T) {
			f := fresh(t)
			if part.images && f.Layers == nil {
				return // not a skip: the part is about images, and this driver has none
			}
			before := f.Held(t)
			part.run(t, f)
			same(t, "held after the test", before, f.Held(t))
		})
	}
}

// Main runs a driver's tests in a mount namespace of their own when it can, so that
// the parts that compare mount tables do not see what others mount on this host.
// A driver's TestMain calls it.
func Main(m *testing.M) {
	const mark = "THINRUN_STORAGETEST_NS"
	if os.Geteuid() != 0 || os.Getenv(mark) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), mark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// With Unshareflags, syscall makes every mount private as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		println("storagetest: own mount namespace:", err.Error())
		os.Exit(1)
	}
	if err != nil {
		os.Exit(max(1, cmd.ProcessState.ExitCode()))
	}
	os.Exit(0)
}
