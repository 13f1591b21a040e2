package testbundle

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"thinrun/tests/box"

	"golang.org/x/sys/unix"
)

// built is one build for a whole test process.
var built = sync.OnceValues(func() (string, error) {
	top, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "thinrun").Output()
	if err != nil {
		return "", fmt.Errorf("no $THINRUN, and go list says: %w", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(top)), ".build", "testbundle")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Other test processes build the same file. An up-to-date one costs a glance.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	path := filepath.Join(dir, "thinrun")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "urfave_cli_no_docs", "-o", path, "thinrun")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("no $THINRUN, and go build says: %w\n%s", err, out)
	}
	return path, nil
})

// Binary is $THINRUN, which the runner sets, or a build of the tree we are in.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("THINRUN"); path != "" {
		return path
	}
	path, err := built()
	check(t, err)
	return path
}

// static answers nil for an ELF file that needs no interpreter.
func static(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is linked dynamically")
		}
	}
	return nil
}

// Runtime is thinrun with a state directory and a storage of its own.
type Runtime struct {
	Binary  string
	Root    string   // --root
	Storage string   // --storage
	Globals []string // more flags ahead of the command
	Env     []string // more than PATH and HOME

	t      testing.TB
	before Snapshot
	ids    []string

	mu      sync.Mutex
	started map[int]bool            // our own children, which have their own waiters
	reaped  map[int]unix.WaitStatus // those that were left to us
}

// NewRuntime needs root. Its cleanup deletes every container that ID named and then
// fails the test for whatever is there that was not before. What makes its own things
// (a pool) takes them away in a cleanup of its own, registered later.
func NewRuntime(t testing.TB) *Runtime {
	t.Helper()
	box.Root(t)
	// Whatever a dead thinrun leaves becomes our child, so that we see it and can reap.
	check(t, unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	dir := t.TempDir()
	r := &Runtime{
		Binary: Binary(t), Root: filepath.Join(dir, "state"), Storage: filepath.Join(dir, "storage"),
		t: t, started: map[int]bool{}, reaped: map[int]unix.WaitStatus{},
	}
	r.before = r.Snapshot()
	t.Cleanup(func() {
		for _, id := range r.ids {
			if got := r.Run("delete", "--force", id); got.Code != 0 {
				t.Errorf("cleaning up: %v", got)
			}
		}
		r.Clean()
	})
	return r
}

// ID is a new container id.
func (r *Runtime) ID() string {
	id := fmt.Sprintf("test-%d-%s-%d", os.Getpid(), strconv.FormatInt(time.Now().UnixNano(), 36), len(r.ids))
	r.ids = append(r.ids, id)
	return id
}

// Result is how a command ended.
type Result struct {
	Args           []string
	Stdout, Stderr string // until the command ended; a container may write on
	Code           int    // exit code; 128 and the signal if one ended it
}

func (r Result) String() string {
	return fmt.Sprintf("thinrun %s: exit code %d\nstdout: %q\nstderr: %q", strings.Join(r.Args, " "), r.Code, r.Stdout, r.Stderr)
}

// patience is for hangs only: a command is asked for its stacks then, and killed. A busy
// machine may take many times as long as ours for anything.
const patience = 5 * time.Minute

// Argv is a command line.
func (r *Runtime) Argv(args ...string) []string {
	return slices.Concat([]string{r.Binary, "--root", r.Root, "--storage", r.Storage}, r.Globals, args)
}

func (r *Runtime) environ() []string {
	return append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}, r.Env...)
}

// Command is a thinrun command line, not started. Its output goes to files, because a
// container keeps what it was born with: with a pipe, create would seem not to end.
func (r *Runtime) Command(args ...string) *exec.Cmd {
	r.t.Helper()
	argv := r.Argv(args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = r.environ()
	cmd.Stdout, cmd.Stderr = r.file(), r.file()
	return cmd
}

func (r *Runtime) file() *os.File {
	r.t.Helper()
	f, err := os.CreateTemp(r.t.TempDir(), "output")
	check(r.t, err)
	r.t.Cleanup(func() { f.Close() })
	return f
}

// Run runs a command to its end.
func (r *Runtime) Run(args ...string) Result {
	r.t.Helper()
	return r.Do(r.Command(args...))
}

// Do runs what Command made.
func (r *Runtime) Do(cmd *exec.Cmd) Result {
	r.t.Helper()
	r.Start(cmd)
	return r.Wait(cmd)
}

// Start starts what Command made.
func (r *Runtime) Start(cmd *exec.Cmd) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	check(r.t, cmd.Start())
	r.started[cmd.Process.Pid] = true
}

