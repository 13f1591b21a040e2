package lifecycle

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The pid file is the bare number, there when create returns, and
// names a child that is left to the caller.
func TestPidFile(t *testing.T) {
	rt := newRuntime(t)
	dir := t.TempDir()
	file := dir + "/init.pid"
	check(t, os.WriteFile(file, []byte("an older one, longer than a pid\n"), 0o600))
	c := rt.Create(testbundle.New(t).Args("sleep", "100000"), "--pid-file", file)
	if got := read(t, file); got != strconv.Itoa(c.PID) {
		t.Errorf("got %q, want %d", got, c.PID)
	}
	if got := parentOf(t, c.PID); got != os.Getpid() {
		t.Errorf("init's parent is %d, not us (%d)", got, os.Getpid())
	}
	c.Start()
	execFile := dir + "/exec.pid"
	rt.OK("exec", "--detach", "--pid-file", execFile, c.ID, "sh", "-c", "exit 9")
	pid, err := strconv.Atoi(read(t, execFile))
	check(t, err)
	if code := rt.Reap(pid); code != 9 {
		t.Errorf("exec'd process ended with %d", code)
	}
	list, err := os.ReadDir(dir)
	check(t, err)
	if len(list) != 2 {
		t.Errorf("beside the pid files: %v", list)
	}
	// One that cannot be written: nothing is left.
	rt.Fails(1, []string{"create", "--bundle", testbundle.New(t).Path(), "--pid-file", dir + "/none/pid", "other"}, "pid file", dir+"/none")
	rt.Fails(1, []string{"state", "other"}, "does not exist")
	rt.Fails(255, []string{"exec", "--detach", "--pid-file", dir + "/none/pid", c.ID, "sleep", "100000"}, "pid file")
	if got := c.Exec("ps"); strings.Count(got.Stdout, "sleep") != 1 {
		t.Errorf("the refused exec is still there: %s", got.Stdout)
	}
	end(c)
}

// Podman calls with an empty environment.
func TestEmptyEnvironment(t *testing.T) {
	rt := newRuntime(t)
	id := rt.ID()
	b := testbundle.New(t).Args("sleep", "100000")
	for _, args := range [][]string{
		{"create", "--bundle", b.Path(), id}, {"start", id}, {"exec", id, "true"}, {"state", id}, {"list"}, {"kill", id, "9"}, {"delete", "--force", id},
	} {
		cmd := rt.Command(args...)
		cmd.Env = []string{}
		if got := rt.Do(cmd); got.Code != 0 || got.Stderr != "" {
			t.Error(got)
		}
	}
}

// The streams of create are the container's, nobody else keeps them, and
// their end is the end of the container.
func TestStreamsAreInherited(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Shell("readlink /proc/self/fd/0; readlink /proc/self/fd/1; read line; echo got $line; read line || echo end")
	p := createPiped(t, rt, b)
	rt.OK("start", p.id)
	for range 2 {
		if got := p.line(); !strings.HasPrefix(got, "pipe:") {
			t.Errorf("stream is %q", got)
		}
	}
	fmt.Fprintln(p.stdin, "word")
	if got := p.line(); got != "got word" {
		t.Errorf("got %q", got)
	}
	p.stdin.Close()
	if got := p.line(); got != "end" {
		t.Errorf("got %q", got)
	}
	if rest, err := p.stdout.ReadString('\n'); rest != "" || err == nil {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	rt.Reap(p.pid)
	rt.OK("delete", p.id)
}

// The console socket.
func TestConsoleSocket(t *testing.T) {
	rt := newRuntime(t)
	recv := newReceiver(t)
	b := testbundle.New(t).Shell("stty size; tty; ls -l /dev/console; read line; echo got:$line; exit 4").Terminal().Edit(func(s *specs.Spec) {
		s.Process.ConsoleSize = &specs.Box{Height: 31, Width: 103}
	})
	c := rt.Create(b, "--console-socket", recv.path)
	name, master := recv.file()
	if !strings.Contains(name, "ptmx") && !strings.Contains(name, "pts") {
		t.Errorf("payload %q", name)
	}
	c.Start()
	said := until(t, master, "console\r\n")
	for _, want := range []string{"31 103\r\n", "/dev/pts/0\r\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in %q", want, said)
		}
	}
	_, err := master.WriteString("hello\n")
	check(t, err)
	until(t, master, "got:hello\r\n")
	if got := c.Wait(); got != 4 {
		t.Errorf("exit code %d", got)
	}
	c.Delete()

	// Where it must be, and where it must not.
	rt.Fails(1, []string{"create", "--bundle", b.Path(), "x"}, "console socket")
	rt.Fails(1, []string{"run", "--detach", "--bundle", b.Path(), "x"}, "console socket")
	rt.Fails(1, []string{"run", "--console-socket", recv.path, "--bundle", b.Path(), "x"}, "console socket")
	rt.Fails(1, []string{"create", "--console-socket", recv.path, "--bundle", testbundle.New(t).Path(), "x"}, "console socket")
	rt.Fails(1, []string{"create", "--console-socket", recv.path + ".none", "--bundle", b.Path(), "x"}, recv.path+".none")
	rt.Fails(1, []string{"state", "x"}, "does not exist")
}

