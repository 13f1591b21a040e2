package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	devices "github.com/opencontainers/cgroups/devices/config"
	"golang.org/x/sys/unix"
)

func typeOf(r rune) devices.Type               { return devices.Type(r) }
func permissions(s string) devices.Permissions { return devices.Permissions(s) }

// need skips, but not inside the lab kernels, which have it.
func need(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("LAB") == "1" {
		t.Fatalf("the lab lacks: %s", what)
	}
	t.Skipf("needs %s", what)
}

func host(t *testing.T) Host {
	t.Helper()
	if os.Geteuid() != 0 {
		need(t, "root")
	}
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	if h.Unified == "" && len(h.Hierarchies) == 0 {
		need(t, "a mounted cgroup hierarchy")
	}
	return h
}

// has tells whether the controller can be used below the root.
func (h Host) has(controller string) bool {
	if !h.V2 {
		return h.mountOf(controller) != ""
	}
	have, _ := read(Root + "/cgroup.controllers")
	return slices.Contains(strings.Fields(have), controller)
}

func needController(t *testing.T, h Host, name string) {
	t.Helper()
	if !h.has(name) {
		need(t, "the "+name+" controller")
	}
}

// create makes a cgroup with a name of its own and checks at the end that nothing of
// it is left, and that its parent was not touched.
func create(t *testing.T, h Host, r *Resources) *Cgroup {
	t.Helper()
	parent := "/thinrun-test-" + fmt.Sprint(os.Getpid()) + "-" + fmt.Sprint(time.Now().UnixNano()%1e9)
	c, err := New(Config{Path: parent + "/web", Resources: r}, h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Destroy(time.Now().Add(5 * time.Minute)); err != nil {
			t.Errorf("destroy: %v", err)
		}
		for _, dir := range c.dirs() {
			if _, err := os.Stat(dir); !os.IsNotExist(err) {
				t.Errorf("%s is left: %v", dir, err)
			}
			if err := unix.Rmdir(filepath.Dir(dir)); err != nil {
				t.Errorf("the parent of %s: %v", dir, err)
			}
		}
	})
	if err := c.Create(); err != nil {
		t.Fatal(err)
	}
	return c
}

// child runs a shell line in the cgroup; it starts only once it is inside.
type child struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func enter(t *testing.T, c *Cgroup, line string) *child {
	t.Helper()
	e, err := c.Entry()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	script := ""
	for _, f := range e.Tasks {
		script += "echo 0 > " + f.Name() + "\n" // sh has one thread
	}
	cmd := exec.Command("/bin/sh", "-ec", script+line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if e.Dir != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(e.Dir.Fd())
	}
	cmd.Stderr = os.Stderr
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
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &child{cmd, in, bufio.NewReader(out)}
}

