package lifecycle

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestExecFlags(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Args("sleep", "100000").Env("BASE=1")
	b.Spec.Process.Cwd = "/etc"
	c := rt.Create(b)
	c.Start()
	grep := func(field string) []string { return []string{"grep", field, "/proc/self/status"} }
	for _, x := range []struct {
		name  string
		flags []string
		args  []string
		want  string
	}{
		{"base", nil, []string{"sh", "-c", "id -u; pwd; echo $BASE"}, "0\n/etc\n1\n"},
		{"cwd", []string{"--cwd", "/tmp"}, []string{"pwd"}, "/tmp\n"},
		{"user", []string{"--user", "1000"}, []string{"sh", "-c", "id -u; id -g; echo $HOME"}, "1000\n0\n/home/user\n"},
		{"user and group", []string{"-u", "1000:1000"}, []string{"sh", "-c", "id -u; id -g"}, "1000\n1000\n"},
		{"groups", []string{"-g", "7", "--additional-gids", "8", "-u", "1000"}, []string{"id", "-G"}, "0 7 8\n"},
		{"env", []string{"-e", "A=b,c", "--env", "BASE=2"}, []string{"sh", "-c", "echo $A $BASE"}, "b,c 2\n"},
		{"cap", []string{"--cap", "CAP_SYS_ADMIN"}, grep("CapEff"), "CapEff:\t0000000020200420\n"},
		{"no new privileges", []string{"--no-new-privs"}, grep("NoNewPrivs"), "NoNewPrivs:\t1\n"},
		{"terminal", []string{"--tty"}, []string{"sh", "-c", "tty; test -t 0 && echo yes"}, "/dev/pts/0\nyes\n"},
		{"detach=false", []string{"--detach=false"}, []string{"echo", "x"}, "x\n"},
	} {
		got := rt.Run(append(append(append([]string{"exec"}, x.flags...), c.ID), x.args...)...)
		if got.Code != 0 || got.Stdout != x.want || got.Stderr != "" {
			t.Errorf("%s: want %q; %v", x.name, x.want, got)
		}
	}
	for _, x := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--user", "nobody"}, `"nobody"`},
		{[]string{"--user", "1:2:3"}, "1:2:3"},
		{[]string{"--env", "novalue"}, "novalue"},
		{[]string{"--cwd", "relative"}, "relative"},
		{[]string{"--cap", "CAP_NOSUCH"}, "CAP_NOSUCH"},
		{[]string{"--process", "/nonexistent"}, "/nonexistent"},
		{[]string{"--cgroup", "../.."}, "../.."},
		{[]string{"--cgroup", "nosuch"}, "nosuch"},
		{[]string{"--tty", "--detach"}, "console socket"},
		{[]string{"--console-socket", "/nonexistent"}, "console socket"},
	} {
		rt.Fails(255, append(append([]string{"exec"}, x.flags...), c.ID, "true"), x.want)
	}
	if got := c.Exec("ps"); strings.Count(got.Stdout, "\n") != 3 { // its title, sleep and itself
		t.Errorf("somebody is left: %s", got.Stdout)
	}
	end(c)
}

// The words by which Docker and Podman tell 126 from 127.
func TestProgramThatCannotRun(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Args("sleep", "100000").File("etc/data", "no program", 0o644).File("bin/junk", "\x7fELFjunk", 0o755)
	c := rt.Create(b)
	c.Start()
	for _, x := range []struct{ program, want string }{
		{"nosuch", `exec: "nosuch": executable file not found in $PATH`},
		{"/nosuch", "no such file or directory"},
		{"/etc/data", "permission denied"},
		{"/etc", "is a directory"},
		{"/etc/data/below", "not a directory"},
		{"/bin/junk", "exec format error"},
	} {
		if x.program == "/bin/junk" {
			// The kernel says so at the execve, after create has been told that all is well.
			id := rt.ID()
			rt.OK("create", "--bundle", testbundle.New(t).Args(x.program).File("bin/junk", "\x7fELFjunk", 0o755).Path(), id)
			rt.Fails(1, []string{"start", id}, x.want, x.program)
			rt.OK("delete", "--force", id)
			rt.Fails(1, []string{"run", "--bundle", testbundle.New(t).Args(x.program).File("bin/junk", "\x7fELFjunk", 0o755).Path(), id}, x.want, x.program)
			rt.Fails(1, []string{"state", id}, "does not exist")
			pidFile := t.TempDir() + "/pid"
			for _, flags := range [][]string{{}, {"--detach", "--pid-file", pidFile}} {
				rt.Fails(255, append(append([]string{"exec"}, flags...), c.ID, x.program), x.want, x.program)
			}
			if _, err := os.Lstat(pidFile); !os.IsNotExist(err) {
				t.Errorf("pid file of a program that did not run: %v", err)
			}
			continue
		}
		rt.Fails(255, []string{"exec", c.ID, x.program}, x.want, x.program)
		rt.Fails(1, []string{"create", "--bundle", testbundle.New(t).Args(x.program).File("etc/data", "", 0o644).Path(), "x"}, x.want, x.program)
		rt.Fails(1, []string{"run", "--bundle", testbundle.New(t).Args(x.program).File("etc/data", "", 0o644).Path(), "x"}, x.want, x.program)
	}
	end(c)
}

