// Package lifecycle tests the real binary as root: every verb from every status, the
// contracts with those who call a runtime, and bad input.
package lifecycle

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"

	"golang.org/x/sys/unix"
)

// TestMain is also the program of some containers: see Bundle.Self.
func TestMain(m *testing.M) {
	switch os.Args[0] {
	case "/signals":
		listSignals()
	case "/sizes":
		listSizes()
	}
	os.Exit(m.Run())
}

// listSignals prints the number of every signal that it gets, and ends with SIGTERM.
func listSignals() {
	got := make(chan os.Signal, 64)
	signal.Notify(got)
	signal.Reset(unix.SIGURG) // Go's own
	fmt.Println("ready")
	for sig := range got {
		fmt.Println(int(sig.(syscall.Signal)))
		if sig == unix.SIGTERM {
			os.Exit(0)
		}
	}
}

// listSizes prints its terminal's size, again with every SIGWINCH, until a line comes.
func listSizes() {
	got := make(chan os.Signal, 8)
	signal.Notify(got, unix.SIGWINCH)
	line := make(chan bool)
	go func() {
		bufio.NewReader(os.Stdin).ReadString('\n')
		close(line)
	}()
	for {
		size, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%dx%d\n", size.Row, size.Col)
		select {
		case <-got:
		case <-line:
			os.Exit(5)
		}
	}
}

func newRuntime(t *testing.T) *testbundle.Runtime {
	t.Helper()
	box.Require(t)
	return testbundle.NewRuntime(t)
}

// sleeper is a container that runs until somebody kills it.
func sleeper(t *testing.T, rt *testbundle.Runtime) *testbundle.Container {
	t.Helper()
	c := rt.Create(testbundle.New(t).Args("sleep", "100000"))
	c.Start()
	return c
}

// end kills a container and deletes it.
func end(c *testbundle.Container) {
	c.Kill("KILL")
	c.Wait()
	c.Delete()
}

// piped is a container on pipes, so that a test can wait for what it says.
type piped struct {
	t      *testing.T
	rt     *testbundle.Runtime
	id     string
	pid    int // of init
	stdin  *os.File
	stdout *bufio.Reader
	out    *os.File
}

func createPiped(t *testing.T, rt *testbundle.Runtime, b *testbundle.Bundle) *piped {
	t.Helper()
	p := &piped{t: t, rt: rt, id: rt.ID()}
	pidFile := filepath.Join(t.TempDir(), "pid")
	cmd := rt.Command("create", "--bundle", b.Path(), "--pid-file", pidFile, p.id)
	in, stdin, err := os.Pipe()
	check(t, err)
	out, theirs, err := os.Pipe()
	check(t, err)
	t.Cleanup(func() { stdin.Close(); out.Close() })
	cmd.Stdin, cmd.Stdout = in, theirs
	got := rt.Do(cmd)
	in.Close()
	theirs.Close()
	if got.Code != 0 {
		t.Fatal(got)
	}
	p.stdin, p.out, p.stdout = stdin, out, bufio.NewReader(out)
	p.pid, err = strconv.Atoi(read(t, pidFile))
	check(t, err)
	return p
}

// line waits for the next line of output.
func (p *piped) line() string {
	p.t.Helper()
	check(p.t, p.out.SetReadDeadline(time.Now().Add(patience)))
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		p.t.Fatalf("waiting for a line: %v after %q", err, line)
	}
	return strings.TrimSuffix(line, "\n")
}

// patience is for hangs only: a busy machine may take many times as long as ours.
const patience = 5 * time.Minute

// receiver listens on a socket for one descriptor.
type receiver struct {
	t    *testing.T
	path string
	l    *net.UnixListener
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	check(t, err)
	t.Cleanup(func() { l.Close() })
	return &receiver{t, path, l}
}

// file is what came: exactly one descriptor in one message with a short payload, as
// go-runc's and conmon's receivers want it.
func (r *receiver) file() (payload string, f *os.File) {
	r.t.Helper()
	check(r.t, r.l.SetDeadline(time.Now().Add(patience)))
	conn, err := r.l.AcceptUnix()
	check(r.t, err)
	defer conn.Close()
	buf, oob := make([]byte, 8192), make([]byte, 4096)
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	check(r.t, err)
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	check(r.t, err)
	if len(msgs) != 1 || n == 0 || n >= 4096 {
		r.t.Fatalf("%d control messages with %d bytes", len(msgs), n)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	check(r.t, err)
	if len(fds) != 1 {
		r.t.Fatalf("%d descriptors", len(fds))
	}
	// Non-blocking, so that reads of a terminal have deadlines.
	check(r.t, unix.SetNonblock(fds[0], true))
	f = os.NewFile(uintptr(fds[0]), string(buf[:n]))
	r.t.Cleanup(func() { f.Close() })
	if more, _, _, _, _ := conn.ReadMsgUnix(buf, oob); more != 0 {
		r.t.Errorf("a second message: %q", buf[:more])
	}
	return string(buf[:n]), f
}

// startPiped starts a command, and returns what it prints from then on.
func startPiped(t *testing.T, rt *testbundle.Runtime, cmd *exec.Cmd) *os.File {
	t.Helper()
	out, theirs, err := os.Pipe()
	check(t, err)
	t.Cleanup(func() { out.Close() })
	cmd.Stdout = theirs
	rt.Start(cmd)
	theirs.Close()
	return out
}

// until reads a terminal or pipe until it has said want, and returns all of it.
func until(t *testing.T, f *os.File, want string) string {
	t.Helper()
	check(t, f.SetReadDeadline(time.Now().Add(patience)))
	var said strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(said.String(), want) {
		n, err := f.Read(buf)
		said.Write(buf[:n])
		if err != nil {
			t.Fatalf("waiting for %q: %v after %q", want, err, said.String())
		}
	}
	return said.String()
}

// pty is a new terminal: both ends.
func pty(t *testing.T, rows, cols uint16) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	check(t, err)
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	check(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	check(t, err)
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	check(t, err)
	t.Cleanup(func() { master.Close(); slave.Close() })
	check(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}))
	return master, slave
}

// onTerminal makes slave the command's streams and controlling terminal.
func onTerminal(cmd *exec.Cmd, slave *os.File) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
}

// parentOf is a process's parent.
func parentOf(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(t, err)
	f := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	ppid, err := strconv.Atoi(f[1])
	check(t, err)
	return ppid
}

// cgroupPaths are the directories of a container's cgroup, by its record.
func cgroupPaths(t *testing.T, rt *testbundle.Runtime, id string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(rt.Root, id, "record.json"))
	check(t, err)
	var rec struct {
		Cgroup struct{ Paths map[string]string }
	}
	check(t, json.Unmarshal(data, &rec))
	if len(rec.Cgroup.Paths) == 0 {
		t.Fatalf("no cgroup in %s", data)
	}
	return rec.Cgroup.Paths
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	return string(data)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// lines is output as lines.
func lines(s string) []string { return strings.Split(strings.TrimSuffix(s, "\n"), "\n") }
