package lifecycle

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// kinds are the hooks in the order in which they run.
var kinds = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// hooksIn gives a bundle one hook of each kind, which runs script with its kind as $0.
func hooksIn(b *testbundle.Bundle, script string) *testbundle.Bundle {
	timeout := 60
	hook := func(kind string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script, kind}, Env: []string{"PATH=/bin:/usr/bin", "ONLY=this"}, Timeout: &timeout}}
	}
	return b.Edit(func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{Prestart: hook(kinds[0]), CreateRuntime: hook(kinds[1]), CreateContainer: hook(kinds[2]),
			StartContainer: hook(kinds[3]), Poststart: hook(kinds[4]), Poststop: hook(kinds[5])}
	})
}

func TestHooks(t *testing.T) {
	rt := newRuntime(t)
	// One directory under one name outside and inside.
	dir := t.TempDir()
	const script = `cat > %/$0.state; env > %/$0.env; pwd > %/$0.pwd; echo $0 >> %/order; ls -d /bin/busybox-of-the-container > %/$0.root 2>&1 || true`
	b := hooksIn(testbundle.New(t).Shell("echo program >> "+dir+"/order"), strings.ReplaceAll(script, "%", dir)).
		File("bin/busybox-of-the-container", "", 0o755).Bind(dir, dir)
	b.Spec.Annotations = map[string]string{"key": "value"}
	b.Spec.Root.Readonly = false // for the bind's mount point
	c := rt.Create(b)
	if got := read(t, dir+"/order"); got != "prestart\ncreateRuntime\ncreateContainer\n" {
		t.Errorf("after create: %q", got)
	}
	pid := c.PID
	c.Start()
	c.Wait()
	c.Delete()
	order := read(t, dir+"/order")
	// The program and poststart run side by side.
	if got := strings.Replace(order, "program\n", "", 1); got != strings.Join(kinds, "\n")+"\n" || got == order {
		t.Errorf("order: %q", order)
	}
	status := map[string]string{"prestart": "creating", "createRuntime": "creating", "createContainer": "creating",
		"startContainer": "created", "poststart": "running", "poststop": "stopped"}
	for _, kind := range kinds {
		var st specs.State
		if err := json.Unmarshal([]byte(read(t, dir+"/"+kind+".state")), &st); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		wantPID := pid
		if kind == "poststop" {
			wantPID = 0
		}
		if (string(st.Status) != status[kind]) || st.ID != c.ID || st.Pid != wantPID || st.Bundle != b.Dir || st.Annotations["key"] != "value" || st.Version == "" {
			t.Errorf("%s: status should be %s and pid %d, got %+v", kind, status[kind], wantPID, st)
		}
		env := read(t, dir+"/"+kind+".env")
		for _, v := range lines(env) {
			if name, _, _ := strings.Cut(v, "="); name != "PATH" && name != "ONLY" && name != "PWD" && name != "SHLVL" && name != "_" && name != "OLDPWD" {
				t.Errorf("%s: %q is in its environment", kind, v)
			}
		}
		want := b.Dir + "\n"
		if kind == "startContainer" {
			want = "/\n"
		}
		if got := read(t, dir+"/"+kind+".pwd"); got != want {
			t.Errorf("%s: runs in %q, want %q", kind, got, want)
		}
		if inside := read(t, dir+"/"+kind+".root") == "/bin/busybox-of-the-container\n"; inside != (kind == "startContainer") {
			t.Errorf("%s: in the container's root: %v", kind, inside)
		}
	}
}