// Exit codes of the foreground.
func TestExitCodes(t *testing.T) {
	rt := newRuntime(t)
	for _, code := range []int{0, 1, 7, 255} {
		if got := rt.Run("run", "--bundle", testbundle.New(t).Shell("exit "+strconv.Itoa(code)).Path(), rt.ID()); got.Code != code || got.Stderr != "" {
			t.Errorf("want %d; %v", code, got)
		}
	}
	// Without a pid namespace a program may kill itself; an init may not.
	b := testbundle.New(t).Without(specs.PIDNamespace).Shell("kill -KILL $$")
	if got := rt.Run("run", "--bundle", b.Path(), rt.ID()); got.Code != 128+9 {
		t.Error(got)
	}
	c := sleeper(t, rt)
	for script, want := range map[string]int{"exit 6": 6, "kill -TERM $$": 143, "kill -KILL $$": 137, "true": 0} {
		if got := c.Exec("sh", "-c", script); got.Code != want {
			t.Errorf("want %d; %v", want, got)
		}
	}
	end(c)
}

// A foreground run passes signals on, and its output is the container's alone.
func TestForegroundForwardsSignals(t *testing.T) {
	rt := newRuntime(t)
	cmd := rt.Command("run", "--bundle", testbundle.New(t).Args("/signals").Self("signals").Path(), rt.ID())
	out := startPiped(t, rt, cmd)
	until(t, out, "ready\n")
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGUSR1, unix.SIGWINCH, unix.Signal(40)} {
		check(t, cmd.Process.Signal(sig))
		if sig == unix.SIGWINCH { // is about the terminal, and there is none
			continue
		}
		until(t, out, strconv.Itoa(int(sig))+"\n")
	}
	check(t, cmd.Process.Signal(unix.SIGTERM))
	until(t, out, "15\n")
	if got := rt.Wait(cmd); got.Code != 0 {
		t.Error(got)
	}
}

// A cgroup that somebody lives in, or that is frozen, is not ours.
func TestForeignCgroupIsRefused(t *testing.T) {
	rt := newRuntime(t)
	path := "/" + filepath.Base(rt.ID()) + "-cgroup"
	b := testbundle.New(t).Args("sleep", "100000").Edit(func(s *specs.Spec) { s.Linux.CgroupsPath = path })
	c := rt.Create(b)
	dirs := cgroupPaths(t, rt, c.ID)
	rt.Fails(1, []string{"create", "--bundle", b.Path(), "second"}, "cgroup", path)
	if st := c.State(); st.Status != "created" {
		t.Errorf("the refusal changed the first: %+v", st)
	}
	c.Delete()
	c.Wait()

	// Made by somebody else, and empty: taken.
	var made []string
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err == nil {
			made = append(made, dir)
		}
	}
	c = rt.Create(b)
	c.Delete()
	c.Wait()
	for _, dir := range made {
		check(t, os.MkdirAll(dir, 0o755))
	}
	defer func() {
		for _, dir := range made {
			os.WriteFile(dir+"/freezer.state", []byte("THAWED"), 0)
			os.Remove(dir)
		}
	}()
	frozen := false
	for _, dir := range made {
		for file, word := range map[string]string{"cgroup.freeze": "1", "freezer.state": "FROZEN"} {
			if _, err := os.Stat(dir + "/" + file); err == nil && !frozen {
				check(t, os.WriteFile(dir+"/"+file, []byte(word), 0))
				frozen = true
			}
		}
	}
	if !frozen {
		box.Lacks(t, "a freezer")
	}
	rt.Fails(1, []string{"create", "--bundle", b.Path(), "third"}, "frozen", path)
	rt.Fails(1, []string{"state", "third"}, "does not exist")
}