func (c *child) expect(t *testing.T, want string) {
	t.Helper()
	if got, err := c.out.ReadString('\n'); strings.TrimSpace(got) != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func set(t *testing.T, dir, file, want string) {
	t.Helper()
	got, err := read(dir + "/" + file)
	if err != nil || strings.TrimSpace(got) != want {
		t.Errorf("%s/%s: %q, %v; want %q", dir, file, strings.TrimSpace(got), err, want)
	}
}

func TestDetectAgreesWithTheKernel(t *testing.T) {
	h := host(t)
	if h.V2 != (magic(Root) == unix.CGROUP2_SUPER_MAGIC) {
		t.Errorf("%+v", h)
	}
	for _, hi := range h.Hierarchies {
		if _, err := os.Stat(hi.Mount + "/cgroup.clone_children"); err != nil {
			t.Errorf("%s: %v", hi.Name, err)
		}
	}
	if want := os.Getenv("LAB_CGROUP"); want != "" && h.V2 != (want == "v2") {
		t.Errorf("booted with %s: %+v", want, h)
	}
	t.Logf("%+v", h)
}

func TestLimitsAreThereBeforeAnyProcess(t *testing.T) {
	h := host(t)
	pids, weight := int64(17), uint64(200)
	for _, name := range []string{"memory", "pids", "cpu"} {
		needController(t, h, name)
	}
	r := &Resources{Memory: 64 << 20, MemoryReservation: 32 << 20, PidsLimit: &pids, CpuQuota: 50000, CpuPeriod: 100000}
	if h.V2 {
		r.CpuWeight, r.Unified = weight, map[string]string{"memory.high": "60000000"}
	} else {
		r.CpuShares = 512
	}
	c := create(t, h, r)
	if h.V2 {
		dir := c.paths[""]
		set(t, dir, "memory.max", "67108864")
		set(t, dir, "memory.low", "33554432")
		set(t, dir, "memory.high", "59998208") // whole pages
		set(t, dir, "pids.max", "17")
		set(t, dir, "cpu.max", "50000 100000")
		set(t, dir, "cpu.weight", "200")
		set(t, dir, "cgroup.procs", "")
	} else {
		set(t, c.paths["memory"], "memory.limit_in_bytes", "67108864")
		set(t, c.paths["memory"], "memory.soft_limit_in_bytes", "33554432")
		set(t, c.paths["pids"], "pids.max", "17")
		set(t, c.paths["cpu"], "cpu.cfs_quota_us", "50000")
		set(t, c.paths["cpu"], "cpu.shares", "512")
		set(t, c.paths["memory"], "cgroup.procs", "")
	}
	more := int64(40)
	if err := c.Set(&Resources{PidsLimit: &more}); err != nil {
		t.Fatal(err)
	}
	dir := c.paths["pids"]
	if h.V2 {
		dir = c.paths[""]
	}
	set(t, dir, "pids.max", "40")
	if _, err := c.Stats(); err != nil {
		t.Error(err)
	}
}

func TestCpusetWithoutWishesTakesItsParents(t *testing.T) {
	h := host(t)
	if os.Getenv("LAB") == "1" && !h.has("cpuset") {
		return // User-Mode Linux has one processor and no cpuset
	}
	needController(t, h, "cpuset")
	c := create(t, h, &Resources{SkipDevices: true})
	p := enter(t, c, "echo in; read x")
	p.expect(t, "in")
	if h.V2 {
		return
	}
	cpus, _ := read(h.mountOf("cpuset") + "/cpuset.cpus")
	set(t, c.paths["cpuset"], "cpuset.cpus", strings.TrimSpace(cpus))
	c = create(t, h, &Resources{SkipDevices: true, CpusetCpus: "0"})
	set(t, c.paths["cpuset"], "cpuset.cpus", "0")
}

// A fork bomb from the first instruction on does not get past pids.max.
func TestPidsLimitHoldsFromTheFirstInstruction(t *testing.T) {
	h := host(t)
	needController(t, h, "pids")
	limit := int64(5)
	c := create(t, h, &Resources{SkipDevices: true, PidsLimit: &limit})
	// sh gives up at the first fork that is refused, and would take its answer along.
	p := enter(t, c, "exec 2>&-; for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 >/dev/null 2>&1 & done; echo all")
	if line, _ := p.out.ReadString('\n'); line != "" {
		t.Errorf("eleven processes fit into five: %s", line)
	}
	pids, err := c.Procs()
	if err != nil || len(pids) == 0 || len(pids) > 5 {
		t.Errorf("%d processes, %v", len(pids), err)
	}
}

func TestMemoryLimitKillsAndCounts(t *testing.T) {
	h := host(t)
	needController(t, h, "memory")
	r := &Resources{SkipDevices: true, Memory: 20 << 20}
	c := create(t, h, r)
	p := enter(t, c, `x=$(head -c 100000000 /dev/zero | tr '\0' x); echo survived ${#x}`)
	if line, _ := p.out.ReadString('\n'); strings.Contains(line, "survived") {
		t.Errorf("100 MB fit into 20 MiB: %s", line)
	}
	_ = p.Wait()
	if n, err := c.OOMKills(); n == 0 || err != nil {
		t.Errorf("%d oom kills, %v", n, err)
	}
}

func TestDevicesAreDenied(t *testing.T) {
	h := host(t)
	if !h.V2 && h.mountOf("devices") == "" {
		need(t, "the devices controller")
	}
	for name, test := range map[string]struct {
		rules []*Rule
		want  string // read null, write null, read zero, read full
	}{
		"only null":    {[]*Rule{rule('a', -1, -1, "rwm", false), rule('c', 1, 3, "rw", true)}, "y y n n"},
		"only reading": {[]*Rule{rule('c', 1, -1, "r", true)}, "y n y y"},
		"all but zero": {[]*Rule{rule('a', -1, -1, "rwm", true), rule('c', 1, 5, "rwm", false)}, "y y n y"},
		"all":          {[]*Rule{rule('a', -1, -1, "rwm", true)}, "y y y y"},
		"none":         {nil, "n n n n"},
	} {
		t.Run(name, func(t *testing.T) {
			c := create(t, h, &Resources{Devices: test.rules})
			// Redirections fail without a fork, so nothing else is asked of the rules.
			p := enter(t, c, `set +e
try() { if ( eval ": $1" ); then r="$r y"; else r="$r n"; fi; }
exec 2>&-; r=
try '< /dev/null'; try '> /dev/null'; try '< /dev/zero'; try '< /dev/full'; echo $r`)
			p.expect(t, test.want)
		})
	}
}

// A cgroup that was there, empty: its old device program does not stay beside ours.
func TestEmptyCgroupIsTakenOver(t *testing.T) {
	h := host(t)
	c := create(t, h, &Resources{Devices: nil}) // nothing allowed
	if c.Existed() {
		t.Error("a new cgroup existed")
	}
	again, err := New(Config{Path: c.cfg.Path, Resources: &Resources{Devices: deviceCases["all"]}}, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Create(); err != nil {
		t.Fatal(err)
	}
	if !again.Existed() {
		t.Error("did not notice that it existed")
	}
	enter(t, again, ": < /dev/zero; echo read").expect(t, "read")
}

func TestUsedOrFrozenCgroupIsRefused(t *testing.T) {
	h := host(t)
	c := create(t, h, nil)
	again, err := New(c.cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	p := enter(t, c, "echo in; read x")
	p.expect(t, "in")
	if err := again.Create(); err == nil || !strings.HasPrefix(err.Error(), "container's cgroup is not empty: 1 process(es) found in /sys/fs/cgroup/") {
		t.Errorf("used: %v", err)
	}
	p.in.Close()
	_ = p.Wait()
	if err := c.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := again.Create(); err == nil || !strings.HasPrefix(err.Error(), "container's cgroup unexpectedly frozen: ") {
		t.Errorf("frozen: %v", err)
	}
	if err := c.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := again.Create(); err != nil {
		t.Errorf("thawed: %v", err)
	}
}

// The second of one cgroupsPath is refused, and what it does then hurts no one.
func TestSweepSparesTheOwner(t *testing.T) {
	h := host(t)
	c := create(t, h, nil)
	p := enter(t, c, "echo in; read x; echo $x")
	p.expect(t, "in")
	again, err := Open(c.Manager(), c.cfg.Path, c.Paths(), h)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Sweep(); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(p.in, "alive\n"); err != nil {
		t.Fatal(err)
	}
	p.expect(t, "alive")
	_ = p.Wait()
	if err := again.Sweep(); err != nil {
		t.Error(err)
	}
	for _, dir := range c.dirs() {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is empty and still there: %v", dir, err)
		}
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	h := host(t)
	// A failure at the very end, when all directories are there.
	needController(t, h, "cpu")
	r := &Resources{CpuShares: 1 << 40, SkipDevices: true}
	want := "cpu-shares"
	if h.V2 {
		r = &Resources{Unified: map[string]string{"memory.nonsense": "1"}, SkipDevices: true}
		want = "memory.nonsense"
	}
	c, err := New(Config{Path: "/thinrun-test-failed", Resources: r}, h)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Create()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("got %v", err)
	}
	for _, dir := range c.dirs() {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dir, err)
			_ = unix.Rmdir(dir)
		}
	}
}