// A failing hook stops what it belongs to, and nothing of the container is left; only
// poststop's failure changes nothing.
func TestFailingHook(t *testing.T) {
	rt := newRuntime(t)
	for _, kind := range kinds {
		dir := t.TempDir()
		// Each writes its name; one fails, with a word why.
		b := hooksIn(testbundle.New(t).Args("sleep", "100000"), `echo $0 >> `+dir+`/order; [ $0 != `+kind+` ] || { echo because of $0 >&2; exit 7; }`).Bind(dir, dir)
		b.Spec.Root.Readonly = false
		id := rt.ID()
		switch kind {
		case "prestart", "createRuntime", "createContainer":
			rt.Fails(1, []string{"create", "--bundle", b.Path(), id}, kind, "exit status 7", "because of "+kind)
			rt.Fails(1, []string{"state", id}, "does not exist")
			if left := rt.Left(rt.Before()); len(left) > 0 {
				t.Errorf("%s left %q", kind, left)
			}
		case "startContainer", "poststart":
			c := rt.Create(b)
			rt.Fails(1, []string{"start", c.ID}, kind, "exit status 7", "because of "+kind)
			c.Wait()
			if st := c.State(); st.Status != "stopped" {
				t.Errorf("%s: %+v", kind, st)
			}
			c.Delete()
		case "poststop":
			rt.OK("create", "--bundle", b.Path(), id)
			got := rt.Run("delete", id)
			if got.Code != 0 || !strings.Contains(got.Stderr, "because of poststop") {
				t.Error(got)
			}
			rt.Fails(1, []string{"state", id}, "does not exist")
		}
		if order := read(t, dir+"/order"); !strings.Contains(order, kind+"\n") {
			t.Errorf("%s: has not run: %q", kind, order)
		}
		if kind != "poststop" && kind != "poststart" {
			// run does the same with all of them at once
			rt.Fails(1, []string{"run", "--bundle", b.Path(), rt.ID()}, kind, "because of "+kind)
		}
	}
}

// ^C while a hook hangs ends a foreground run at once, and not at the hook's deadline.
func TestSignalWhileAHookRuns(t *testing.T) {
	rt := newRuntime(t)
	for _, kind := range kinds[:5] {
		dir := t.TempDir()
		check(t, unix.Mkfifo(dir+"/fifo", 0o600))
		b := hooksIn(testbundle.New(t).Args("sleep", "100000"), `[ $0 != `+kind+` ] || { echo > `+dir+`/fifo; sleep 100000; }`).Bind(dir, dir)
		b.Spec.Root.Readonly = false
		cmd := rt.Command("run", "--pid-file", dir+"/pid", "--bundle", b.Path(), rt.ID())
		rt.Start(cmd)
		read(t, dir+"/fifo") // until the hook is at work
		check(t, cmd.Process.Signal(unix.SIGINT))
		if got := rt.Wait(cmd); got.Code != 1 || !strings.Contains(got.Stderr, "ended by SIGINT") {
			t.Errorf("%s: %v", kind, got)
		}
		if _, err := os.Stat(dir + "/pid"); err == nil {
			t.Errorf("%s left the pid file of nobody", kind)
		}
		if left := rt.Left(rt.Before()); len(left) > 0 {
			t.Errorf("%s left %q", kind, left)
		}
	}
}

func TestHookTimeout(t *testing.T) {
	rt := newRuntime(t)
	one := 1
	b := testbundle.New(t).Edit(func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 100000"}, Env: []string{"PATH=/bin:/usr/bin"}, Timeout: &one}}}
	})
	id := rt.ID()
	rt.Fails(1, []string{"create", "--bundle", b.Path(), id}, "createRuntime", "1s")
	rt.Fails(1, []string{"state", id}, "does not exist")
	b.Spec.Hooks.CreateRuntime[0].Path = "/nonexistent"
	rt.Fails(1, []string{"create", "--bundle", b.Path(), id}, "createRuntime", "/nonexistent", "no such file")
	b.Spec.Hooks.CreateRuntime[0].Path = "relative"
	rt.Fails(1, []string{"create", "--bundle", b.Path(), id}, "hooks.createRuntime", "relative")
	if _, err := os.Stat(rt.Root + "/" + id); err == nil {
		t.Error("state is left")
	}
}
