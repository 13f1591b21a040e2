package process

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"thinrun/tests/box"

	"golang.org/x/sys/unix"
)

// pty opens a pair on the host's devpts.
func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	master = os.NewFile(uintptr(fd), "/dev/ptmx")
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	peer, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", peer), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

func TestTakeTerminal(t *testing.T) {
	master, slave := pty(t)
	// Opening /dev/tty proves the controlling terminal, the rest the three descriptors.
	c := Config{Args: []string{"/bin/sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo yes > /dev/tty"}}
	cmd := command(t, c, "session,terminal,look,closefds,exec")
	var errOut strings.Builder
	cmd.Stderr = &errOut
	cmd.ExtraFiles = []*os.File{slave}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	slave.Close() // ours, so that the master sees the end
	out, err := io.ReadAll(master)
	if err != nil && !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil || string(out) != "yes\r\n" {
		t.Errorf("got %q, %v %s", out, err, errOut.String())
	}
}

func TestKeyring(t *testing.T) {
	name := fmt.Sprintf("_ses.test%d", os.Getpid())
	if _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); errors.Is(err, unix.ENOSYS) {
		// A kernel without keys (UML): nothing to do, and no reason to fail.
		succeed(t, Config{KeyringName: name}, "keyring")
		return
	}
	text := succeed(t, Config{KeyringName: name}, "keyring,describe")
	fields := strings.Split(strings.TrimSpace(text), ";")
	// possessor everything; user view, read, link as by default, and search
	if len(fields) != 5 || fields[0] != "keyring" || fields[3] != "3f1b0000" || fields[4] != name {
		t.Errorf("got %q, want keyring;...;3f1b0000;%s", text, name)
	}
	succeed(t, Config{KeyringName: name}, "keyring,keyring") // exec joins it
	if ours := succeed(t, Config{}, "keyring,describe"); strings.Contains(ours, name) {
		t.Errorf("no name, and yet %q", ours)
	}
}

func TestScheduling(t *testing.T) {
	box.Root(t)
	persona := uint64(8) // PER_LINUX32
	c := Config{
		Args:        []string{"/bin/sh", "-c", "cut -d' ' -f19,41 /proc/self/stat; uname -m; grep Cpus_allowed_list /proc/self/status"},
		Scheduler:   &Scheduler{Policy: unix.SCHED_BATCH, Nice: 5},
		IOPriority:  &IOPriority{Class: 2, Priority: 7},
		Personality: &persona,
	}
	online, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		t.Fatal(err)
	}
	start := func(c Config) []string {
		t.Helper()
		cmd := command(t, c, "scheduling,look,closefds,exec")
		cmd.Args = append([]string{"taskset", "1", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/usr/bin/taskset"
		out, errText := runCommand(cmd)
		if errText != "" {
			t.Fatal(errText)
		}
		return strings.Fields(out)
	}
	got := start(c)
	if len(got) != 5 || got[0] != "5" || got[1] != "3" || !regexp.MustCompile(`^(i686|armv8l|x86_64)$`).MatchString(got[2]) {
		t.Errorf("got %q, want nice 5, policy 3 (batch), a 32-bit machine", got)
	}
	if got[4] != strings.TrimSpace(string(online)) {
		t.Errorf("a caller pinned to CPU 0 left it on %s, want %s", got[4], online)
	}
	c.CPUAffinityFinal = []int{0}
	if got := start(c); got[4] != "0" {
		t.Errorf("execCPUAffinity.final 0: on %s", got[4])
	}
	c.CPUAffinityFinal = []int{8000}
	_, errText := run(t, c, "scheduling")
	wantError(t, errText, "execCPUAffinity.final", "[8000]", "invalid argument")
	_, errText = run(t, Config{Scheduler: &Scheduler{Policy: 99}}, "scheduling")
	wantError(t, errText, "scheduler: sched_setattr policy 99", "invalid argument")
	_, errText = run(t, Config{IOPriority: &IOPriority{Class: 7}}, "scheduling")
	wantError(t, errText, "ioPriority: ioprio_set class 7", "invalid argument")
}

func TestMemoryPolicy(t *testing.T) {
	const bind, localAlloc = 2, 4
	c := Config{Args: []string{"/bin/cat", "/proc/self/numa_maps"}, MemoryPolicy: &MemoryPolicy{Mode: bind, Nodes: []int{0}}}
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		_, errText := run(t, c, "scheduling") // no NUMA here: refused, not forgotten
		wantError(t, errText, "memoryPolicy: set_mempolicy mode 2", "function not implemented")
		return
	}
	if maps := succeed(t, c, "scheduling,look,closefds,exec"); !strings.Contains(maps, "bind:0") {
		t.Errorf("no memory bound to node 0:\n%s", maps)
	}
	c.MemoryPolicy = &MemoryPolicy{Mode: localAlloc}
	if maps := succeed(t, c, "scheduling,look,closefds,exec"); !strings.Contains(maps, "local") {
		t.Errorf("no local memory:\n%s", maps)
	}
	c.MemoryPolicy = &MemoryPolicy{Mode: bind, Nodes: []int{1000}}
	_, errText := run(t, c, "scheduling")
	wantError(t, errText, "memoryPolicy: set_mempolicy mode 2", "[1000]", "invalid argument")
}