func TestExecProcessFile(t *testing.T) {
	rt := newRuntime(t)
	c := sleeper(t, rt)
	file := t.TempDir() + "/process.json"
	write := func(p specs.Process) {
		data, err := json.Marshal(p)
		check(t, err)
		check(t, os.WriteFile(file, data, 0o600))
	}
	write(specs.Process{Args: []string{"sh", "-c", "id -u; pwd; echo $A; grep CapEff /proc/self/status; exit 12"}, Cwd: "/tmp",
		Env: []string{"PATH=/bin", "A=b"}, User: specs.User{UID: 1000, GID: 1000}})
	got := rt.Run("exec", "--process", file, c.ID)
	if got.Code != 12 || got.Stdout != "1000\n/tmp\nb\nCapEff:\t0000000000000000\n" {
		t.Error(got)
	}
	// as containerd does it
	recv := newReceiver(t)
	write(specs.Process{Args: []string{"sh", "-c", "stty size; read x"}, Cwd: "/", Env: []string{"PATH=/bin"}, Terminal: true, ConsoleSize: &specs.Box{Height: 12, Width: 34}})
	pidFile := t.TempDir() + "/pid"
	rt.OK("exec", "--process", file, "--console-socket", recv.path, "--detach", "--pid-file", pidFile, c.ID)
	_, master := recv.file()
	until(t, master, "12 34\r\n")
	master.WriteString("\n")
	pid, err := strconv.Atoi(read(t, pidFile))
	check(t, err)
	if code := rt.Reap(pid); code != 0 {
		t.Errorf("ended with %d", code)
	}
	check(t, os.WriteFile(file, []byte(`{"args": "x"}`), 0o600))
	rt.Fails(255, []string{"exec", "--process", file, c.ID}, "args")
	end(c)
}

func TestExecReadsStdin(t *testing.T) {
	rt := newRuntime(t)
	c := sleeper(t, rt)
	for range 3 {
		cmd := rt.Command("exec", c.ID, "wc", "-c")
		cmd.Stdin = strings.NewReader(strings.Repeat("x", 200000))
		if got := rt.Do(cmd); strings.TrimSpace(got.Stdout) != "200000" {
			t.Error(got)
		}
	}
	end(c)
}

// A waiting exec is called what it was called: ps, top and pidof know it by that.
func TestExecKeepsItsName(t *testing.T) {
	rt := newRuntime(t)
	c := sleeper(t, rt)
	cmd := rt.Command("exec", c.ID, "cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	r := startPiped(t, rt, cmd)
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 1)); err != nil { // the program runs
		t.Fatal(err)
	}
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(comm)), filepath.Base(cmd.Args[0]); got != want {
		t.Errorf("it is called %q, want %q", got, want)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	end(c)
}

// exec is a member of everything: the container's cgroup and all of its namespaces.
func TestExecJoinsEverything(t *testing.T) {
	rt := newRuntime(t)
	for _, user := range []bool{false, true} {
		b := testbundle.New(t).Args("sleep", "100000")
		if user {
			b.UserNamespace(100000)
		}
		c := rt.Create(b)
		for _, when := range []string{"created", "running"} {
			if when == "running" {
				c.Start()
			}
			look := "cat /proc/self/cgroup; "
			if when == "running" { // until then nobody may look into init
				look += "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done; "
			}
			look += "id -u"
			inside := c.Exec("sh", "-c", look)
			init := c.Exec("sh", "-c", strings.ReplaceAll(look, "self", "1"))
			if inside.Code != 0 || inside.Stdout != init.Stdout || !strings.HasSuffix(inside.Stdout, "\n0\n") {
				t.Errorf("user namespace %v, %s: want as init's, %q; %v", user, when, init.Stdout, inside)
			}
			ours, err := os.Readlink("/proc/self/ns/user")
			check(t, err)
			if when == "running" && strings.Contains(inside.Stdout, ours) == user {
				t.Errorf("user namespace %v: %s", user, inside.Stdout)
			}
		}
		end(c)
	}
}

// Go raises the soft limit of open files for itself; a program that select()s would
// suffer from it.
func TestOpenFilesLimitIsTheCallers(t *testing.T) {
	rt := newRuntime(t)
	const show = "ulimit -Sn"
	b := testbundle.New(t).Shell(show)
	b.Spec.Process.Rlimits = nil
	sleeping := testbundle.New(t).Args("sleep", "100000")
	sleeping.Spec.Process.Rlimits = nil
	c := rt.Create(sleeping)
	c.Start()
	for _, args := range [][]string{{"run", "--bundle", b.Path(), rt.ID()}, {"exec", c.ID, "sh", "-c", show}} {
		cmd := rt.Command(args...)
		cmd.Args = append([]string{"sh", "-c", `ulimit -Sn 700 && exec "$0" "$@"`, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		if got := rt.Do(cmd); got.Code != 0 || got.Stdout != "700\n" {
			t.Error(got)
		}
	}
	end(c)
}

// TestExecWithoutDACOverride: what the command may do to its stage at first it may not any
// more when that is in the container's user namespace.
func TestExecWithoutDACOverride(t *testing.T) {
	rt := newRuntime(t)
	c := rt.Create(testbundle.New(t).Args("sleep", "100000").UserNamespace(100000))
	c.Start()
	cmd := rt.Command("exec", c.ID, "cat", "/proc/self/oom_score_adj")
	less := exec.Command("setpriv", append([]string{"--bounding-set", "-dac_override,-dac_read_search"}, cmd.Args...)...)
	less.Env, less.Stdout, less.Stderr = cmd.Env, cmd.Stdout, cmd.Stderr
	want := rt.OK("exec", c.ID, "cat", "/proc/self/oom_score_adj")
	if got := rt.Do(less); got.Code != 0 || got.Stdout != want {
		t.Errorf("%v, want %q", got, want)
	}
}
