package state

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// playGate is init: it has the gate as descriptor 3, says so, waits, and becomes cat.
func playGate([]string) {
	unix.CloseOnExec(3)
	fmt.Println("waiting")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	switch line {
	case "exec\n":
		err := unix.Exec("/bin/sh", []string{"sh", "-c", "echo running; read x"}, nil)
		panic(err)
	case "fail\n":
		err := unix.Exec("/does/not/exist", []string{"x"}, nil)
		fmt.Println(err)
		_, _ = io.ReadAll(os.Stdin)
	}
}

func TestGateFollowsInit(t *testing.T) {
	for name, test := range map[string]struct {
		say, answer string
		held        bool
	}{
		"execve opens it":               {"exec\n", "running\n", false},
		"a failed execve keeps it shut": {"fail\n", "no such file or directory\n", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t)
			c := claimed(t, s, "web")
			gate, err := c.Gate()
			if err != nil {
				t.Fatal(err)
			}
			cmd := actor(t, "gate", "x")
			cmd.ExtraFiles = []*os.File{gate}
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			gate.Close()
			lines := bufio.NewReader(out)
			expect(t, lines, "waiting\n")
			gateIs(t, s, c, true)
			if _, err := io.WriteString(in, test.say); err != nil {
				t.Fatal(err)
			}
			expect(t, lines, test.answer)
			gateIs(t, s, c, test.held)
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			gateIs(t, s, c, false)
		})
	}
}

