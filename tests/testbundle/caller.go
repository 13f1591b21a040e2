package testbundle

import (
	"bytes"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Caller runs a Runtime's commands by the thousand, one at a time: they print into one
// file, where Command makes two for each.
type Caller struct {
	t   testing.TB
	rt  *Runtime
	dir string
	out *os.File
}

// Caller makes one.
func (r *Runtime) Caller() *Caller {
	r.t.Helper()
	return (&Caller{rt: r, dir: r.t.TempDir()}).Fork(r.t)
}

// Fork is the same for another test or goroutine.
func (c *Caller) Fork(t testing.TB) *Caller {
	t.Helper()
	d := &Caller{t: t, rt: c.rt, dir: c.dir}
	d.Afresh()
	return d
}

// Afresh takes another file: what was started before may print on, and that is not the
// next command's.
func (c *Caller) Afresh() {
	c.t.Helper()
	f, err := os.CreateTemp(c.dir, "output")
	check(c.t, err)
	c.t.Cleanup(func() { f.Close() })
	c.out = f
}

// Start starts a command.
func (c *Caller) Start(attr *syscall.SysProcAttr, args ...string) *os.Process {
	c.t.Helper()
	check(c.t, c.out.Truncate(0))
	_, err := c.out.Seek(0, 0)
	check(c.t, err)
	null, err := os.Open(os.DevNull)
	check(c.t, err)
	defer null.Close()
	argv := c.rt.Argv(args...)
	proc, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Env: c.rt.environ(), Files: []*os.File{null, c.out, c.out}, Sys: attr})
	check(c.t, err)
	return proc
}

// Starter is Start for later.
func (c *Caller) Starter(args ...string) func(attr *syscall.SysProcAttr) *os.Process {
	return func(attr *syscall.SysProcAttr) *os.Process { return c.Start(attr, args...) }
}

// Said is what the last command printed.
func (c *Caller) Said() string {
	b, _ := os.ReadFile(c.out.Name())
	return string(bytes.TrimSpace(b))
}

// Run runs a command to its end and returns its exit code.
func (c *Caller) Run(args ...string) int {
	c.t.Helper()
	proc := c.Start(nil, args...)
	hang := time.AfterFunc(patience, func() {
		c.t.Errorf("thinrun %q hangs", args)
		proc.Signal(unix.SIGQUIT) // Go prints its stacks
		time.AfterFunc(5*time.Second, func() { proc.Kill() })
	})
	defer hang.Stop()
	state, err := proc.Wait()
	check(c.t, err)
	return state.ExitCode()
}

// OK runs a command that must succeed, and returns what it printed.
func (c *Caller) OK(args ...string) string {
	c.t.Helper()
	if code := c.Run(args...); code != 0 {
		c.t.Fatalf("thinrun %q: exit code %d: %s", args, code, c.Said())
	}
	return c.Said()
}

// Took measures a command that must succeed.
func (c *Caller) Took(args ...string) time.Duration {
	c.t.Helper()
	start := time.Now()
	c.OK(args...)
	return time.Since(start)
}

// Refused runs a command that may fail, with exit code 1 and one line then, and says
// whether it did.
func (c *Caller) Refused(args ...string) bool {
	c.t.Helper()
	code := c.Run(args...)
	if code != 0 {
		c.OneLine(code, args)
	}
	return code != 0
}

// OneLine: the last command has failed as it should, with exit code 1 and one line of 1 to
// 4096 bytes.
func (c *Caller) OneLine(code int, args []string) {
	c.t.Helper()
	text := c.Said()
	switch {
	case code != 1:
		c.t.Errorf("thinrun %q: exit code %d: %.5000s", args, code, text)
	case len(text) < 1 || len(text) > 4096 || strings.ContainsAny(text, "\n\r\x00") || strings.Contains(text, "BUG"):
		c.t.Errorf("thinrun %q: not one line of 1 to 4096 bytes: %.5000q", args, text)
	}
}
