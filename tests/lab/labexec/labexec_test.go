package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/tests/box"

	"golang.org/x/sys/unix"
)

// TestMain makes the test binary labexec itself, for all of its faces.
func TestMain(m *testing.M) {
	if os.Getenv("LABEXEC") == "1" || len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "__") {
		main()
	}
	os.Exit(m.Run())
}

// hasQemu tells whether its kernel is set up. The tests that come with the repository
// do not need it, so this is not an error.
func hasQemu() bool {
	cache, err := os.UserCacheDir()
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(cache, "thinrun-lab", "qemu", "linux"))
	return err == nil
}

func TestQemuIsSetUp(t *testing.T) {
	box.NativeOnly(t, "no machine inside the machine")
	if !hasQemu() {
		t.Skip("tests/lab/kernels.sh qemu was not run: -vm qemu is not tested")
	}
}

// places runs a test once in each place that can be had here.
func places(t *testing.T, test func(t *testing.T, vm string)) {
	vms := []string{"none", "uml"}
	if hasQemu() {
		vms = append(vms, "qemu")
	}
	for _, vm := range vms {
		t.Run(vm, func(t *testing.T) {
			box.Root(t)
			if vm != "none" {
				box.NativeOnly(t, "no machine inside the machine")
			}
			t.Parallel()
			test(t, vm)
		})
	}
}

// labexec is the command, not started.
func labexec(vm string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"-vm", vm}, args...)...)
	cmd.Env = append(os.Environ(), "LABEXEC=1")
	return cmd
}

// result runs it to the end.
func result(t *testing.T, cmd *exec.Cmd) (stdout, stderr string, code int) {
	t.Helper()
	var out, errw bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errw
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return out.String(), errw.String(), cmd.ProcessState.ExitCode()
}

func TestExitCodeIsTheCommands(t *testing.T) {
	places(t, func(t *testing.T, vm string) {
		for _, c := range []struct {
			name string
			args []string
			code int
		}{
			{"success", []string{"true"}, 0},
			{"its own", []string{"sh", "-c", "exit 7"}, 7},
			{"the greatest", []string{"sh", "-c", "exit 255"}, 255},
			{"killed", []string{"sh", "-c", "kill -9 $$"}, 128 + 9},
			{"no such command", []string{"no-such-command"}, 127},
			{"not executable", []string{"/etc/passwd"}, 126},
			{"timeout", []string{"-timeout", "5s", "sleep", "1000"}, 124},
			{"bad size", []string{"-disk", "4X", "true"}, exitBroken},
			{"bad hierarchy", []string{"-cgroup", "v3", "true"}, exitBroken},
			{"no command", nil, exitBroken},
		} {
			if out, errw, code := result(t, labexec(vm, c.args...)); code != c.code {
				t.Errorf("%s: exit code %d, want %d; stdout %q, stderr %q", c.name, code, c.code, out, errw)
			}
		}
	})
}

func TestCommandSeesArgumentsEnvironmentAndDirectory(t *testing.T) {
	places(t, func(t *testing.T, vm string) {
		dir := t.TempDir()
		cmd := labexec(vm, "sh", "-c", `pwd; printf '%s|' "$@" "$ODD" "$TMPDIR"; echo err >&2; [ -t 1 ] && echo tty; cat`, "sh", "a b", "$x", "'q'", "*", "")
		cmd.Dir = dir
		cmd.Env = append(cmd.Env, "ODD=hé\nlo")
		out, errw, code := result(t, cmd)
		if want := dir + "\na b|$x|'q'|*||hé\nlo|/tmp|"; out != want {
			t.Errorf("stdout %q, want %q", out, want)
		}
		if errw != "err\n" || code != 0 {
			t.Errorf("stderr %q, exit code %d, want \"err\\n\" and 0", errw, code)
		}
	})
}

func TestOutputArrivesWhole(t *testing.T) {
	places(t, func(t *testing.T, vm string) {
		out, errw, code := result(t, labexec(vm, "sh", "-c", "head -c 20000000 /dev/urandom | tee /dev/stderr"))
		if len(out) != 20000000 || out != errw || code != 0 {
			t.Errorf("%d bytes of stdout, %d of stderr, the same: %v, exit code %d", len(out), len(errw), out == errw, code)
		}
	})
}

