package hooks

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// script makes an executable and returns its path.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func text(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestHookGetsStateDirArgsAndOnlyItsEnvironment(t *testing.T) {
	t.Setenv("LD_LIBRARY_PATH", "/secret")
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	h := script(t, `{ cat; echo; pwd; echo "$0|$1"; /usr/bin/env | /usr/bin/sort; } > `+out)
	state := []byte(`{"id":"web"}`)
	if err := Run(t.Context(), "createRuntime", []Hook{{Path: h, Args: []string{"zero", "one"}, Env: []string{"A=b c"}}}, state, dir); err != nil {
		t.Fatal(err)
	}
	// sh replaces $0 by the script's path; PWD, OLDPWD and _ are the shell's own.
	got := text(t, out)
	want := fmt.Sprintf("%s\n%s\n%s|one\nA=b c\n", state, dir, h)
	for _, line := range strings.SplitAfter(got, "\n") {
		if strings.HasPrefix(line, "PWD=") || strings.HasPrefix(line, "_=") || strings.HasPrefix(line, "OLDPWD=") || strings.HasPrefix(line, "SHLVL=") {
			got = strings.Replace(got, line, "", 1)
		}
	}
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestHookWithoutEnvironmentHasNone(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	// No shell: it would set variables of its own.
	h := Hook{Path: "/bin/cp", Args: []string{"anything", "/proc/self/environ", out}}
	if err := Run(t.Context(), "prestart", []Hook{h}, nil, ""); err != nil {
		t.Fatal(err)
	}
	if got := text(t, out); got != "" {
		t.Errorf("environment %q", got)
	}
}

func TestArgs0IsTheHooksChoice(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	h := Hook{Path: "/bin/cp", Args: []string{"other-name", "/proc/self/cmdline", out}}
	if err := Run(t.Context(), "prestart", []Hook{h}, nil, ""); err != nil {
		t.Fatal(err)
	}
	if got := text(t, out); !strings.HasPrefix(got, "other-name\x00") {
		t.Errorf("cmdline %q", got)
	}
}

func TestHooksRunInOrderUntilOneFails(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	say := func(word, then string) Hook {
		return Hook{Path: script(t, "echo "+word+" >> "+out+"; "+then)}
	}
	bad := say("two", "echo it is broken; echo badly >&2; exit 7")
	err := Run(t.Context(), "poststart", []Hook{say("one", ""), bad, say("three", "")}, nil, "/")
	want := "poststart hook 1 (" + bad.Path + "): exit status 7: it is broken badly"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if got := text(t, out); got != "one\ntwo\n" {
		t.Errorf("ran %q", got)
	}
}

func TestHookThatCannotRun(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, path, want string }{
		{"missing", filepath.Join(dir, "x"), "no such file or directory"},
		{"not executable", plain, "permission denied"},
		{"only a name", "true", "not absolute"},
		{"killed by itself", script(t, "kill -SEGV $$"), "killed by signal 11"},
	} {
		err := Run(t.Context(), "prestart", []Hook{{Path: test.path, Env: []string{"PATH=/bin:/usr/bin"}}}, nil, "")
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "prestart hook 0 ("+test.path+"): ") {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestHangingHookIsKilledWithItsChildren(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pids")
	h := Hook{Path: script(t, "echo $$ > "+pids+"; /bin/sleep 1000 & echo $! >> "+pids+"; echo waiting; wait"), Timeout: 5}
	err := Run(t.Context(), "createContainer", []Hook{h}, nil, "")
	if err == nil || !strings.Contains(err.Error(), "did not end within 5s: waiting") {
		t.Errorf("got %v", err)
	}
	for word := range strings.FieldsSeq(text(t, pids)) {
		pid, _ := strconv.Atoi(word)
		fd, err := unix.PidfdOpen(pid, 0)
		if err == unix.ESRCH || err == unix.EINVAL { // EINVAL: ended, but the group still has its number
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 300_000); n != 1 {
			t.Errorf("process %d of the hook still runs: %v", pid, err)
		}
		unix.Close(fd)
	}
}

func TestDaemonOfAHookDoesNotHoldUs(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	for _, exit := range []string{"0", "3"} {
		h := Hook{Path: script(t, "/bin/sleep 1000 & echo $! > "+pidFile+"; echo said; exit "+exit), Timeout: 60}
		err := Run(t.Context(), "poststart", []Hook{h}, nil, "") // who waits for the daemon ends by the deadline
		if exit == "0" && err != nil || exit == "3" && (err == nil || !strings.HasSuffix(err.Error(), "exit status 3: said")) {
			t.Errorf("exit %s: %v", exit, err)
		}
		pid, _ := strconv.Atoi(strings.TrimSpace(text(t, pidFile)))
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Errorf("the daemon of a hook that ended is to live: %v", err)
		}
	}
}

func TestHookIgnoringABigState(t *testing.T) {
	state := bytes.Repeat([]byte("x"), 1<<20)
	if err := Run(t.Context(), "prestart", []Hook{{Path: "/bin/true"}, {Path: script(t, `[ "$(/usr/bin/wc -c)" -eq 1048576 ]`)}}, state, ""); err != nil {
		t.Error(err)
	}
}

func TestTalkativeHook(t *testing.T) {
	quiet := Hook{Path: script(t, "/usr/bin/head -c 3000000 /dev/zero | /usr/bin/tr '\\0' x; exit 1")}
	err := Run(t.Context(), "prestart", []Hook{quiet}, nil, "")
	if err == nil || len(err.Error()) > 4096 || !strings.Contains(err.Error(), "exit status 1: xxx") {
		t.Errorf("%.200v", err)
	}
	endless := Hook{Path: script(t, "exec /usr/bin/yes"), Timeout: 3}
	err = Run(t.Context(), "prestart", []Hook{endless}, nil, "")
	if err == nil || len(err.Error()) > 4096 || !strings.Contains(err.Error(), "did not end within 3s: y y") || strings.Contains(err.Error(), "\n") {
		t.Errorf("%.200v", err)
	}
}

func TestNoHookIsLeftAsAZombie(t *testing.T) {
	for _, h := range []Hook{{Path: "/bin/true"}, {Path: "/bin/false"}, {Path: script(t, "/bin/sleep 1000"), Timeout: 1}} {
		_ = Run(t.Context(), "prestart", []Hook{h}, nil, "")
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("%s: a child is left: %d, %v", h.Path, pid, err)
		}
	}
}

func TestNoDescriptorIsLeft(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	before := count()
	for range 5 {
		_ = Run(t.Context(), "prestart", []Hook{{Path: "/bin/true"}, {Path: "/nope"}}, nil, "")
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// A hook must not go on making things when the delete of its container is done.
func TestHookDiesWithUs(t *testing.T) {
	if dir := os.Getenv("HOOK_OF_THE_DOOMED"); dir != "" {
		t.Log(Run(t.Context(), "createRuntime", []Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo $$ > " + dir + "/pid; exec sleep 100000"}}}, nil, dir))
		return
	}
	dir := t.TempDir()
	fifo := filepath.Join(dir, "pid")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestHookDiesWithUs$")
	cmd.Env = append(os.Environ(), "HOOK_OF_THE_DOOMED="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text(t, fifo))) // opens when the hook runs
	if err != nil {
		t.Fatal(err)
	}
	hook, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(hook)
	cmd.Process.Kill()
	cmd.Wait()
	fds := []unix.PollFd{{Fd: int32(hook), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 5000); n != 1 {
		unix.PidfdSendSignal(hook, unix.SIGKILL, nil, 0)
		t.Errorf("the hook lives on: %v", err)
	}
}