func TestLimitThatTheHostCannotSet(t *testing.T) {
	h := host(t)
	if h.has("rdma") {
		return // then it can
	}
	n := uint32(1)
	c, err := New(Config{Path: "/thinrun-test-rdma", Resources: &Resources{SkipDevices: true, Rdma: rdma(n)}}, h)
	if err != nil {
		t.Fatal(err)
	}
	err = c.Create()
	if err == nil || !strings.Contains(err.Error(), "rdma") || strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}

func TestFreezeStopsAndThawGoesOn(t *testing.T) {
	h := host(t)
	c := create(t, h, nil)
	p := enter(t, c, "echo in; while read x; do echo got $x; done")
	p.expect(t, "in")
	frozen := func(want bool) {
		t.Helper()
		if got, err := c.Frozen(); got != want || err != nil {
			t.Errorf("frozen %v, %v; want %v", got, err, want)
		}
	}
	frozen(false)
	for range 3 {
		if err := c.Freeze(); err != nil {
			t.Fatal(err)
		}
		frozen(true)
		stat, _ := read(fmt.Sprintf("/proc/%d/wchan", p.Process.Pid))
		t.Logf("stands in %q", stat)
		if _, err := io.WriteString(p.in, "word\n"); err != nil {
			t.Fatal(err)
		}
		if err := c.Thaw(); err != nil {
			t.Fatal(err)
		}
		frozen(false)
		p.expect(t, "got word")
	}
	if err := c.Thaw(); err != nil {
		t.Errorf("thaw of a running one: %v", err)
	}
}

