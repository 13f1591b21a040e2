package scan

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"thinrun/tests/box"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if Called() {
		Main()
	}
	os.Exit(m.Run())
}

// command is this binary as scan.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Args = append([]string{"scan"}, args...)
	return cmd
}

// The scan must see the holes it is there for; here, outside of any container, it has
// them all. It writes into the programs of others where it can: only in a box.
func TestScanSeesHoles(t *testing.T) {
	box.Require(t)
	open, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	cmd := command(t)
	cmd.ExtraFiles = []*os.File{open, open, os.Stdout}
	cmd.Env = []string{"SECRET=1"}
	cmd.Dir = "/"
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Parse(string(out))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(r.FDs, func(fd FD) bool { return fd.Number == 3 })
	if at < 0 || !r.FDs[at].Directory || r.FDs[at].Outside || r.FDs[at].Target != "/" {
		t.Errorf("descriptor 3 is / and was not seen: %+v", r.FDs)
	}
	if slices.ContainsFunc(r.FDs, func(fd FD) bool { return strings.HasPrefix(fd.Target, "anon_inode:") }) {
		t.Errorf("Go's own descriptors among those that were given: %+v", r.FDs)
	}
	if !slices.Contains(r.Env, "SECRET=1") || r.Status["CapEff"] == "" || r.Namespaces["mnt"] == "" ||
		r.Limits["Max open files"] == "" || len(r.Mounts) == 0 || r.Cwd != "/" {
		t.Errorf("got %+v", r)
	}
	parent := slices.IndexFunc(r.Processes, func(p Process) bool { return p.PID == os.Getpid() })
	if parent < 0 || !r.Processes[parent].ExeOpened || !r.Processes[parent].EnvRead || len(r.Processes[parent].FDs) < 3 {
		t.Errorf("it did not look into us: %+v", r.Processes)
	}
	if parent >= 0 && r.Processes[parent].ExeWritable {
		t.Error("our own executable runs and was written")
	}
}

func TestExeOfEndedProcessIsWritable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "exe")
	if err := os.WriteFile(path, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	var p Process
	p.tryExe(path)
	if !p.ExeOpened || !p.ExeWritable {
		t.Errorf("got %+v", p)
	}
	if os.Geteuid() == 0 {
		p = Process{}
		p.tryExe("/proc/self/exe")
		if !p.ExeOpened || p.ExeWritable || !strings.Contains(p.ExeError, "text file busy") && !strings.Contains(p.ExeError, "read-only") {
			t.Errorf("running: got %+v", p)
		}
	}
}

// A directory behind our root is one that a container must not have.
func TestScanSeesOutside(t *testing.T) {
	box.Require(t)
	dir := t.TempDir()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "scan"), exe, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open("/etc")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	// chroot with a private proc below it
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t proc proc "$0/proc" && exec chroot "$0" /scan`, dir)
	cmd.ExtraFiles = []*os.File{open}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r, err := Parse(string(out))
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(r.FDs, func(fd FD) bool { return fd.Number == 3 })
	if at < 0 || !r.FDs[at].Outside {
		t.Errorf("descriptor 3 is outside and was not seen: %+v", r.FDs)
	}
}

func TestWatchSeesWhoComesBy(t *testing.T) {
	box.Require(t)
	cmd := command(t, "watch")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); line != "watching\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	sh, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "visitor")
	if err := os.WriteFile(name, sh, 0o755); err != nil {
		t.Fatal(err)
	}
	visitor := exec.Command(name, "-c", "read line")
	stdin, err := visitor.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := visitor.Start(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if line, err := lines.ReadString('\n'); line != "looked\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	stdin.Close()
	_ = visitor.Wait()
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	out, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	r, err := Parse(out)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(r.Processes, func(p Process) bool { return p.PID == visitor.Process.Pid })
	if at < 0 || r.Processes[at].Seen == 0 || !strings.Contains(r.Processes[at].Name, "visitor") {
		t.Errorf("process %d was not seen", visitor.Process.Pid)
	}
	if !slices.Contains(r.WritableExes, name) {
		t.Errorf("%s has ended and was not written: %q", name, r.WritableExes)
	}
}
