package lifecycle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The words in quotes are what shims look for.

func TestVerbsOnAbsent(t *testing.T) {
	rt := newRuntime(t)
	const absent = "container does not exist"
	for _, args := range [][]string{{"state", "no"}, {"start", "no"}, {"kill", "no"}, {"kill", "--all", "no", "9"}, {"delete", "no"}} {
		rt.Fails(1, args, absent, `"no"`)
	}
	rt.Fails(255, []string{"exec", "no", "true"}, absent)
	rt.OK("delete", "--force", "no")
}

func TestVerbsOnCreated(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Shell("echo started; exec sleep 100000")
	c := rt.Create(b)
	if st := c.State(); st.Status != "created" || st.PID != c.PID || c.PID == 0 {
		t.Errorf("got %+v", st)
	}
	rt.Fails(1, []string{"create", "--bundle", b.Path(), c.ID}, "container with given ID already exists")
	rt.Fails(1, []string{"run", "--bundle", b.Path(), c.ID}, "container with given ID already exists")
	if got := c.Exec("echo", "inside"); got.Code != 0 || got.Stdout != "inside\n" {
		t.Errorf("exec: %v", got)
	}
	if c.Output() != "" {
		t.Errorf("the program runs: %q", c.Output())
	}
	c.Delete() // kills init
	if got := c.Wait(); got != 137 {
		t.Errorf("init ended with %d", got)
	}
	rt.Fails(1, []string{"state", c.ID}, "container does not exist")

	c = rt.Create(b)
	c.Kill("KILL")
	c.Wait()
	if st := c.State(); st.Status != "stopped" || st.PID != 0 {
		t.Errorf("after kill: %+v", st)
	}
	rt.Fails(1, []string{"start", c.ID}, "stopped")
	c.Delete()
}

func TestVerbsOnRunning(t *testing.T) {
	rt := newRuntime(t)
	c := sleeper(t, rt)
	if st := c.State(); st.Status != "running" || st.PID != c.PID {
		t.Errorf("got %+v", st)
	}
	rt.Fails(1, []string{"start", c.ID}, "cannot start an already running container")
	rt.Fails(1, []string{"delete", c.ID}, "cannot delete container "+c.ID+" that is not stopped")
	rt.Fails(1, []string{"create", "--bundle", testbundle.New(t).Path(), c.ID}, "container with given ID already exists")
	if st := c.State(); st.Status != "running" {
		t.Errorf("the refusals changed it: %+v", st)
	}
	c.Delete("--force")
	if got := c.Wait(); got != 137 {
		t.Errorf("init ended with %d", got)
	}
	rt.Fails(1, []string{"delete", c.ID}, "container does not exist")
}

func TestVerbsOnStopped(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Shell("exit 3")
	c := rt.Create(b)
	c.Start()
	if got := c.Wait(); got != 3 {
		t.Errorf("exit code %d", got)
	}
	if st := c.State(); st.Status != "stopped" || st.PID != 0 {
		t.Errorf("got %+v", st)
	}
	rt.Fails(1, []string{"start", c.ID}, "stopped")
	rt.Fails(1, []string{"kill", c.ID}, "container not running")
	rt.Fails(1, []string{"kill", c.ID, "KILL"}, "container not running")
	rt.OK("kill", "--all", c.ID, "9")
	rt.OK("kill", "--all", c.ID)
	rt.Fails(255, []string{"exec", c.ID, "true"}, "container not running")
	rt.Fails(1, []string{"create", "--bundle", b.Path(), c.ID}, "container with given ID already exists")
	c.Delete()
	rt.OK("delete", "--force", c.ID)
}

// A stopped container whose init nobody has waited for is stopped all the same.
func TestZombieIsStopped(t *testing.T) {
	rt := newRuntime(t)
	c := rt.Create(testbundle.New(t))
	c.Start()
	var info unix.Siginfo
	check(t, unix.Waitid(unix.P_PID, c.PID, &info, unix.WEXITED|unix.WNOWAIT, nil))
	if st := c.State(); st.Status != "stopped" || st.PID != 0 {
		t.Errorf("got %+v", st)
	}
	rt.Fails(1, []string{"kill", c.ID}, "container not running")
	c.Wait()
	c.Delete()
}

