package dm

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/devnode"
)

func control(t *testing.T) *Control {
	t.Helper()
	var nodes devnode.Nodes
	c, err := Open(&nodes)
	if os.Getenv("LAB") != "1" {
		if err == nil {
			c.Close()
		}
		t.Skip("makes devices: runs only in the lab (LAB=1)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); nodes.Close() })
	return c
}

// zero is a table of n targets that need no other device.
func zero(n int) []Target {
	var list []Target
	for i := range n {
		list = append(list, Target{Start: uint64(i) * 8, Length: 8, Type: "error"})
	}
	return list
}

// TestLife: a device from create to removal, as the kernel tells it at each step.
func TestLife(t *testing.T) {
	c := control(t)
	const name = "thinrun-test-life"
	d, err := c.Create(name, "THINRUN-TEST")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Remove(name, false)
	if d.Name != name || d.UUID != "THINRUN-TEST" || d.Live || d.Inactive {
		t.Errorf("created: %+v", d)
	}
	if _, err := c.Load(name, zero(3)...); err != nil {
		t.Fatal(err)
	}
	if d, err = c.Info(name); err != nil || d.Live || !d.Inactive {
		t.Errorf("loaded: %+v, %v", d, err)
	}
	if d, err = c.Resume(name); err != nil || !d.Live || d.Inactive || d.Targets != 3 {
		t.Errorf("resumed: %+v, %v", d, err)
	}
	if _, err := os.Stat(d.Node()); err != nil {
		t.Errorf("%+v: %v", d, err)
	}
	if _, table, err := c.Table(name); err != nil || !slices.Equal(table, zero(3)) {
		t.Errorf("table: %v, %v", table, err)
	}
	if err := c.Suspend(name, NoFlush|SkipLockFS); err != nil {
		t.Fatal(err)
	}
	if d, err = c.Info(name); err != nil || !d.Suspended {
		t.Errorf("suspended: %+v, %v", d, err)
	}
	if _, err := c.Load(name, zero(1)...); err != nil {
		t.Fatal(err)
	}
	if err := c.Clear(name); err != nil {
		t.Fatal(err)
	}
	if d, err = c.Resume(name); err != nil || d.Targets != 3 {
		t.Errorf("resumed after clear: %+v, %v", d, err)
	}
	if deps, err := c.Deps(name); err != nil || len(deps) != 0 {
		t.Errorf("dependencies: %v, %v", deps, err)
	}
	list, err := c.List()
	if err != nil || !slices.ContainsFunc(list, func(o Device) bool { return o.Name == name && o.Minor == d.Minor }) {
		t.Errorf("list: %+v, %v", list, err)
	}
	if _, err := c.Remove(name, false); err != nil {
		t.Error(err)
	}
	if _, err := c.Info(name); !errors.Is(err, unix.ENXIO) {
		t.Errorf("removed: %v, want %v", err, unix.ENXIO)
	}
}

// TestDeferredRemove: an open device goes with its last user.
func TestDeferredRemove(t *testing.T) {
	c := control(t)
	const name = "thinrun-test-deferred"
	if _, err := c.Create(name, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Load(name, zero(1)...); err != nil {
		t.Fatal(err)
	}
	d, err := c.Resume(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(d.Node())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Remove(name, false); !errors.Is(err, unix.EBUSY) {
		t.Errorf("remove of an open device: %v, want %v", err, unix.EBUSY)
	}
	if d, err = c.Remove(name, true); err != nil || !d.Deferred {
		t.Errorf("deferred: %+v, %v", d, err)
	}
	if d, err = c.Info(name); err != nil || !d.Deferred || d.Opened != 1 {
		t.Errorf("waiting for its last user: %+v, %v", d, err)
	}
	events, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(events)
	if err := unix.Bind(events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for { // the kernel tells when it is gone; go test's own deadline ends a wait for nothing
		if _, err := c.Info(name); errors.Is(err, unix.ENXIO) {
			return
		}
		var b [8192]byte
		if _, err := unix.Read(events, b[:]); err != nil && err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

// TestLongAnswers do not fit the first buffer.
func TestLongAnswers(t *testing.T) {
	c := control(t)
	const n = 500
	name := "thinrun-test-long"
	if _, err := c.Create(name, ""); err != nil {
		t.Fatal(err)
	}
	defer c.Remove(name, false)
	if _, err := c.Load(name, zero(n)...); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resume(name); err != nil {
		t.Fatal(err)
	}
	if _, table, err := c.Table(name); err != nil || !slices.Equal(table, zero(n)) {
		t.Errorf("%d targets, %v; want %d", len(table), err, n)
	}
	var names []string
	for i := range 60 {
		name := fmt.Sprintf("thinrun-test-%s-%d", strings.Repeat("n", 90), i)
		if _, err := c.Create(name, ""); err != nil {
			t.Fatal(err)
		}
		defer c.Remove(name, false)
		names = append(names, name)
	}
	list, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !slices.ContainsFunc(list, func(d Device) bool { return d.Name == name }) {
			t.Errorf("%s is not in a list of %d", name, len(list))
		}
	}
}

// TestErrorsNameTheDevice and keep the errno.
func TestErrorsNameTheDevice(t *testing.T) {
	c := control(t)
	for _, test := range []struct {
		err   error
		errno error
		text  string
	}{
		{second(c.Info("no-such")), unix.ENXIO, "dm: look up no-such: "},
		{second(c.Remove("no-such", false)), unix.ENXIO, "dm: remove no-such: "},
		{second(c.Create("a/b", "")), unix.EINVAL, `create "a/b": `},
		{second(c.Create(strings.Repeat("x", 128), "")), unix.EINVAL, "create "},
		{c.Message("no-such", "delete 5"), unix.ENXIO, "dm: delete 5 to no-such: "},
		{second(c.TargetVersion("no-such-target")), ErrUnsupported, "device-mapper target no-such-target: not in this kernel"},
	} {
		if !errors.Is(test.err, test.errno) || !strings.HasPrefix(test.err.Error(), test.text) {
			t.Errorf("got %v, want %q... and %v", test.err, test.text, test.errno)
		}
	}
	if _, err := c.Create("thinrun-test-twice", ""); err != nil {
		t.Fatal(err)
	}
	defer c.Remove("thinrun-test-twice", false)
	if _, err := c.Create("thinrun-test-twice", ""); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a taken name: %v, want %v", err, unix.EBUSY)
	}
	if v, err := c.TargetVersion("thin-pool"); err != nil || v[0] != 1 {
		t.Errorf("thin-pool is version %v, %v", v, err)
	}
}

func second[T any](_ T, err error) error { return err }
