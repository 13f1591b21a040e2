package nsenter

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is its own child: started through Command with this first argument
// it writes what it sees as JSON into its socket and waits for the end of it.
const childWord = "nsenter-child"

type sight struct {
	PID, UID, GID int
	CapEff        string
	NS            map[string]string
	FDs           []string
	Exe           string // what opening our own binary for writing said
	Uptime        string
	Cgroup        string
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == childWord {
		look(os.Args[2])
	}
	if len(os.Args) == 3 && os.Args[1] == "nsenter-parent" {
		doomedParent(os.Args[2])
	}
	if len(os.Args) == 2 && os.Args[1] == "nsenter-resealed" {
		resealedTwice()
	}
	os.Exit(m.Run())
}

func look(socket string) {
	fd, _ := strconv.Atoi(socket)
	s := sight{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(), NS: map[string]string{}}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"} {
		s.NS[ns], _ = os.Readlink("/proc/thread-self/ns/" + ns)
	}
	// /proc may show another pid namespace: thread-self is right all the same.
	status, _ := os.ReadFile("/proc/thread-self/status")
	for _, l := range strings.Split(string(status), "\n") {
		if v, ok := strings.CutPrefix(l, "CapEff:\t"); ok {
			s.CapEff = v
		}
	}
	if dir, err := os.ReadDir("/proc/thread-self/fd"); err == nil {
		for _, e := range dir {
			to, _ := os.Readlink("/proc/thread-self/fd/" + e.Name())
			if n, _ := strconv.Atoi(e.Name()); n > 2 && n != fd && to != "" && !strings.Contains(to, "/proc/") && !strings.Contains(to, "anon_inode") {
				s.FDs = append(s.FDs, e.Name()+" "+to)
			}
		}
	}
	if f, err := os.OpenFile("/proc/thread-self/exe", os.O_WRONLY, 0); err == nil {
		s.Exe = "writable"
		f.Close()
	} else {
		s.Exe = errors.Unwrap(err).Error()
	}
	up, _ := os.ReadFile("/proc/uptime")
	s.Uptime, _, _ = strings.Cut(string(up), " ")
	cg, _ := os.ReadFile("/proc/thread-self/cgroup")
	s.Cgroup = string(cg)
	b, _ := json.Marshal(s)
	f := os.NewFile(uintptr(fd), "socket")
	f.Write(append(b, '\n'))
	io.Copy(io.Discard, f)
	os.Exit(0)
}

// started is a child that has been released and has told what it sees.
type started struct {
	*Child
	sight
	ours *os.File
}

func start(t *testing.T, c Command) *started {
	t.Helper()
	s, err := tryStart(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tryStart(t *testing.T, c Command) (*started, error) {
	t.Helper()
	needRoot(t)
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	ours, theirs := socketPair(t)
	if c.SocketFD == 0 {
		c.SocketFD = 3
	}
	c.Args, c.Env, c.Socket = []string{"child", childWord, strconv.Itoa(c.SocketFD)}, []string{"GODEBUG=containermaxprocs=0"}, theirs
	child, err := c.Start()
	if err != nil {
		theirs.Close()
		return nil, err
	}
	t.Cleanup(func() {
		ours.Close()
		unix.PidfdSendSignal(int(child.PidFD.Fd()), unix.SIGKILL, nil, 0)
		unix.Wait4(child.PID, nil, 0, nil)
		child.Close()
	})
	theirs.Close()
	if err := child.Release(); err != nil {
		return nil, err
	}
	s := &started{Child: child, ours: ours}
	if err := json.NewDecoder(ours).Decode(&s.sight); err != nil {
		if why := child.Failure(); why != nil {
			return nil, why
		}
		return nil, fmt.Errorf("the child said nothing: %w", err)
	}
	return s, nil
}

func socketPair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("LAB") != "" {
		t.Fatal("not root in the lab")
	}
	t.Skip("needs root")
}

func ourNS(ns string) string {
	s, _ := os.Readlink("/proc/thread-self/ns/" + ns)
	return s
}

const all = PID | Network | Mount | IPC | UTS | Cgroup

func TestNewNamespaces(t *testing.T) {
	s := start(t, Command{Config: Config{New: all}})
	if s.sight.PID != 1 {
		t.Errorf("pid = %d in a new pid namespace, want 1", s.sight.PID)
	}
	for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		if s.NS[ns] == "" || s.NS[ns] == ourNS(ns) {
			t.Errorf("%s namespace = %s, ours is %s", ns, s.NS[ns], ourNS(ns))
		}
	}
	if s.NS["user"] != ourNS("user") {
		t.Errorf("user namespace changed unasked")
	}
}