func TestDaemonThatHoldsThePipeIsNotAwaited(t *testing.T) {
	places(t, func(t *testing.T, vm string) {
		out, _, code := result(t, labexec(vm, "sh", "-c", "setsid sleep 1000 & echo hi"))
		if out != "hi\n" || code != 0 {
			t.Errorf("stdout %q, exit code %d", out, code)
		}
	})
}

func TestHostFilesCannotBeWritten(t *testing.T) {
	places(t, func(t *testing.T, vm string) {
		dir := t.TempDir()
		kept := filepath.Join(dir, "kept")
		if err := os.Mkdir(kept, 0755); err != nil {
			t.Fatal(err)
		}
		cmd := labexec(vm, "-rw", kept, "sh", "-c", `
			echo x > dropped
			echo x > kept/file
			echo x > /usr/lab-was-here
			[ $LAB ] || exit 0 # root can undo the box, but not the machine
			mkdir /tmp/x && mount -t hostfs none /tmp/x -o / && echo x > /tmp/x$PWD/hostfs
			mount -o remount,rw $PWD && echo x > remounted`)
		cmd.Dir = dir
		result(t, cmd)
		files, err := filepath.Glob(dir + "/*")
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != 1 || files[0] != kept {
			t.Errorf("the host has %v, want only what -rw names", files)
		}
		if b, err := os.ReadFile(kept + "/file"); string(b) != "x\n" {
			t.Errorf("-rw: %q, %v", b, err)
		}
		if _, err := os.Stat("/usr/lab-was-here"); err == nil {
			t.Error("/usr of the host was written")
		}
	})
}

func TestDiskFileOutlivesTheMachine(t *testing.T) {
	places(t, func(t *testing.T, vm string) {
		if vm == "none" {
			t.Skip("native only: -vm none has no disks of its own")
		}
		file := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(file, nil, 0600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, 1<<20); err != nil {
			t.Fatal(err)
		}
		// Flushed by the writer, and then the machine is gone without a shut-down.
		write := `set $LAB_DISKS && printf kept | dd of=$2 bs=512 seek=7 conv=fsync,notrunc 2>/dev/null`
		if _, stderr, code := result(t, labexec(vm, "-disk", "1M", "-disk", file, "sh", "-c", write)); code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		b, err := os.ReadFile(file)
		if err != nil || len(b) != 1<<20 || string(b[7*512:7*512+4]) != "kept" {
			t.Errorf("%v, %d bytes, want \"kept\" in sector 7", err, len(b))
		}
		out, stderr, code := result(t, labexec(vm, "-disk", file, "sh", "-c", `dd if=$LAB_DISKS bs=512 skip=7 count=1 2>/dev/null | head -c 4`))
		if code != 0 || out != "kept" {
			t.Errorf("the next machine reads %q: exit code %d: %s", out, code, stderr)
		}
	})
}

func TestSignals(t *testing.T) {
	places(t, func(t *testing.T, vm string) {
		for _, c := range []struct {
			signal unix.Signal
			code   int
		}{{unix.SIGQUIT, 3}, {unix.SIGINT, 130}, {unix.SIGTERM, 143}, {unix.SIGKILL, -1}} {
			cmd := labexec(vm, "sh", "-c", "trap 'kill $!; exit 3' QUIT; sleep 1000 & echo ready; wait")
			ready(t, cmd)
			stage := child(t, cmd.Process.Pid)
			ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", stage))
			if err != nil {
				t.Fatal(err)
			}
			ended := endOf(t, stage)
			cmd.Process.Signal(c.signal)
			cmd.Wait()
			if got := cmd.ProcessState.ExitCode(); got != c.code {
				t.Errorf("%v: exit code %d, want %d", c.signal, got, c.code)
			}
			ended() // pid 1 of a namespace, after all others in it
			if left := members(ns); len(left) > 0 {
				t.Errorf("%v: processes left: %v", c.signal, left)
			}
		}
	})
}

// ready starts a command and waits for its first line.
func ready(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanln(stdout, new(string)); err != nil {
		t.Fatal(err)
	}
}

// endOf names a process while it is there; the answer waits for its end.
func endOf(t *testing.T, pid int) (wait func()) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		defer unix.Close(fd)
		for n, err := 0, error(nil); n == 0 || err == unix.EINTR; {
			n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		}
	}
}

