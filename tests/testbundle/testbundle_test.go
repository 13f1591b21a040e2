package testbundle

import (
	"bufio"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"thinrun/libcontainer/bundle"
	"thinrun/tests/box"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestBundleIsValid(t *testing.T) {
	b := New(t).Shell("echo hello").Env("A=1").Hostname("name").Cwd("/tmp").User(1000, 1000, 5).Writable().
		Memory(1<<25).Pids(10).Bind("/etc", "/mnt", "ro").Image("base").Without(specs.IPCNamespace).
		Join(specs.NetworkNamespace, "/proc/self/ns/net").File("etc/motd", "hi", 0o600)
	loaded, err := bundle.Load(b.Path(), "")
	if err != nil {
		t.Fatal(err)
	}
	if got := loaded.Spec.Process; got.Cwd != "/tmp" || got.User.UID != 1000 || !slices.Contains(got.Env, "A=1") {
		t.Errorf("got %+v", got)
	}
	for _, ns := range loaded.Spec.Linux.Namespaces {
		if ns.Type == specs.IPCNamespace || ns.Type == specs.NetworkNamespace && ns.Path == "" {
			t.Errorf("namespace %+v", ns)
		}
	}
	if out, err := exec.Command(filepath.Join(b.Root(), "bin/busybox"), "sh", "-c", "echo runs").Output(); err != nil || string(out) != "runs\n" {
		t.Errorf("busybox of the root: %q, %v", out, err)
	}
}

// fake is a Runtime around a script in place of thinrun.
func fake(t *testing.T, script string) *Runtime {
	t.Helper()
	box.Root(t)
	path := filepath.Join(t.TempDir(), "fake")
	check(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755))
	t.Setenv("THINRUN", path)
	return NewRuntime(t)
}

func TestResult(t *testing.T) {
	rt := fake(t, `[ "$5" = die ] && kill -9 $$; echo "$5"; echo one line >&2; exit 3`)
	got := rt.Run("word")
	if got.Code != 3 || got.Stdout != "word\n" || got.Stderr != "one line\n" {
		t.Error(got)
	}
	if got := rt.Run("die"); got.Code != 137 {
		t.Error(got)
	}
	rt.Fails(3, []string{"x"}, "one line")
}

// What we are here for: nothing may be overlooked.
func TestSnapshotSeesLeftovers(t *testing.T) {
	// The orphan has left its parent and its session; only a subreaper still finds it.
	rt := fake(t, `setsid sh -c 'echo ready; exec cat' < "$5" & exit 0`)
	expect := func(part string, undo func()) {
		t.Helper()
		added := rt.Snapshot().Since(rt.Before())
		if len(added) == 0 || !strings.Contains(strings.Join(added, "\n"), part) {
			t.Errorf("no %q in %q", part, added)
		}
		undo()
		if left := rt.Left(rt.Before()); len(left) > 0 {
			t.Errorf("after it is gone: %q", left)
		}
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	writer, err := os.OpenFile(fifo, os.O_RDWR, 0)
	check(t, err)
	rt.OK(fifo)
	expect("process ", func() { killOrphans(t, rt) })
	writer.Close()

	check(t, os.MkdirAll(filepath.Join(rt.Root, "some-id"), 0o700))
	expect("state some-id", func() { check(t, os.RemoveAll(rt.Root)) })

	socket, err := net.Listen("unix", "@thinrun-testbundle")
	check(t, err)
	expect("socket @thinrun-testbundle", func() { socket.Close() })

	box.Require(t) // the rest changes the machine
	dir := t.TempDir()
	check(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	expect("mount ", func() { check(t, unix.Unmount(dir, 0)) })

	cgroup, err := os.MkdirTemp(someHierarchy(t), "testbundle")
	check(t, err)
	expect("cgroup "+cgroup, func() { check(t, os.Remove(cgroup)) })
}

// killOrphans ends the children that a dead command left to us.
func killOrphans(t *testing.T, rt *Runtime) {
	t.Helper()
	for _, p := range processes() {
		if p.ppid == os.Getpid() && !rt.started[p.pid] {
			check(t, unix.Kill(p.pid, unix.SIGKILL))
		}
	}
}

// someHierarchy is a cgroup hierarchy's root.
func someHierarchy(t *testing.T) string {
	t.Helper()
	f, err := os.Open("/proc/self/mountinfo")
	check(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if left, right, _ := strings.Cut(lines.Text(), " - "); strings.HasPrefix(right, "cgroup") {
			dir := strings.Fields(left)[4]
			if unix.Access(dir, unix.W_OK) == nil {
				return dir
			}
		}
	}
	box.Lacks(t, "a cgroup hierarchy")
	return ""
}

func TestStatic(t *testing.T) {
	if err := static("/bin/busybox"); errors.Is(err, os.ErrNotExist) {
		box.Lacks(t, "/bin/busybox")
	} else if err != nil {
		t.Error(err)
	}
	if static("/bin/ls") == nil {
		t.Error("Debian's ls is static?")
	}
	if static("/etc/passwd") == nil {
		t.Error("passwd is a program?")
	}
}

// The whole harness around the real binary, once.
func TestRuntimeRunsContainer(t *testing.T) {
	rt := NewRuntime(t)
	b := New(t).Shell("hostname; id -u; id -g; pwd; echo $HOME; grep CapEff /proc/self/status").
		Hostname("box").User(1000, 1000).Cwd("/tmp")
	if got, want := rt.OK("run", "--bundle", b.Path(), rt.ID()), "box\n1000\n1000\n/tmp\n/home/user\nCapEff:\t0000000000000000\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	rt.Fails(1, []string{"run", "--bundle", New(t).Args("nosuch").Path(), rt.ID()}, `exec: "nosuch": executable file not found in $PATH`)

	c := rt.Create(New(t).Shell("echo started; exec sleep 1000"))
	if st := c.State(); st.Status != "created" || st.PID != c.PID || c.Output() != "" {
		t.Errorf("got %+v, output %q", st, c.Output())
	}
	if left := rt.Snapshot().Since(rt.Before()); len(left) == 0 {
		t.Error("a container is there, and nothing of it is seen")
	}
	c.Start()
	c.Kill("KILL")
	if got := c.Wait(); got != 137 {
		t.Errorf("exit code %d, want 137", got)
	}
	c.Delete()
	rt.Fails(1, []string{"state", c.ID}, "does not exist")
	rt.Forget(c.ID)
	rt.Clean()
}