// Wait waits for what Start started.
func (r *Runtime) Wait(cmd *exec.Cmd) Result {
	r.t.Helper()
	hang := time.AfterFunc(patience, func() {
		r.t.Errorf("%v hangs", cmd.Args)
		cmd.Process.Signal(unix.SIGQUIT) // Go prints its stacks
		time.AfterFunc(5*time.Second, func() { cmd.Process.Kill() })
	})
	defer hang.Stop()
	err := cmd.Wait()
	r.mu.Lock()
	delete(r.started, cmd.Process.Pid)
	r.mu.Unlock()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	code := exitCode(unix.WaitStatus(cmd.ProcessState.Sys().(syscall.WaitStatus)))
	return Result{Args: cmd.Args[1:], Stdout: content(cmd.Stdout), Stderr: content(cmd.Stderr), Code: code}
}

func exitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func content(w any) string {
	f, ok := w.(*os.File)
	if !ok || f == nil {
		return ""
	}
	if st, err := os.Stat(f.Name()); err != nil || !st.Mode().IsRegular() {
		return "" // not one of ours, but a pipe or terminal of the test's
	}
	data, err := os.ReadFile(f.Name())
	if err != nil {
		return ""
	}
	return string(data)
}

// OK runs a command that must succeed, and returns its output.
func (r *Runtime) OK(args ...string) string {
	r.t.Helper()
	got := r.Run(args...)
	if got.Code != 0 {
		r.t.Fatal(got)
	}
	return got.Stdout
}

// Fails runs a command that must end with code and one line on standard error that says
// all of parts.
func (r *Runtime) Fails(code int, args []string, parts ...string) Result {
	r.t.Helper()
	got := r.Run(args...)
	if got.Code != code {
		r.t.Fatalf("want exit code %d; %v", code, got)
	}
	if n := strings.Count(strings.TrimSpace(got.Stderr), "\n"); n != 0 || strings.TrimSpace(got.Stderr) == "" {
		r.t.Errorf("want one line of error; %v", got)
	}
	for _, part := range parts {
		if !strings.Contains(got.Stderr, part) {
			r.t.Errorf("the error does not say %q; %v", part, got)
		}
	}
	return got
}

// State is what `thinrun state` prints.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations"`
	Owner       string            `json:"owner"`
}

// Container is one that Create made.
type Container struct {
	ID  string
	PID int // of init
	rt  *Runtime
	cmd *exec.Cmd
}

// Create creates a container, which must succeed.
func (r *Runtime) Create(b *Bundle, flags ...string) *Container {
	r.t.Helper()
	c := &Container{ID: r.ID(), rt: r}
	args := append([]string{"create", "--bundle", b.Path()}, flags...)
	c.cmd = r.Command(append(args, c.ID)...)
	if got := r.Do(c.cmd); got.Code != 0 {
		r.t.Fatal(got)
	}
	c.PID = c.State().PID
	return c
}

func (c *Container) State() (st State) {
	c.rt.t.Helper()
	out := c.rt.OK("state", c.ID)
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		c.rt.t.Fatalf("%v in %s", err, out)
	}
	return st
}

func (c *Container) Start()          { c.rt.t.Helper(); c.rt.OK("start", c.ID) }
func (c *Container) Kill(sig string) { c.rt.t.Helper(); c.rt.OK("kill", c.ID, sig) }
func (c *Container) Delete(f ...string) {
	c.rt.t.Helper()
	c.rt.OK(append(append([]string{"delete"}, f...), c.ID)...)
}

// Exec runs a program in the container and waits for it.
func (c *Container) Exec(args ...string) Result {
	c.rt.t.Helper()
	return c.rt.Run(append([]string{"exec", c.ID}, args...)...)
}

// Output is what create and the program have printed until now.
func (c *Container) Output() string { return content(c.cmd.Stdout) + content(c.cmd.Stderr) }

// Wait waits for the program and returns its exit code.
func (c *Container) Wait() int {
	c.rt.t.Helper()
	return c.rt.Reap(c.PID)
}

// Reap waits for a process that was left to us, as a container's init is when create has
// ended, and returns its exit code.
func (r *Runtime) Reap(pid int) int {
	r.t.Helper()
	r.mu.Lock()
	status, known := r.reaped[pid]
	r.mu.Unlock()
	for !known {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		check(r.t, err)
		break
	}
	return exitCode(status)
}

// reap collects children that were left to us: an unreaped init keeps its pid namespace.
func (r *Runtime) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range processes() {
		if p.ppid != os.Getpid() || p.state != "Z" || r.started[p.pid] {
			continue
		}
		var status unix.WaitStatus
		if got, err := unix.Wait4(p.pid, &status, unix.WNOHANG, nil); err == nil && got == p.pid {
			r.reaped[p.pid] = status
		}
	}
}

// Forget is for an id that a test has shown to be gone and does not want deleted again.
func (r *Runtime) Forget(id string) {
	r.ids = slices.DeleteFunc(r.ids, func(s string) bool { return s == id })
}
