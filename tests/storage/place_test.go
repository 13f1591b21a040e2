// Package storage kills the commands that change what is stored wherever that can be,
// and mixes them at random. After the next command, everything must be as if the killed
// one had not begun or had ended: the images, the thin ids in the pool, the devices,
// mounts and files.
package storage

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"thinrun/rootfs/storage/devmapper"
	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/tests/box"
	"thinrun/tests/crash/step"
	"thinrun/tests/testbundle"

	"golang.org/x/sys/unix"
)

// place is a storage directory with its state directory.
type place struct {
	t       *testing.T
	rt      *testbundle.Runtime
	driver  string
	control *dm.Control // nil: overlay
	work    string      // a directory for what commands read and write
	outputs string      // a directory for
	out     *os.File    // what commands print
}

// drivers calls f for overlay and for devmapper. Overlay is the same on each kernel, and
// this one is the faster.
func drivers(t *testing.T, f func(t *testing.T, p *place)) {
	t.Run("overlay", func(t *testing.T) {
		box.Require(t)
		box.NativeOnly(t, "overlay has nothing of the kernel that differs in the lab")
		f(t, newPlace(t, "overlay"))
	})
	t.Run("devmapper", func(t *testing.T) {
		box.Require(t)
		if err := devmapper.Supported(); err != nil {
			box.Lacks(t, "dm-thin: %v", err)
		}
		f(t, newPlace(t, "devmapper"))
	})
}

func newPlace(t *testing.T, driver string) *place {
	t.Helper()
	p := &place{t: t, rt: testbundle.NewRuntime(t), driver: driver, work: t.TempDir(), outputs: t.TempDir()}
	p.rt.Globals = []string{"--storage-driver", driver}
	p.out = p.output()
	if driver == "devmapper" {
		nodes := new(devnode.Nodes)
		var err error
		if p.control, err = dm.Open(nodes); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.control.Close()
			nodes.Close()
		})
	}
	return p
}

func (p *place) output() *os.File {
	p.t.Helper()
	f, err := os.CreateTemp(p.outputs, "output")
	check(p.t, err)
	p.t.Cleanup(func() { f.Close() })
	return f
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// withPool is for the tests that do not make it themselves.
func (p *place) withPool() *place {
	p.t.Helper()
	if p.driver == "devmapper" {
		p.ok(poolCreate...)
		p.t.Cleanup(func() { p.ok("pool", "destroy", "--force") })
	}
	return p
}

var poolCreate = []string{"pool", "create", "--data-size", "512M", "--metadata-size", "16M", "--low-water", "64M", "--base-size", "1G"}

// tree makes a directory to import: a shell, and a file that says which version it is.
// Small, because most calls of an import are otherwise those that write the tree.
func (p *place) tree(version string) string {
	p.t.Helper()
	dir := filepath.Join(p.work, "tree-"+version)
	for _, d := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		check(p.t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		box.Lacks(p.t, "/bin/busybox (Debian's busybox-static)")
	}
	testbundle.Copy(p.t, "/bin/busybox", filepath.Join(dir, "bin/busybox"))
	for _, name := range []string{"sh", "cat", "sha256sum", "sleep", "true"} {
		check(p.t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
	}
	check(p.t, os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644))
	return dir
}

// command is one that is not started.
func (p *place) command(args ...string) *exec.Cmd {
	all := append([]string{"--root", p.rt.Root, "--storage", p.rt.Storage}, p.rt.Globals...)
	cmd := exec.Command(p.rt.Binary, append(all, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	return cmd
}

// start starts a command. Unlike testbundle's it uses one file for all output, since
// there are thousands.
func (p *place) start(attr *syscall.SysProcAttr, args ...string) *os.Process {
	p.t.Helper()
	check(p.t, p.out.Truncate(0))
	_, err := p.out.Seek(0, 0)
	check(p.t, err)
	null, err := os.Open("/dev/null")
	check(p.t, err)
	defer null.Close()
	cmd := p.command(args...)
	proc, err := os.StartProcess(cmd.Path, cmd.Args, &os.ProcAttr{
		Env: cmd.Env, Files: []*os.File{null, p.out, p.out}, Sys: attr,
	})
	check(p.t, err)
	return proc
}

// starter is start for later.
func (p *place) starter(args ...string) step.Start {
	return func(attr *syscall.SysProcAttr) *os.Process { return p.start(attr, args...) }
}

// said is what the last command printed.
func (p *place) said() string {
	b, _ := os.ReadFile(p.out.Name())
	return string(bytes.TrimSpace(b))
}

// patience is for hangs only: a busy machine may take many times as long as ours.
const patience = 5 * time.Minute

// run runs a command to its end.
func (p *place) run(args ...string) (code int) {
	p.t.Helper()
	proc := p.start(nil, args...)
	hang := time.AfterFunc(patience, func() {
		p.t.Errorf("thinrun %q hangs", args)
		proc.Signal(unix.SIGQUIT) // Go prints its stacks
		time.AfterFunc(5*time.Second, func() { proc.Kill() })
	})
	defer hang.Stop()
	state, err := proc.Wait()
	check(p.t, err)
	return state.ExitCode()
}

func (p *place) ok(args ...string) string {
	p.t.Helper()
	if code := p.run(args...); code != 0 {
		p.t.Fatalf("thinrun %q: exit code %d: %s", args, code, p.said())
	}
	return p.said()
}

// took measures a command that runs undisturbed.
func (p *place) took(args ...string) time.Duration {
	p.t.Helper()
	start := time.Now()
	p.ok(args...)
	return time.Since(start)
}

// oneLine: an error is a line.
func (p *place) oneLine(code int, args []string) {
	p.t.Helper()
	if text := p.said(); code != 1 || text == "" || strings.Contains(text, "\n") || strings.Contains(text, "BUG") {
		p.t.Errorf("thinrun %q: exit code %d, and not one line: %.5000s", args, code, text)
	}
}