// Podman knows a failing label by this.
var podmanAttr = "`/proc/[a-z0-9-].+/attr.*`"

func TestLabelThatCannotBe(t *testing.T) {
	for _, c := range []Config{{AppArmorProfile: "no-such-profile"}, {SELinuxLabel: "no:such:label"}} {
		_, errText := run(t, c, "labels")
		if !regexp.MustCompile(podmanAttr).MatchString(errText) {
			t.Errorf("%q does not match %s", errText, podmanAttr)
		}
		wantError(t, errText, "no")
	}
}

// In a root without /proc, or with a fake one, a label is refused, not written somewhere.
func TestLabelNeedsRealProc(t *testing.T) {
	box.Root(t)
	dir := tree(t, map[string]os.FileMode{"proc/thread-self/attr/exec": 0o644, "proc/thread-self/attr/apparmor/exec": 0o644})
	c := someUser() // may not make an own procfs
	c.AppArmorProfile = "profile"
	_, errText := run(t, c, "chroot="+dir+",become,labels")
	wantError(t, errText, "not procfs")
	if data, err := os.ReadFile(dir + "/proc/thread-self/attr/apparmor/exec"); err != nil || strings.Contains(string(data), "profile") {
		t.Errorf("%q, %v", data, err)
	}
	proc, err := openProc()
	if err != nil {
		t.Fatal(err)
	}
	defer proc.Close()
	if _, err := openAttr(proc, "../../../etc/passwd", unix.O_RDONLY); err == nil {
		t.Error("left procfs")
	}
}

// held is a child that waits; the test ends it.
func held(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := command(t, Config{}, "hold")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	startReady(t, cmd)
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return cmd
}

// startReady starts a child and waits for its word.
func startReady(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("got %q, %v", line, err)
	}
}

func TestSetRlimitsMakesRoom(t *testing.T) {
	pid := held(t).Process.Pid
	if err := unix.Prlimit(pid, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 50, Max: 100}, nil); err != nil {
		t.Fatal(err)
	}
	get := func() (l unix.Rlimit) {
		if err := unix.Prlimit(pid, unix.RLIMIT_NPROC, nil, &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	c := Config{Rlimits: []Rlimit{{unix.RLIMIT_NPROC, 10, 90}}}
	if err := c.SetRlimits(pid); err != nil {
		t.Fatal(err)
	}
	if l := get(); l.Cur != 50 || l.Max != 100 {
		t.Errorf("lowered to %d:%d already; that is the process's own step", l.Cur, l.Max)
	}
	c.Rlimits[0].Hard = 200
	err := c.SetRlimits(pid)
	if hasCap(t, unix.CAP_SYS_RESOURCE) {
		if l := get(); err != nil || l.Max != 200 {
			t.Errorf("got %v, %v, want a hard limit of 200", l, err)
		}
		return
	}
	if err == nil {
		t.Fatal("raised without CAP_SYS_RESOURCE")
	}
	wantError(t, err.Error(), "raise the hard limit RLIMIT_NPROC from 100 to 200", "operation not permitted", "CAP_SYS_RESOURCE")
	_, errText := run(t, Config{Rlimits: []Rlimit{{unix.RLIMIT_NICE, 40, 40}}}, "closefds")
	wantError(t, errText, "set RLIMIT_NICE to 40:40", "CAP_SYS_RESOURCE")
}

func TestFirstToDieComesBack(t *testing.T) {
	pid := held(t).Process.Pid
	score := func() string {
		got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(got))
	}
	own := score()
	restore := FirstToDie(pid)
	if got := score(); got != "1000" {
		t.Errorf("got %s", got)
	}
	if err := restore(); err != nil || score() != own {
		t.Errorf("got %s, %v, want %s", score(), err, own)
	}
	if err := FirstToDie(1 << 30)(); err != nil { // nobody
		t.Error(err)
	}
}

func TestSetOOMScoreAdj(t *testing.T) {
	pid := held(t).Process.Pid
	for _, want := range []int{700, 700, 500} {
		c := Config{OOMScoreAdj: &want}
		err := c.SetOOMScoreAdj(pid)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
		if err != nil || strings.TrimSpace(string(got)) != fmt.Sprint(want) {
			t.Errorf("got %s, %v, want %d", got, err, want)
		}
	}
	if err := (&Config{}).SetOOMScoreAdj(pid); err != nil {
		t.Error(err)
	}
	low := -1000
	err := (&Config{OOMScoreAdj: &low}).SetOOMScoreAdj(pid)
	if hasCap(t, unix.CAP_SYS_RESOURCE) {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if err == nil {
		t.Fatal("lowered without CAP_SYS_RESOURCE")
	}
	wantError(t, err.Error(), "oomScoreAdj -1000", "permission denied", "CAP_SYS_RESOURCE")
}