// In the foreground with a terminal.
func TestForegroundTerminal(t *testing.T) {
	rt := newRuntime(t)
	master, slave := pty(t, 33, 101)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	check(t, err)
	c := sleeper(t, rt)
	for _, args := range [][]string{
		{"run", "--bundle", testbundle.New(t).Args("/sizes").Self("sizes").Terminal().Path(), rt.ID()},
		{"exec", "--tty", c.ID, "/sizes"},
	} {
		if args[0] == "exec" {
			testbundle.Copy(t, "/proc/self/exe", filepath.Join(c.State().Rootfs, "sizes"))
		}
		check(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 101}))
		cmd := rt.Command(args...)
		onTerminal(cmd, slave)
		rt.Start(cmd)
		until(t, master, "33x101\r\n")
		raw, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		check(t, err)
		if raw.Lflag&unix.ECHO != 0 || raw.Lflag&unix.ICANON != 0 {
			t.Errorf("%s: our terminal is not raw: %+v", args[0], raw)
		}
		check(t, unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 55}))
		until(t, master, "44x55\r\n")
		master.WriteString("end\r")
		if got := rt.Wait(cmd); got.Code != 5 {
			t.Errorf("%s: %v", args[0], got)
		}
		after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
		check(t, err)
		if *after != *before {
			t.Errorf("%s: our terminal is not as it was: %+v, %+v", args[0], before, after)
		}
	}
	end(c)
}

// A terminal for the container with none of the caller's: the output just flows.
func TestTerminalWithoutTerminal(t *testing.T) {
	rt := newRuntime(t)
	cmd := rt.Command("run", "--bundle", testbundle.New(t).Shell("tty; echo two").Terminal().Path(), rt.ID())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if got := rt.Do(cmd); got.Code != 0 || got.Stdout != "/dev/pts/0\ntwo\n" {
		t.Error(got)
	}
}

// Buildkit reads memory.events after run --keep.
func TestRunKeep(t *testing.T) {
	rt := newRuntime(t)
	id := rt.ID()
	b := testbundle.New(t).Shell("exit 3").Memory(64 << 20)
	if got := rt.Run("run", "--keep", "--bundle", b.Path(), id); got.Code != 3 {
		t.Fatal(got)
	}
	if out := rt.OK("state", id); !strings.Contains(out, `"stopped"`) {
		t.Errorf("got %s", out)
	}
	for name, dir := range cgroupPaths(t, rt, id) {
		if _, err := os.Stat(dir + "/cgroup.procs"); err != nil {
			t.Errorf("cgroup %q: %v", name, err)
		}
	}
	rt.OK("delete", id)
	id = rt.ID()
	if got := rt.Run("run", "--bundle", b.Path(), id); got.Code != 3 {
		t.Fatal(got)
	}
	rt.Fails(1, []string{"state", id}, "does not exist")
}

func TestRunDetached(t *testing.T) {
	rt := newRuntime(t)
	id := rt.ID()
	file := t.TempDir() + "/pid"
	if out := rt.OK("run", "--detach", "--pid-file", file, "--bundle", testbundle.New(t).Args("sleep", "100000").Path(), id); out != "" {
		t.Errorf("output %q", out)
	}
	pid, err := strconv.Atoi(read(t, file))
	check(t, err)
	if got := parentOf(t, pid); got != os.Getpid() {
		t.Errorf("init's parent is %d, not us", got)
	}
	if out := rt.OK("state", id); !strings.Contains(out, `"running"`) {
		t.Errorf("got %s", out)
	}
	rt.OK("kill", id, "KILL")
	rt.Reap(pid)
	rt.OK("delete", id)
	rt.Fails(1, []string{"run", "-d", "--bundle", testbundle.New(t).Args("nosuch").Path(), "x"}, "executable file not found in $PATH")
	rt.Fails(1, []string{"state", "x"}, "does not exist")
}

// Shims mount the root at <bundle>/rootfs and unmount it themselves.
func TestCallersMountStays(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Shell("cat /marker; echo new > /written").Writable()
	source := t.TempDir()
	testbundle.Rootfs(t, source)
	check(t, os.WriteFile(source+"/marker", []byte("mounted\n"), 0o600))
	check(t, unix.Mount(source, b.Root(), "", unix.MS_BIND, ""))
	defer unix.Unmount(b.Root(), unix.MNT_DETACH)
	before := read(t, "/proc/self/mountinfo")
	c := rt.Create(b)
	if st := c.State(); st.Rootfs != b.Root() || st.Bundle != b.Dir {
		t.Errorf("got %+v", st)
	}
	c.Start()
	if got := c.Wait(); got != 0 || c.Output() != "mounted\n" {
		t.Errorf("exit code %d, output %q", got, c.Output())
	}
	c.Delete()
	if after := read(t, "/proc/self/mountinfo"); after != before {
		t.Errorf("the mount table changed:\n%s\n%s", before, after)
	}
	if got := read(t, source+"/written"); got != "new\n" {
		t.Errorf("got %q", got)
	}
}

