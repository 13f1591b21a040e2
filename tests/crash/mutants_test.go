package crash

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"thinrun/tests/box"
	"thinrun/tests/mutant"
	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestMutants gives the binary 500 configs that are wrong in one to three places. Each is
// run or refused with a line; then nothing is left. package plan has the same for the
// part before anything is made. The seed is fixed, a failure prints the config.
func TestMutants(t *testing.T) {
	p := newPlace(t, "dir")
	b := testbundle.New(t).Args("sleep", "1000").Hostname("mutant").Memory(64<<20).Pids(100).Bind("/etc/hosts", "/etc/hosts", "ro")
	b.Edit(func(s *specs.Spec) {
		score := 100
		s.Process.OOMScoreAdj = &score
		s.Process.User.AdditionalGids = []uint32{5, 6}
		s.Linux.CgroupsPath = "/mutant"
		s.Linux.RootfsPropagation = "private"
		s.Linux.Sysctl = map[string]string{"kernel.domainname": "x", "net.ipv4.ip_forward": "0"}
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/mine", Type: "c", Major: 1, Minor: 3}}
		s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"chmod", "fchmod"}, Action: specs.ActErrno,
				Args: []specs.LinuxSeccompArg{{Index: 1, Value: 0o777, Op: specs.OpEqualTo}}}}}
		s.Linux.IntelRdt = nil
	})
	base, err := os.ReadFile(filepath.Join(b.Path(), "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	n := 500
	if box.InLab() {
		n = 30
	}
	r := rand.New(rand.NewSource(20260822))
	ran := 0
	for i := range n {
		config := mutant.Of(t, r, base)
		dir := b.Raw(config)
		args := []string{"create", "--bundle", dir, "mutant"}
		proc := p.Start(nil, args...)
		hang := time.AfterFunc(patience, func() {
			t.Errorf("mutant %d hangs", i)
			_ = proc.Kill()
		})
		state, err := proc.Wait()
		hang.Stop()
		if err != nil {
			t.Fatal(err)
		}
		if code := state.ExitCode(); code == 0 {
			ran++
		} else {
			p.OneLine(code, args)
		}
		p.OK("delete", "--force", "mutant")
		p.clean(fmt.Sprintf("mutant %d", i))
		if t.Failed() {
			t.Fatalf("mutant %d:\n%.8000q", i, config)
		}
	}
	t.Logf("%d created, %d refused", ran, n-ran)
	if ran < n/20 || ran > n*19/20 {
		t.Errorf("%d of %d mutants were created; the test has become one-sided", ran, n)
	}
}