func TestUserNamespaceHasMapsAndCapabilities(t *testing.T) {
	maps := []Mapping{{0, 100000, 65536}}
	s := start(t, Command{Config: Config{New: all | User, UIDMappings: maps, GIDMappings: maps}})
	if s.UID != 0 || s.GID != 0 {
		t.Errorf("uid:gid = %d:%d, want 0:0", s.UID, s.GID)
	}
	if n, _ := strconv.ParseUint(s.CapEff, 16, 64); n&(1<<unix.CAP_SYS_ADMIN) == 0 {
		t.Errorf("CapEff = %s: no CAP_SYS_ADMIN in the new user namespace", s.CapEff)
	}
	if m, _ := os.ReadFile(fmt.Sprintf("/proc/%d/uid_map", s.Child.PID)); strings.Join(strings.Fields(string(m)), " ") != "0 100000 65536" {
		t.Errorf("uid_map = %q", m)
	}
}

func TestJoinByPath(t *testing.T) {
	for _, kind := range []Kind{Network, IPC, UTS, PID, Cgroup, Mount} {
		t.Run(kind.String(), func(t *testing.T) {
			holder := start(t, Command{Config: Config{New: kind}})
			file := nsFile(kind)
			path := fmt.Sprintf("/proc/%d/ns/%s", holder.Child.PID, file)
			s := start(t, Command{Config: Config{New: UTS &^ kind, Join: []Join{{kind, path}}}})
			if s.NS[file] != holder.NS[file] {
				t.Errorf("%s namespace = %s, want the holder's %s", file, s.NS[file], holder.NS[file])
			}
			if kind == PID && s.sight.PID < 2 {
				t.Errorf("pid = %d, want one after the holder's", s.sight.PID)
			}
		})
	}
}

func nsFile(k Kind) string {
	switch k {
	case Network:
		return "net"
	case Mount:
		return "mnt"
	}
	return k.String()
}

func TestJoinUserNamespaceByPath(t *testing.T) {
	maps := []Mapping{{0, 100000, 65536}}
	holder := start(t, Command{Config: Config{New: User | Network, UIDMappings: maps, GIDMappings: maps}})
	path := fmt.Sprintf("/proc/%d/ns/", holder.Child.PID)
	s := start(t, Command{Config: Config{New: Mount | UTS, Join: []Join{{User, path + "user"}, {Network, path + "net"}}}})
	if s.NS["user"] != holder.NS["user"] || s.NS["net"] != holder.NS["net"] {
		t.Errorf("namespaces = %v, want user and net of %v", s.NS, holder.NS)
	}
	if s.UID != 0 {
		t.Errorf("uid = %d, want 0", s.UID)
	}
}

func TestTargetEntersAllNamespacesOfAProcess(t *testing.T) {
	maps := []Mapping{{0, 100000, 65536}}
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"without user namespace", Config{New: all}},
		{"with user namespace", Config{New: all | User, UIDMappings: maps, GIDMappings: maps}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			holder := start(t, Command{Config: tt.cfg})
			s := start(t, Command{Target: holder.PidFD, TargetKinds: tt.cfg.New})
			for ns, want := range holder.NS {
				if s.NS[ns] != want {
					t.Errorf("%s namespace = %s, want %s", ns, s.NS[ns], want)
				}
			}
			if s.sight.PID == 1 {
				t.Error("pid = 1, want a later one")
			}
		})
	}
}

func TestTimeOffsets(t *testing.T) {
	needRoot(t)
	if ourNS("time") == "" {
		t.Skip("native only: this kernel has no time namespaces (CONFIG_TIME_NS)")
	}
	s := start(t, Command{Config: Config{New: Time, TimeOffsets: []TimeOffset{{"boottime", 1000000, 0}}}})
	up, err := strconv.ParseFloat(s.Uptime, 64)
	if err != nil || up < 1000000 {
		t.Errorf("uptime inside = %s, want more than 1000000 s", s.Uptime)
	}
}

func TestOwnBinaryIsNotWritable(t *testing.T) {
	s := start(t, Command{Config: Config{New: Mount}})
	if s.Exe == "writable" {
		t.Error("the child could open its own binary for writing")
	}
	t.Run("overlay", func(t *testing.T) {
		// It costs a tenth of the copy; a kernel that refuses it would only show as slowness.
		f, err := overlaySelf()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
			w.Close()
			t.Errorf("open for writing: %v, want EROFS", err)
		}
	})
	t.Run("memfd", func(t *testing.T) {
		f, err := memfdSelf()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0)
		if err == nil {
			_, err = w.Write([]byte{0})
			w.Close()
		}
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("write to the sealed copy: %v, want EPERM", err)
		}
	})
}

