package process

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func lflag(t *testing.T, f *os.File) uint32 {
	t.Helper()
	mode, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return mode.Lflag
}

// readLine reads from a pty until a line ends.
func readLine(t *testing.T, r io.Reader) string {
	t.Helper()
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return line
}

func TestTerminalJoinsTwo(t *testing.T) {
	hostMaster, host := pty(t) // the user's side and our stdio
	master, program := pty(t)
	size := unix.Winsize{Row: 33, Col: 77}
	if err := unix.IoctlSetWinsize(int(hostMaster.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		t.Fatal(err)
	}
	before := lflag(t, host)
	terminal, err := newTerminal(master, host, host, host)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if lflag(t, host)&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 {
		t.Error("the caller's terminal is not raw")
	}
	wantSize := func() {
		t.Helper()
		got, err := unix.IoctlGetWinsize(int(program.Fd()), unix.TIOCGWINSZ)
		if err != nil || *got != size {
			t.Errorf("got %v, %v, want %v", got, err, size)
		}
	}
	wantSize()
	size.Row, size.Col = 10, 20
	if err := unix.IoctlSetWinsize(int(hostMaster.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		t.Fatal(err)
	}
	if err := terminal.Resize(); err != nil {
		t.Fatal(err)
	}
	wantSize()

	fmt.Fprint(hostMaster, "typed\r")
	if got := readLine(t, program); got != "typed\n" {
		t.Errorf("the program read %q", got)
	}
	if got := readLine(t, hostMaster); got != "typed\r\n" { // echoed by the container's terminal
		t.Errorf("the user sees %q", got)
	}
	fmt.Fprint(program, "last words\n")
	if err := terminal.Close(); err != nil {
		t.Error(err)
	}
	if got := readLine(t, hostMaster); got != "last words\r\n" {
		t.Errorf("the user sees %q", got)
	}
	if lflag(t, host) != before {
		t.Error("the caller's terminal is not as it was")
	}
	if err := terminal.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// Nothing is lost of what was written before the program ended, though others still
// hold the slave; and there is no CR in it.
func TestTerminalDrainsIntoPipe(t *testing.T) {
	master, program := pty(t)
	in, _ := pipe(t)
	out, stdout := pipe(t)
	terminal, err := newTerminal(master, in, stdout, stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	var want strings.Builder
	for i := range 200 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if _, err := io.WriteString(program, want.String()); err != nil {
		t.Fatal(err)
	}
	if err := terminal.Drain(); err != nil {
		t.Fatal(err)
	}
	if err := terminal.Close(); err != nil {
		t.Fatal(err)
	}
	stdout.Close()
	got, err := io.ReadAll(out)
	if err != nil || string(got) != want.String() {
		t.Errorf("got %d bytes, %v, want %d:\n%q", len(got), err, want.Len(), got)
	}
}

// A reader that went away does not hang the program, nor does a program that does not
// read hang its own output.
func TestTerminalWithDeadEnds(t *testing.T) {
	master, program := pty(t)
	in, keyboard := pipe(t)
	gone, stdout := pipe(t)
	gone.Close()
	terminal, err := newTerminal(master, in, stdout, stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if _, err := keyboard.Write(make([]byte, 60<<10)); err != nil {
		t.Fatal(err)
	}
	if _, err := program.Write(make([]byte, 200<<10)); err != nil {
		t.Error(err)
	}
	if err := terminal.Close(); err != nil {
		t.Error(err)
	}
}

// The other end gets one message with one descriptor and its name.
func TestSendConsole(t *testing.T) {
	long := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(t.TempDir(), "s"), filepath.Join(long, "s")} {
		master, program := pty(t)
		listener := listen(t, path)
		if err := SendConsole(path, master); err != nil {
			t.Fatal(err)
		}
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		buf, oob := make([]byte, 4096), make([]byte, 4096)
		n, oobn, flags, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		if err != nil || string(buf[:n]) != "/dev/ptmx" || flags&unix.MSG_CTRUNC != 0 {
			t.Fatalf("got %q, flags %#x, %v", buf[:n], flags, err)
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(msgs) != 1 {
			t.Fatalf("got %v, %v", msgs, err)
		}
		fds, err := unix.ParseUnixRights(&msgs[0])
		if err != nil || len(fds) != 1 {
			t.Fatalf("got %v, %v", fds, err)
		}
		received := os.NewFile(uintptr(fds[0]), "received")
		defer received.Close()
		fmt.Fprint(program, "hello\n")
		if got := readLine(t, received); got != "hello\r\n" {
			t.Errorf("got %q", got)
		}
		if n, _, _, _, err := unix.Recvmsg(fd, buf, oob, 0); n != 0 || err != nil {
			t.Errorf("a second message: %q, %v", buf[:n], err)
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	master, _ := pty(t)
	err := SendConsole(none, master)
	if err == nil {
		t.Fatal("sent to nobody")
	}
	wantError(t, err.Error(), none, "no such file or directory")
}

// listen binds through a short name: bind(2) has no way around the 107 bytes.
func listen(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: short}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	return fd
}

func TestSignalsReachTheProcess(t *testing.T) {
	cmd := command(t, Config{}, "pause")
	startReady(t, cmd)
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	process := os.NewFile(uintptr(pidfd), "pidfd")
	defer process.Close()
	signals := CatchSignals()
	defer func() {
		signal.Stop(signals.caught)
		close(signals.caught)
	}()
	// Before there is anybody to forward to: it must not get lost.
	if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	signals.Forward(process, nil)
	var status unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	if ExitCode(status) != 7 {
		t.Errorf("got status %d, want 7: it did not get SIGUSR1", ExitCode(status))
	}
}

func TestWindowSizeGoesToTheTerminal(t *testing.T) {
	hostMaster, host := pty(t)
	master, program := pty(t)
	terminal, err := newTerminal(master, host, host, host)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	size := unix.Winsize{Row: 5, Col: 6}
	if err := unix.IoctlSetWinsize(int(hostMaster.Fd()), unix.TIOCSWINSZ, &size); err != nil {
		t.Fatal(err)
	}
	(&Signals{}).pass(unix.SIGWINCH, nil, terminal)
	got, err := unix.IoctlGetWinsize(int(program.Fd()), unix.TIOCGWINSZ)
	if err != nil || *got != size {
		t.Errorf("got %v, %v, want %v", got, err, size)
	}
}

func TestExitCode(t *testing.T) {
	for _, test := range []struct {
		status unix.WaitStatus
		want   int
	}{
		{0, 0},
		{7 << 8, 7},
		{255 << 8, 255},
		{unix.WaitStatus(syscall.SIGKILL), 137},
		{unix.WaitStatus(syscall.SIGSEGV) | 0x80, 139}, // with a core
	} {
		if got := ExitCode(test.status); got != test.want {
			t.Errorf("%#x: got %d, want %d", int(test.status), got, test.want)
		}
	}
}

func TestListenFDs(t *testing.T) {
	for _, test := range []struct {
		fds, pid string
		want     int
	}{
		{"2", "42", 2}, {"2", "41", 0}, {"2", "", 0}, {"", "42", 0}, {"x", "42", 0}, {"-1", "42", 0},
	} {
		lookup := func(name string) string {
			return map[string]string{"LISTEN_FDS": test.fds, "LISTEN_PID": test.pid}[name]
		}
		if got := ListenFDs(lookup, 42); got != test.want {
			t.Errorf("%+v: got %d", test, got)
		}
	}
	if got := strings.Join(ListenEnv(2), " "); got != "LISTEN_FDS=2 LISTEN_PID=1" {
		t.Errorf("got %q", got)
	}
	if got := ListenEnv(0); got != nil {
		t.Errorf("got %q", got)
	}
}

func TestCheckPreserved(t *testing.T) {
	if err := CheckPreserved(0); err != nil {
		t.Error(err)
	}
	err := CheckPreserved(100000)
	if err == nil {
		t.Fatal("100000 descriptors are open")
	}
	wantError(t, err.Error(), "--preserve-fds 100000", "bad file descriptor")
}