// nested puts a process into each of: the container's cgroup, one below, one below that;
// with a freezer, the lowest freezes itself.
func nested(t *testing.T, c *Cgroup, freeze bool) []*child {
	t.Helper()
	var all []*child
	for _, rel := range []string{"a/b", "a", ""} { // down first: cgroup2 wants no inner processes with controllers
		sub := *c
		sub.paths = map[string]string{}
		for key, dir := range c.paths {
			sub.paths[key] = filepath.Join(dir, rel)
			if err := os.MkdirAll(sub.paths[key], 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if dir := sub.paths["cpuset"]; dir != "" && rel != "" {
			for _, d := range []string{c.paths["cpuset"] + "/a", dir} {
				for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
					v, _ := read(filepath.Dir(d) + "/" + file)
					_ = write(d+"/"+file, strings.TrimSpace(v))
				}
			}
		}
		p := enter(t, &sub, "sleep 1000 >/dev/null & echo in; read x")
		p.expect(t, "in")
		all = append(all, p)
		if freeze && rel == "a/b" {
			if err := sub.Freeze(); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

func TestKillReachesFrozenAndNested(t *testing.T) {
	h := host(t)
	for name, freeze := range map[string][2]bool{
		"running": {false, false}, "a sub-cgroup is frozen": {true, false}, "all is frozen": {false, true}, "both": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := create(t, h, nil)
			all := nested(t, c, freeze[0])
			if freeze[1] {
				if err := c.Freeze(); err != nil {
					t.Fatal(err)
				}
			}
			pids, err := c.Procs()
			if err != nil || len(pids) != 6 || !slices.IsSorted(pids) {
				t.Errorf("procs %v, %v", pids, err)
			}
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			for _, p := range all {
				if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
					t.Errorf("process %d: %v", p.Process.Pid, err)
				}
			}
			for _, pid := range pids { // their children too
				if err := waitExit(pid, time.Now().Add(5*time.Minute)); err != nil {
					t.Error(err)
				}
				if err := unix.Kill(pid, 0); err == nil && !zombie(pid) {
					t.Errorf("process %d lives", pid)
				}
			}
		})
	}
}

func zombie(pid int) bool {
	stat, _ := read(fmt.Sprintf("/proc/%d/stat", pid))
	return stat == "" || strings.Contains(stat[strings.LastIndexByte(stat, ')'):], ") Z")
}

func TestDestroyTakesAllBelowAndNothingAbove(t *testing.T) {
	h := host(t)
	c := create(t, h, nil)
	nested(t, c, true)
	beside := map[string]bool{}
	for _, dir := range c.dirs() {
		d := filepath.Join(filepath.Dir(dir), "beside")
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
		beside[d] = true
	}
	for range 2 { // the second finds nothing
		if err := c.Destroy(time.Now().Add(5 * time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	for d := range beside {
		if err := unix.Rmdir(d); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
	if pids, err := c.Procs(); len(pids) != 0 || err != nil {
		t.Errorf("procs of nothing: %v, %v", pids, err)
	}
	if err := errors.Join(c.Kill(), c.Thaw()); err != nil {
		t.Errorf("kill and thaw of nothing: %v", err)
	}
	if frozen, err := c.Frozen(); frozen || err != nil {
		t.Errorf("frozen: %v, %v", frozen, err)
	}
}

// Processes that fork all the time do not run away from a kill.
func TestKillCatchesAForkBomb(t *testing.T) {
	h := host(t)
	needController(t, h, "pids")
	limit := int64(40)
	for range 5 {
		c := create(t, h, &Resources{SkipDevices: true, PidsLimit: &limit})
		p := enter(t, c, `exec perl -e '$| = 1; print "in\n"; while (1) { my $p = fork; exit if defined $p && $p && rand(2) < 1 }'`)
		p.expect(t, "in")
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait() // the first one may have left before
		if err := c.waitEmpty(time.Now().Add(5 * time.Minute)); err != nil {
			t.Error(err)
		}
		if pids, err := c.Procs(); len(pids) != 0 || err != nil {
			t.Errorf("ran away: %v, %v", pids, err)
		}
	}
}

// A container that may make cgroups can hide deeper than a path is long.
func TestDestroyBelowTheLongestPath(t *testing.T) {
	h := host(t)
	c := create(t, h, nil)
	p := enter(t, c, "echo in; exec sleep 100000")
	p.expect(t, "in")
	for _, dir := range c.dirs() {
		fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
		for depth := 0; depth < 20 && err == nil; depth++ {
			name := strings.Repeat("deep", 60)
			var sub int
			if err = unix.Mkdirat(fd, name, 0o755); err == nil && dir == c.paths["cpuset"] {
				for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // a new one takes no process
					text, _ := readAt(fd, file)
					err = errors.Join(err, writeAt(fd, name+"/"+file, strings.TrimSpace(text)))
				}
			}
			if err == nil {
				sub, err = openIn(fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
			}
			unix.Close(fd)
			fd = sub
		}
		if err == nil {
			err = writeAt(fd, "cgroup.procs", fmt.Sprint(p.Process.Pid))
			unix.Close(fd)
		}
		if err != nil {
			t.Fatal(dir, err)
		}
	}
	if pids, err := c.Procs(); err != nil || !slices.Equal(pids, []int{p.Process.Pid}) {
		t.Errorf("got %v, %v; want %d", pids, err, p.Process.Pid)
	}
	if err := c.Destroy(time.Now().Add(5 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	_ = p.Wait()
	for _, dir := range c.dirs() {
		if magic(dir) != 0 {
			t.Errorf("%s is still there", dir)
		}
	}
}

// The kernel bug that Entry walks around, and the way around it.
func TestKilledCgroupCanBeUsedAgain(t *testing.T) {
	h := host(t)
	c := create(t, h, nil)
	for range 3 {
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		again, err := New(c.cfg, h)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.Create(); err != nil {
			t.Fatal(err)
		}
		p := enter(t, again, "echo in; read x")
		p.expect(t, "in")
		for _, dir := range again.dirs() {
			set(t, dir, "cgroup.procs", fmt.Sprint(p.Process.Pid))
		}
		p.in.Close()
		_ = p.Wait()
	}
}

// A process that was moved into some of the hierarchies only: a create was killed there.
func TestKillFindsTheHalfMoved(t *testing.T) {
	h := host(t)
	if h.V2 || len(h.Hierarchies) < 2 {
		return // nothing is half
	}
	c := create(t, h, nil)
	for _, key := range []string{"memory", "name=systemd", "freezer"} {
		if c.paths[key] == "" {
			continue
		}
		half := *c
		half.paths = map[string]string{key: c.paths[key]}
		p := enter(t, &half, "echo in; read x")
		p.expect(t, "in")
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("only in %q: %v", key, err)
		}
	}
}

func TestDestroyNamesWhatRemains(t *testing.T) {
	h := host(t)
	c := create(t, h, nil)
	p := enter(t, c, "echo in; read x")
	p.expect(t, "in")
	// Somebody else's mount or hand on it would be EBUSY as well; a process that does not
	// die is made by a deadline that is over before the kill can work.
	err := c.Destroy(time.Now().Add(-time.Second))
	if err == nil {
		_ = p.Wait()
		return // it was faster than us, on one CPU it may be
	}
	if !strings.Contains(err.Error(), c.cfg.Path) {
		t.Errorf("got %v", err)
	}
	_ = p.Wait()
}

func TestSubCgroupsForExec(t *testing.T) {
	h := host(t)
	c := create(t, h, nil)
	all := nested(t, c, false)
	sub, err := c.Sub([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if pids, err := sub.Procs(); err != nil || len(pids) != 4 {
		t.Errorf("a and a/b: %v, %v", pids, err)
	}
	of, err := c.Of(all[0].Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for key, dir := range of.Paths() {
		if want := c.paths[key] + "/a/b"; dir != want {
			t.Errorf("%q: %s, want %s", key, dir, want)
		}
	}
	if _, err := c.Of(os.Getpid()); err == nil {
		t.Error("we are not in the container")
	}
	for _, word := range []string{"", "..", "a/../..", "nope", "memory:", "nocontroller:a", "/etc"} {
		if _, err := c.Sub([]string{word}); err == nil || !strings.HasPrefix(err.Error(), "--cgroup") {
			t.Errorf("%q: %v", word, err)
		}
	}
	if h.V2 {
		return
	}
	sub, err = c.Sub([]string{"memory,pids:a/b", "devices:/a"})
	if err != nil {
		t.Fatal(err)
	}
	if sub.paths["memory"] != c.paths["memory"]+"/a/b" || sub.paths["devices"] != c.paths["devices"]+"/a" || sub.paths["freezer"] != c.paths["freezer"] {
		t.Errorf("%v", sub.paths)
	}
	if _, err := c.Sub([]string{"memory:a", "memory:a/b"}); err == nil {
		t.Error("the same controller twice")
	}
}

func TestDelegatedCgroupBelongsToTheContainersRoot(t *testing.T) {
	h := host(t)
	if h.Unified == "" {
		return // runtime-spec: only cgroup2 is delegated
	}
	uid := 4711
	c := create(t, h, nil)
	c.cfg.OwnerUID = &uid
	if err := c.delegate(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]int{"": uid, "cgroup.procs": uid, "cgroup.subtree_control": uid, "cgroup.max.depth": 0, "cgroup.kill": 0} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(c.paths[""], file), &st); err != nil || int(st.Uid) != want {
			t.Errorf("%q: uid %d, %v; want %d", file, st.Uid, err, want)
		}
	}
}

func TestRootlessMayLackRights(t *testing.T) {
	for _, h := range []Host{
		{V2: true, Unified: "/proc"}, // nobody can mkdir there
		{Hierarchies: []Hierarchy{{"memory", "/proc", "/"}}},
	} {
		c, err := New(Config{Path: "/thinrun-test", Rootless: true, Resources: &Resources{SkipDevices: true}}, h)
		if err != nil {
			t.Fatal(err)
		}
		denied := fmt.Errorf("mkdir: %w", unix.EACCES)
		if !c.tolerates(denied) || c.tolerates(unix.ENOSPC) {
			t.Error("only the lack of rights is tolerated")
		}
		for _, dir := range c.dirs() {
			c.forget(dir)
		}
		if err := c.set(&Resources{SkipDevices: true}); err != nil {
			t.Errorf("no limits: %v", err)
		}
		if err := c.set(&Resources{SkipDevices: true, Memory: 1 << 20}); err == nil || !strings.Contains(err.Error(), "linux.resources.memory cannot be applied") {
			t.Errorf("a limit: %v", err)
		}
	}
}

func rdma(handles uint32) map[string]cgroups.LinuxRdma {
	return map[string]cgroups.LinuxRdma{"mlx5_0": {HcaHandles: &handles}}
}