func TestPidfdSocket(t *testing.T) {
	rt := newRuntime(t)
	recv := newReceiver(t)
	c := rt.Create(testbundle.New(t).Args("sleep", "100000"), "--pidfd-socket", recv.path)
	_, pidfd := recv.file()
	info := read(t, fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if !strings.Contains(info, fmt.Sprintf("Pid:\t%d\n", c.PID)) {
		t.Errorf("not of init (%d): %s", c.PID, info)
	}
	c.Start()
	file := t.TempDir() + "/pid"
	rt.OK("exec", "--detach", "--pid-file", file, "--pidfd-socket", recv.path, c.ID, "sleep", "100000")
	_, pidfd = recv.file()
	if info := read(t, fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd())); !strings.Contains(info, "Pid:\t"+read(t, file)+"\n") {
		t.Errorf("not of the exec'd process: %s", info)
	}
	pid, err := strconv.Atoi(read(t, file))
	check(t, err)
	c.Kill("KILL")
	rt.Reap(pid) // a pid namespace's init ends after those whom we have to wait for
	c.Wait()
	c.Delete()
	rt.Fails(1, []string{"create", "--pidfd-socket", recv.path + ".none", "--bundle", testbundle.New(t).Path(), "x"}, "pidfd socket", recv.path+".none")
	rt.Fails(1, []string{"state", "x"}, "does not exist")
}

func TestPreserveFDs(t *testing.T) {
	rt := newRuntime(t)
	var files []*os.File
	for _, word := range []string{"three", "four", "five"} {
		name := t.TempDir() + "/file"
		check(t, os.WriteFile(name, []byte(word+"\n"), 0o600))
		f, err := os.Open(name)
		check(t, err)
		defer f.Close()
		files = append(files, f)
	}
	b := testbundle.New(t).Shell("cat <&3; cat <&4; ls /proc/self/fd")
	cmd := rt.Command("run", "--preserve-fds", "2", "--bundle", b.Path(), rt.ID())
	cmd.ExtraFiles = files
	if got := rt.Do(cmd); got.Stdout != "three\nfour\n0\n1\n2\n3\n4\n5\n" { // 5: ls itself
		t.Error(got)
	}
	cmd = rt.Command("run", "--preserve-fds", "2", "--bundle", testbundle.New(t).Shell("test -e /proc/self/fd/5 || echo no").Path(), rt.ID())
	cmd.ExtraFiles = files
	if got := rt.Do(cmd); got.Stdout != "no\n" {
		t.Error(got)
	}
	c := sleeper(t, rt)
	cmd = rt.Command("exec", "--preserve-fds", "1", c.ID, "cat", "/proc/self/fd/3")
	cmd.ExtraFiles = files
	if got := rt.Do(cmd); got.Stdout != "three\n" {
		t.Error(got)
	}
	end(c)
	cmd = rt.Command("create", "--preserve-fds", "4", "--bundle", b.Path(), "x")
	cmd.ExtraFiles = files
	if got := rt.Do(cmd); got.Code != 1 || !strings.Contains(got.Stderr, "--preserve-fds 4: descriptor 6") {
		t.Error(got)
	}
}

// A service manager's sockets come first, without being asked for.
func TestSocketActivation(t *testing.T) {
	rt := newRuntime(t)
	f, err := os.Open("/dev/null")
	check(t, err)
	defer f.Close()
	// LISTEN_PID must be thinrun's own: a shell says it and becomes thinrun.
	cmd := rt.Command("run", "--bundle", testbundle.New(t).Shell("echo $LISTEN_FDS $LISTEN_PID; readlink /proc/self/fd/3").Path(), rt.ID())
	cmd.Args = slices.Concat([]string{"sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" "$@"`, cmd.Path}, cmd.Args[1:])
	cmd.Path = "/bin/sh"
	cmd.ExtraFiles = []*os.File{f}
	if got := rt.Do(cmd); got.Stdout != "1 1\n/dev/null\n" {
		t.Error(got)
	}
}

func TestNoPivot(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Shell("ls -d /bin /etc; ls /.. | grep -c busybox; echo root").File("marker", "x", 0o600)
	got := rt.Run("run", "--no-pivot", "--bundle", b.Path(), rt.ID())
	if got.Code != 0 || got.Stdout != "/bin\n/etc\n0\nroot\n" {
		t.Error(got)
	}
}
