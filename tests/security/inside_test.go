// Package security attacks the real binary from inside a container. Each test names the
// vulnerabilities of other runtimes that it repeats.
package security

import (
	"os"
	"strings"
	"testing"

	"thinrun/tests/box"
	"thinrun/tests/security/scan"
	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestMain(m *testing.M) {
	if scan.Called() {
		scan.Main()
	}
	os.Exit(m.Run())
}

// runtime has a copy of the binary that could be written, were it not protected.
func runtime(t *testing.T) *testbundle.Runtime {
	t.Helper()
	box.Require(t)
	rt := testbundle.NewRuntime(t)
	path := t.TempDir() + "/thinrun"
	testbundle.Copy(t, rt.Binary, path)
	rt.Binary = path
	return rt
}

func capabilities(names ...string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		set := append(append([]string{}, s.Process.Capabilities.Bounding...), names...)
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
	}
}

// CVE-2024-21626, CVE-2015-3627: what the caller forgot to close, and what we opened,
// stays out.
func TestContainerHasThreeDescriptors(t *testing.T) {
	rt := runtime(t)
	host, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	cmd := rt.Command("run", "--bundle", testbundle.New(t).Args("/scan").Self("scan").Path(), rt.ID())
	cmd.ExtraFiles = []*os.File{host, host, host, host, host, host, host}
	got := rt.Do(cmd)
	r, err := scan.Parse(got.Stdout)
	if err != nil {
		t.Fatal(err, got)
	}
	for _, fd := range r.FDs {
		if fd.Number > 2 {
			t.Errorf("descriptor %+v", fd)
		}
	}
	if len(r.Unmasked) > 0 {
		t.Errorf("open to the container: %q", r.Unmasked)
	}
	// CVE-2020-15257
	if len(r.Sockets) > 0 {
		t.Errorf("abstract sockets: %q", r.Sockets)
	}
}

// watch lets a container look at a number of execs and returns what it saw.
func watch(t *testing.T, caps ...string) *scan.Report {
	t.Helper()
	n := 60
	if box.InLab() { // with the watcher on the only CPU each takes most of a second
		n = 12
	}
	rt := runtime(t)
	b := testbundle.New(t).Args("/scan", "watch").Self("scan").Edit(capabilities(caps...))
	c := rt.Create(b)
	c.Start()
	for range n {
		if got := c.Exec("true"); got.Code != 0 {
			t.Fatal(got)
		}
	}
	c.Kill("TERM")
	if code := c.Wait(); code != 0 {
		t.Fatalf("scan: exit code %d: %s", code, c.Output())
	}
	r, err := scan.Parse(c.Output())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Processes) == 0 {
		t.Fatal("not one of the execs was seen")
	}
	return r
}

// CVE-2016-9962, CVE-2016-8649, CVE-2019-5736: the init stage of exec shows nothing to a
// container that may not trace.
func TestInitStageShowsNothing(t *testing.T) {
	r := watch(t)
	for _, p := range r.Processes {
		if strings.Contains(p.Exe, "thinrun") {
			t.Errorf("our binary was opened: %+v", p)
		}
	}
	if len(r.WritableExes) > 0 {
		t.Errorf("written: %q", r.WritableExes)
	}
}

// The same with CAP_SYS_PTRACE, to which nothing in the pid namespace can be hidden: it
// finds no directory of the host's, nothing to write, and not the host's binary.
func TestInitStageIsHarmlessToTracer(t *testing.T) {
	r := watch(t, "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE")
	if len(r.WritableExes) > 0 {
		t.Errorf("CVE-2019-5736: executables of the host's were written: %q", r.WritableExes)
	}
	told := map[string]bool{}
	for _, p := range r.Processes {
		for _, fd := range p.FDs {
			host := fd.Outside || fd.Writable && strings.HasPrefix(fd.Target, "/sys/fs/cgroup/")
			if host && !told[fd.Target] {
				told[fd.Target] = true
				t.Errorf("CVE-2016-9962: reachable through %q: %+v", p.Name, fd)
			}
		}
	}
}