// child is the first child of a process.
func child(t *testing.T, pid int) (child int) {
	t.Helper()
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		if n, _ := fmt.Sscan(string(b), &child); n == 1 {
			return child
		}
	}
	t.Fatalf("process %d has no child", pid)
	return 0
}

// members lists the living processes of a pid namespace.
func members(ns string) (cmdlines []string) {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/pid")
	for _, link := range links {
		if l, _ := os.Readlink(link); l == ns {
			b, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "cmdline"))
			if len(b) > 0 { // a zombie has none
				cmdlines = append(cmdlines, string(b))
			}
		}
	}
	return cmdlines
}

func TestMachineHasWhatTestsNeed(t *testing.T) {
	for _, c := range []struct{ mode, want string }{
		{"v2", "cgroup2 /sys/fs/cgroup\n"},
		{"v1", "tmpfs /sys/fs/cgroup\ncgroup /sys/fs/cgroup/memory\n"},
		{"hybrid", "tmpfs /sys/fs/cgroup\ncgroup /sys/fs/cgroup/memory\ncgroup2 /sys/fs/cgroup/unified\n"},
	} {
		t.Run(c.mode, func(t *testing.T) {
			box.Root(t)
			box.NativeOnly(t, "no machine inside the machine")
			t.Parallel()
			out, errw, code := result(t, labexec("uml", "-cgroup", c.mode, "-disk", "1G", "-disk", "2G", "sh", "-ec", `
				while read _ dir type _; do case $dir in /sys/fs/cgroup|*/memory|*/unified) echo $type $dir;; esac; done < /proc/mounts
				set -- $LAB_DISKS; echo $LAB $LAB_VM $# $(cat /sys/block/${1##*/}/size /sys/block/${2##*/}/size)
				dd if=/dev/zero of=/tmp/x bs=4096 count=1 oflag=direct status=none
				[ -c /dev/mapper/control ] && [ -b /dev/loop0 ] && [ -d /sys/module/dm_thin_pool ]`))
			if want := c.want + "1 uml 2 2097152 4194304\n"; out != want || code != 0 {
				t.Errorf("exit code %d, stdout %q, want %q; stderr %s", code, out, want, errw)
			}
		})
	}
}

// TestBoxLeavesNothingOnTheHost kills labexec too: then the next one takes away what
// that left.
func TestBoxLeavesNothingOnTheHost(t *testing.T) {
	box.Root(t)
	tmp := t.TempDir()
	cmd := labexec("none", "sh", "-c", `
		touch /tmp/mine
		for dir in /sys/fs/cgroup /sys/fs/cgroup/*; do
			[ ! -e $dir/cgroup.procs ] || mkdir $dir/mine || exit 1
		done
		echo ready; exec sleep 1000`)
	cmd.Env = append(cmd.Env, "TMPDIR="+tmp)
	ready(t, cmd)
	mine := func() (found []string) {
		for _, dir := range []string{tmp, "/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			matches, _ := filepath.Glob(fmt.Sprintf("%s/%s%d/mine", dir, boxName, cmd.Process.Pid))
			found = append(found, matches...)
		}
		return found
	}
	if len(mine()) < 2 {
		t.Errorf("found %v, want a file in %s and a cgroup in each hierarchy", mine(), tmp)
	}
	ended := endOf(t, child(t, cmd.Process.Pid))
	cmd.Process.Kill()
	cmd.Wait()
	ended() // until then its cgroups are in use
	next := labexec("none", "true")
	next.Env = append(next.Env, "TMPDIR="+tmp)
	if _, errw, code := result(t, next); code != 0 {
		t.Fatalf("exit code %d: %s", code, errw)
	}
	if left := mine(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if files, err := os.ReadDir(tmp); len(files) > 0 || err != nil {
		t.Errorf("left in %s: %v, %v", tmp, files, err)
	}
}

func TestWideStatePatchesOnePlaceOnly(t *testing.T) {
	fixed := "\x88\x0a\x00\x00\xbf\x05\x42\x00\x00"
	for _, c := range []struct{ name, kernel, want string }{
		{"6.1", "ab" + fixed + "cd", "ab\x00\x30\x00\x00\xbf\x05\x42\x00\x00cd"},
		{"later", "abcd", "abcd"},
		{"unknown", fixed + fixed, fixed + fixed},
	} {
		if got := string(wideState([]byte(c.kernel))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