// While create runs there is a state and nothing else.
func TestVerbsOnCreating(t *testing.T) {
	rt := newRuntime(t)
	dir := t.TempDir()
	for _, name := range []string{"in", "out"} {
		check(t, unix.Mkfifo(filepath.Join(dir, name), 0o600))
	}
	b := testbundle.New(t).Args("sleep", "100000").Edit(func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo > " + dir + "/out; read x < " + dir + "/in"}}}}
	})
	id := rt.ID()
	cmd := rt.Command("create", "--bundle", b.Path(), id)
	rt.Start(cmd)
	_, err := os.ReadFile(dir + "/out") // the hook runs now
	check(t, err)
	if out := rt.OK("state", id); !strings.Contains(out, `"status": "creating"`) || !strings.Contains(out, `"pid": 0`) {
		t.Errorf("got %s", out)
	}
	if out := rt.OK("list"); !regexp.MustCompile(id + ` +0 +creating `).MatchString(out) {
		t.Errorf("got %s", out)
	}
	rt.Fails(1, []string{"create", "--bundle", b.Path(), id}, "container with given ID already exists")
	rt.Fails(255, []string{"exec", id, "true"}, "creating")
	rt.Fails(1, []string{"kill", id}, "container not running")
	check(t, os.WriteFile(dir+"/in", []byte("\n"), 0))
	if got := rt.Wait(cmd); got.Code != 0 {
		t.Fatal(got)
	}
	if out := rt.OK("state", id); !strings.Contains(out, `"created"`) {
		t.Errorf("got %s", out)
	}
	rt.OK("delete", id)
}

// CRI-O, buildkit and Podman read these fields; runc's order and types.
func TestStateAndList(t *testing.T) {
	rt := newRuntime(t)
	if out := rt.OK("list", "--format", "json"); out != "null\n" {
		t.Errorf("none: %q", out)
	}
	b := testbundle.New(t).Args("sleep", "100000").Edit(func(s *specs.Spec) {
		s.Annotations = map[string]string{"b": "2", "a": "<&>"}
	})
	c := rt.Create(b)
	shape := regexp.MustCompile(`^\{
  "ociVersion": "1\.[0-9.]+\S*",
  "id": "` + c.ID + `",
  "pid": [0-9]+,
  "status": "created",
  "bundle": "` + b.Dir + `",
  "rootfs": "` + b.Root() + `",
  "created": "[-0-9]{10}T[:0-9]{8}(\.[0-9]{1,9})?Z",
  "annotations": \{
    "a": ".*",
    "b": "2"
  \},
  "owner": "root"
\}
$`)
	if out := rt.OK("state", c.ID); !shape.MatchString(out) {
		t.Errorf("got %s", out)
	}
	st := c.State()
	if age := time.Since(st.Created); age < 0 || age > time.Hour || st.Annotations["a"] != "<&>" {
		t.Errorf("got %+v", st)
	}
	c.Start()
	var list []testbundle.State
	check(t, json.Unmarshal([]byte(rt.OK("list", "-f", "json")), &list))
	if len(list) != 1 || list[0].ID != c.ID || list[0].Status != "running" || list[0].PID != c.PID || !list[0].Created.Equal(st.Created) {
		t.Errorf("got %+v", list)
	}
	if out := rt.OK("list", "--quiet"); out != c.ID+"\n" {
		t.Errorf("quiet: %q", out)
	}
	row := regexp.MustCompile(`(?m)^` + c.ID + ` +[0-9]+ +running +` + b.Dir + ` +\S+Z +root +-$`)
	if out := rt.OK("list"); !row.MatchString(out) {
		t.Errorf("table: %s", out)
	}
	end(c)
}

// Edits of config.json after create are nothing to a container (runtime-spec, lifecycle 2).
func TestConfigIsReadOnce(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Shell("echo first; exec sleep 100000").Env("WHICH=first")
	c := rt.Create(b)
	check(t, os.WriteFile(b.Dir+"/config.json", []byte("broken"), 0o600))
	c.Start()
	if got := c.Exec("sh", "-c", "echo $WHICH"); got.Stdout != "first\n" {
		t.Errorf("exec: %v", got)
	}
	check(t, os.Remove(b.Dir+"/config.json"))
	if got := c.Exec("sh", "-c", "echo $WHICH"); got.Stdout != "first\n" {
		t.Errorf("exec: %v", got)
	}
	end(c)
	if c.Output() != "first\n" {
		t.Errorf("got %q", c.Output())
	}
}