func expect(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	if got, err := r.ReadString('\n'); got != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func gateIs(t *testing.T, s *Store, c *Container, want bool) {
	t.Helper()
	for range 2 { // asking does not change the answer
		for name, ask := range map[string]func() (bool, error){
			"locked": c.GateHeld, "unlocked": func() (bool, error) { return s.GateHeld(c.ID) },
		} {
			if got, err := ask(); got != want || err != nil {
				t.Errorf("%s: held %v, %v; want %v", name, got, err, want)
			}
		}
	}
}

func TestStartSocketInADeepDirectory(t *testing.T) {
	deep := filepath.Join(t.TempDir(), strings.Repeat("directory/", 20))
	s, err := Open(deep)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := claimed(t, s, "web")
	if _, err := c.Dial(); !errors.Is(err, unix.ENOENT) {
		t.Errorf("before listen: %v", err)
	}
	for range 2 { // also over a stale one
		sock, err := c.Listen()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := c.Dial()
		if err != nil {
			t.Fatal(err)
		}
		fd, _, err := unix.Accept4(int(sock.Fd()), unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(fd, []byte("no such program")); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		if text, err := io.ReadAll(conn); string(text) != "no such program" || err != nil {
			t.Errorf("%q, %v", text, err)
		}
		conn.Close()
		sock.Close()
		if _, err := c.Dial(); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("nobody listens: %v", err)
		}
	}
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
}

func TestProcessThatEndedIsGone(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	for name, other := range map[string]Process{
		"earlier process of that pid": {PID: p.PID, StartTime: p.StartTime - 1, BootID: p.BootID},
		"process of an earlier boot":  {PID: p.PID, StartTime: p.StartTime, BootID: "x", Inode: p.Inode},
		"of the same tick":            {PID: p.PID, StartTime: p.StartTime, BootID: p.BootID, Inode: p.Inode + 1},
		"no process":                  {},
		"group":                       {PID: -p.PID, StartTime: p.StartTime, BootID: p.BootID, Inode: p.Inode},
	} {
		if _, err := other.Open(); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	in.Close()
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, 10000); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(); !errors.Is(err, ErrGone) {
		t.Errorf("zombie: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Open(); !errors.Is(err, ErrGone) {
		t.Errorf("reaped: %v", err)
	}
	if _, err := Of(p.PID); !errors.Is(err, ErrGone) {
		t.Errorf("of a reaped one: %v", err)
	}
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	if alive, err := self.Alive(); !alive || err != nil {
		t.Errorf("self: %v, %v", alive, err)
	}
}

// playReuse is pid 1 of a pid namespace of its own, where it may choose the next pid.
func playReuse([]string) {
	check := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	check(unix.Mount("proc", "/proc", "proc", 0, ""))
	const last = "/proc/sys/kernel/ns_last_pid" // needs CONFIG_CHECKPOINT_RESTORE
	rounds := 200
	if _, err := os.Stat(last); err != nil {
		// Only in the lab: few pids for the whole machine, so each soon comes again.
		const max = "/proc/sys/kernel/pid_max"
		old, err := os.ReadFile(max)
		check(err)
		check(os.WriteFile(max, []byte("400"), 0))
		defer os.WriteFile(max, old, 0)
		rounds = 1
	}
	next := func(pid int) *exec.Cmd {
		if rounds == 200 {
			check(os.WriteFile(last, []byte(fmt.Sprint(pid-1)), 0))
		}
		for {
			cmd := exec.Command("/bin/sleep", "1000")
			check(cmd.Start())
			if rounds == 200 || cmd.Process.Pid == pid {
				return cmd
			}
			check(cmd.Process.Kill())
			_ = cmd.Wait()
		}
	}
	for pid := 0; pid < 300 && rounds < 200; { // to where a turn is short
		cmd := exec.Command("/bin/true")
		check(cmd.Run())
		pid = cmd.Process.Pid
	}
	same, tick := 0, 0
	for range rounds {
		first := exec.Command("/bin/sleep", "1000")
		check(first.Start())
		pid := first.Process.Pid
		old, err := Of(pid)
		check(err)
		check(unix.Kill(pid, unix.SIGKILL))
		_ = first.Wait()
		second := next(pid)
		if second.Process.Pid == pid {
			now, err := Of(pid)
			check(err)
			same++
			if now.StartTime == old.StartTime {
				tick++
			}
			_, err = old.Open()
			if !errors.Is(err, ErrGone) && (now.StartTime != old.StartTime || now.Inode != old.Inode) {
				check(fmt.Errorf("pid %d was reused, and the old one opened the new one: %v", pid, err))
			}
			fd, err := now.Open()
			check(err)
			fd.Close()
		}
		check(second.Process.Kill())
		_ = second.Wait()
	}
	fmt.Printf("%d of %d pids were reused, %d in the same clock tick\n", same, rounds, tick)
}

func TestReusedPIDIsAnotherProcess(t *testing.T) {
	if _, err := os.Stat("/proc/sys/kernel/ns_last_pid"); os.Geteuid() != 0 || err != nil && os.Getenv("LAB") != "1" {
		need(t, "root and CONFIG_CHECKPOINT_RESTORE")
	}
	cmd := actor(t, "reuse", "x")
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS
	out, err := cmd.Output()
	if err != nil || strings.HasPrefix(string(out), "0 of") {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}

func TestStatus(t *testing.T) {
	creating, created := &Record{Phase: PhaseCreating}, &Record{Phase: PhaseCreated}
	for _, test := range []struct {
		name                    string
		rec                     *Record
		alive, gateHeld, frozen bool
		want                    Status
	}{
		{"claimed only", nil, false, false, false, Creating},
		{"being created, no init", creating, false, false, false, Creating},
		{"being created, init waits", creating, true, true, false, Creating},
		{"wreck of a create, frozen", creating, true, true, true, Creating},
		{"created", created, true, true, false, Created},
		{"created, paused", created, true, true, true, Paused},
		{"running", created, true, false, false, Running},
		{"paused", created, true, false, true, Paused},
		{"ended", created, false, false, false, Stopped},
		{"ended while frozen", created, false, false, true, Stopped},
		{"ended, another holds the gate file", created, false, true, false, Stopped},
	} {
		if got := StatusOf(test.rec, test.alive, test.gateHeld, test.frozen); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}