func TestResealedIsNotCopiedAgain(t *testing.T) {
	needRoot(t)
	out, err := exec.Command("/proc/self/exe", "nsenter-resealed").CombinedOutput()
	if err != nil || string(out) != "same file, not writable\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// resealedTwice runs the sealed copy and says what is sealed for its child.
func resealedTwice() {
	err := Reseal(func(string) bool { return false })
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	f, err := Self()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var ours, theirs unix.Stat_t
	if unix.Stat("/proc/self/exe", &ours) != nil || unix.Fstat(int(f.Fd()), &theirs) != nil || ours.Dev != theirs.Dev || ours.Ino != theirs.Ino {
		fmt.Println("another copy:", f.Name())
		os.Exit(1)
	}
	if w, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_WRONLY, 0); err == nil {
		w.Close()
		fmt.Println("writable")
		os.Exit(1)
	}
	fmt.Println("same file, not writable")
	os.Exit(0)
}

func TestOnlyTheSocketIsInherited(t *testing.T) {
	// A descriptor that our caller forgot to mark, as in CVE-2024-21626.
	fd, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	s := start(t, Command{Config: Config{New: Mount}})
	if len(s.FDs) != 0 {
		t.Errorf("descriptors in the child: %q", s.FDs)
	}
}

func TestPreservedDescriptorsStay(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	const at = 40 // out of the way of the test binary's own
	if err := unix.Dup3(int(r.Fd()), at, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(at)
	s := start(t, Command{Config: Config{New: Mount}, SocketFD: at + 1})
	if !slices.ContainsFunc(s.FDs, func(s string) bool { return strings.HasPrefix(s, "40 pipe:") }) {
		t.Errorf("descriptor 40 is not in the child: %q", s.FDs)
	}
}

func TestBornInItsCgroup(t *testing.T) {
	needRoot(t)
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		root = "/sys/fs/cgroup/unified"
	}
	dir := filepath.Join(root, fmt.Sprintf("nsenter-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		if os.Getenv("LAB") != "" {
			t.Fatal(err)
		}
		t.Skipf("no writable cgroup2: %v", err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("cgroup left: %v", err)
		}
	})
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := start(t, Command{Config: Config{New: Cgroup | Mount}, Cgroup: f})
	procs, _ := os.ReadFile(dir + "/cgroup.procs")
	if strings.TrimSpace(string(procs)) != strconv.Itoa(s.Child.PID) {
		t.Errorf("cgroup.procs = %q, want %d", procs, s.Child.PID)
	}
	// Its cgroup namespace is rooted there, not at ours.
	if !strings.Contains(s.Cgroup, "0::/\n") {
		t.Errorf("/proc/self/cgroup = %q, want 0::/", s.Cgroup)
	}
}

func TestFailuresSayWhat(t *testing.T) {
	needRoot(t)
	for _, tt := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"missing path", Config{Join: []Join{{Network, "/nonexistent/ns"}}}, "network namespace: open /nonexistent/ns: no such file or directory"},
		{"not a namespace", Config{Join: []Join{{Network, "/proc/self/status"}}}, "network namespace: /proc/self/status is not one"},
		{"another kind", Config{Join: []Join{{Network, "/proc/self/ns/uts"}}}, "network namespace: /proc/self/ns/uts is not one"},
		{"bad map", Config{New: User, UIDMappings: []Mapping{{0, 0, 0}}}, "linux.uidMappings: write uid_map: invalid argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := tryStart(t, Command{Config: tt.cfg})
			if err == nil || err.Error() != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
	t.Run("setns", func(t *testing.T) {
		// Our own user namespace cannot be entered again: user_namespaces(7).
		_, err := tryStart(t, Command{Config: Config{Join: []Join{{User, "/proc/self/ns/user"}}}})
		if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "setns user /proc/self/ns/user") {
			t.Errorf("got %v", err)
		}
	})
}

// doomedParent starts a child, prints its pid, and waits to be killed.
func doomedParent(when string) {
	runtime.LockOSThread()
	fds, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	c := Command{Config: Config{New: PID | Mount}, Args: []string{"child", childWord, "3"}, Env: []string{}, Socket: os.NewFile(uintptr(fds[1]), "s"), SocketFD: 3}
	child, err := c.Start()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if when == "after" {
		child.Release()
		unix.Read(fds[0], make([]byte, 1)) // it runs our binary
	}
	fmt.Println(child.PID)
	unix.Pause() // select {} would be a deadlock to the Go runtime, and end us
}

func TestParentsDeathIsTheChilds(t *testing.T) {
	needRoot(t)
	for _, when := range []string{"before", "after"} {
		t.Run(when+" release", func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "nsenter-parent", when)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var pid int
			if _, err := fmt.Fscan(out, &pid); err != nil {
				t.Fatal(err)
			}
			pidfd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pidfd)
			cmd.Process.Kill()
			cmd.Wait()
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int((10 * time.Second).Milliseconds()))
			if n != 1 || err != nil {
				unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
				t.Errorf("the child outlived its parent (%v)", err)
			}
		})
	}
}
