package lifecycle

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// files are the names of the kinds below /proc/PID/ns.
var files = map[specs.LinuxNamespaceType]string{
	specs.PIDNamespace: "pid", specs.NetworkNamespace: "net", specs.MountNamespace: "mnt", specs.IPCNamespace: "ipc",
	specs.UTSNamespace: "uts", specs.CgroupNamespace: "cgroup", specs.TimeNamespace: "time", specs.UserNamespace: "user",
}

func namespaceOf(t *testing.T, pid int, kind specs.LinuxNamespaceType) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, files[kind]))
	check(t, err)
	return link
}

// Each kind as new, by path, and as the caller's own.
func TestNamespaces(t *testing.T) {
	rt := newRuntime(t)
	first := rt.Create(testbundle.New(t).Args("sleep", "100000").Join(specs.CgroupNamespace, ""))
	first.Start()
	for kind, file := range files {
		if _, err := os.Stat("/proc/self/ns/" + file); err != nil {
			t.Logf("this kernel has no %s namespaces", kind) // the lab's has no time
			continue
		}
		ours, firsts := namespaceOf(t, os.Getpid(), kind), namespaceOf(t, first.PID, kind)
		look := func(b *testbundle.Bundle) string {
			t.Helper()
			return strings.TrimSpace(rt.OK("run", "--bundle", b.Args("readlink", "/proc/self/ns/"+file).Path(), rt.ID()))
		}
		made := testbundle.New(t)
		if kind == specs.UserNamespace {
			made.UserNamespace(100000)
		} else {
			made.Join(kind, "")
		}
		if got := look(made); got == ours || got == firsts {
			t.Errorf("%s: not a new one: %s", kind, got)
		}
		if kind != specs.UserNamespace && kind != specs.TimeNamespace && kind != specs.MountNamespace {
			if firsts == ours {
				t.Errorf("%s: the first container has ours", kind)
			}
			if got := look(testbundle.New(t).Join(kind, fmt.Sprintf("/proc/%d/ns/%s", first.PID, file))); got != firsts {
				t.Errorf("%s: %s, want that of the other container, %s", kind, got, firsts)
			}
		}
		if kind != specs.MountNamespace {
			b := testbundle.New(t).Without(kind)
			if kind == specs.UTSNamespace {
				b.Hostname("")
			}
			if got := look(b); got != ours {
				t.Errorf("%s: %s, want ours, %s", kind, got, ours)
			}
		}
	}
	end(first)
}

// A pod: the second container shares everything but the root with the first.
func TestPod(t *testing.T) {
	rt := newRuntime(t)
	for _, user := range []bool{false, true} {
		b := testbundle.New(t).Args("sleep", "100000")
		if user {
			b.UserNamespace(100000)
		}
		first := rt.Create(b)
		first.Start()
		second := testbundle.New(t).Shell("hostname; ps | grep -c '[s]leep 100000'; id -u").Hostname("")
		shared := []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace}
		if user {
			second.UserNamespace(100000)
			second.Spec.Linux.UIDMappings, second.Spec.Linux.GIDMappings = nil, nil
			shared = append(shared, specs.UserNamespace)
		}
		for _, kind := range shared {
			second.Join(kind, fmt.Sprintf("/proc/%d/ns/%s", first.PID, files[kind]))
		}
		got := rt.Run("run", "--bundle", second.Path(), rt.ID())
		if got.Code != 0 || got.Stdout != b.Spec.Hostname+"\n1\n0\n" {
			t.Errorf("user namespace %v: %v", user, got)
		}
		if st := first.State(); st.Status != "running" {
			t.Errorf("the end of the second ended the first: %+v", st)
		}
		end(first)
	}
}

func TestNamespaceThatIsNot(t *testing.T) {
	rt := newRuntime(t)
	for _, x := range []struct {
		kind specs.LinuxNamespaceType
		path string
		want string
	}{
		{specs.NetworkNamespace, "/nonexistent", "/nonexistent"},
		{specs.NetworkNamespace, "/proc/self/ns/uts", "/proc/self/ns/uts"},
		{specs.NetworkNamespace, "/etc/passwd", "/etc/passwd"},
		{specs.PIDNamespace, "/proc/self/ns/net", "/proc/self/ns/net"},
		{specs.IPCNamespace, "relative", "linux.namespaces"},
	} {
		rt.Fails(1, []string{"create", "--bundle", testbundle.New(t).Join(x.kind, x.path).Path(), "x"}, x.want)
	}
	rt.Fails(1, []string{"state", "x"}, "does not exist")
}
