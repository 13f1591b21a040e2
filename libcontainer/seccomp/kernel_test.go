package seccomp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These tests put filters into the kernel. A filter cannot be taken off again, so each
// one is installed by a copy of the test binary.

func TestMain(m *testing.M) {
	if task := os.Getenv("SECCOMP_TEST"); task != "" {
		if err := child([]byte(task)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A task is what the copy does under the filter.
type task struct {
	Config Config
	Calls  [][7]uint64 // number and arguments
	Exec   []string    // then become this program
	Notify bool        // answer notifications from another thread, with 4242
	Thread bool        // make the calls on a thread that may die alone
}

func child(text []byte) error {
	var do task
	if err := json.Unmarshal(text, &do); err != nil {
		return err
	}
	p, err := Compile(&do.Config)
	if err != nil {
		return err
	}
	if do.Thread {
		return watch(p, &do)
	}
	// Not given back: the thread ends with the process.
	runtime.LockOSThread()
	listener, err := install(p)
	if err != nil {
		return err
	}
	if do.Notify {
		answered := make(chan error)
		go func() { answered <- answer(listener) }()
		// Not RawSyscall: it would keep the only processor while the call waits.
		got, _, errno := unix.Syscall(uintptr(do.Calls[0][0]), 0, 0, 0)
		if err := <-answered; err != nil {
			return err
		}
		report(got, errno)
		return nil
	}
	calls(do.Calls)
	if len(do.Exec) > 0 {
		return syscall.Exec(do.Exec[0], do.Exec, nil)
	}
	unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	return nil
}

func install(p *Program) (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	listener, err := p.Install()
	if err == nil && (listener >= 0) != p.Notify {
		err = fmt.Errorf("listener %d, notify %v", listener, p.Notify)
	}
	return listener, err
}

func calls(list [][7]uint64) {
	for _, c := range list {
		got, _, errno := unix.RawSyscall6(uintptr(c[0]), uintptr(c[1]), uintptr(c[2]), uintptr(c[3]), uintptr(c[4]), uintptr(c[5]), uintptr(c[6]))
		report(got, errno)
	}
}

// report writes an answer with nothing but write(2), the one call that all filters allow.
func report(got uintptr, errno unix.Errno) {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:], uint64(got))
	binary.NativeEndian.PutUint64(b[8:], uint64(errno))
	unix.RawSyscall(unix.SYS_WRITE, 1, uintptr(unsafe.Pointer(&b)), uintptr(len(b)))
}

// watch makes the calls on a thread of its own and reports its death, of which the
// kernel tells by clearing the word of set_tid_address(2).
func watch(p *Program, do *task) error {
	var tid uint32 = 1
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		unix.RawSyscall(unix.SYS_SET_TID_ADDRESS, uintptr(unsafe.Pointer(&tid)), 0, 0)
		_, err := install(p)
		ready <- err
		calls(do.Calls)
	}()
	if err := <-ready; err != nil {
		return err
	}
	for atomic.LoadUint32(&tid) != 0 {
		_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&tid)), 0 /* FUTEX_WAIT */, 1, 0, 0, 0)
		if errno != 0 && errno != unix.EAGAIN && errno != unix.EINTR {
			return errno
		}
	}
	fmt.Fprint(os.Stderr, "thread died")
	return nil
}

// answer serves one notification (seccomp_unotify(2)).
func answer(listener int) error {
	var note struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&note))); errno != 0 {
		return fmt.Errorf("receive: %w", errno)
	}
	reply := struct {
		id    uint64
		val   int64
		err   int32
		flags uint32
	}{id: note.id, val: 4242}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&reply))); errno != 0 {
		return fmt.Errorf("send: %w", errno)
	}
	return nil
}

// An outcome is how the copy ended and what its calls returned.
type outcome struct {
	state   *os.ProcessState
	answers [][2]uint64
	stdout  string
	stderr  string
}

func (o outcome) signal() syscall.Signal {
	return o.state.Sys().(syscall.WaitStatus).Signal()
}

func perform(t *testing.T, do task) outcome {
	t.Helper()
	text, err := json.Marshal(do)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	// No signals and no collector on the filtered thread: it makes the calls it is told.
	// A thread that dies takes one of the runtime's processors with it.
	cmd.Env = []string{"SECCOMP_TEST=" + string(text), "GOGC=off", "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=2"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // how it ended is in the state
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() == 3 {
		t.Fatalf("the copy did not get to its calls: %s", stderr.String())
	}
	o := outcome{state: cmd.ProcessState, stdout: stdout.String(), stderr: stderr.String()}
	for b := stdout.Bytes(); len(b) >= 16 && len(do.Exec) == 0; b = b[16:] {
		o.answers = append(o.answers, [2]uint64{binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])})
	}
	return o
}

// allowed is what a copy needs besides, where the default is not to allow.
func allowed() Rule {
	return Rule{Action: "SCMP_ACT_ALLOW", Names: []string{"write", "exit_group", "rt_sigreturn", "execve", "futex", "mmap", "munmap", "madvise"}}
}

func TestKernelTakesEveryAction(t *testing.T) {
	getppid := func(action string, errno *uint) task {
		return task{
			Config: Config{DefaultAction: "SCMP_ACT_ALLOW", ListenerPath: "/agent", Syscalls: []Rule{{Names: []string{"getppid"}, Action: action, ErrnoRet: errno}}},
			Calls:  [][7]uint64{{unix.SYS_GETPPID}},
		}
	}
	self := uint64(os.Getpid())
	for name, c := range map[string]struct {
		action string
		errno  *uint
		want   [2]uint64
	}{
		"allow":         {"SCMP_ACT_ALLOW", nil, [2]uint64{self, 0}},
		"log":           {"SCMP_ACT_LOG", nil, [2]uint64{self, 0}},
		"errno":         {"SCMP_ACT_ERRNO", nil, [2]uint64{^uint64(0), uint64(unix.EPERM)}},
		"errno 77":      {"SCMP_ACT_ERRNO", ptr(77), [2]uint64{^uint64(0), 77}},
		"errno highest": {"SCMP_ACT_ERRNO", ptr(4094), [2]uint64{^uint64(0), 4094}}, // Go takes -4095 for a result
		"errno 0":       {"SCMP_ACT_ERRNO", ptr(0), [2]uint64{0, 0}},
		"trace":         {"SCMP_ACT_TRACE", ptr(7), [2]uint64{^uint64(0), uint64(unix.ENOSYS)}}, // nobody traces
	} {
		t.Run(name, func(t *testing.T) {
			o := perform(t, getppid(c.action, c.errno))
			if len(o.answers) != 1 || o.answers[0] != c.want {
				t.Errorf("got %v, want %v; %v %s", o.answers, c.want, o.state, o.stderr)
			}
		})
	}
	t.Run("notify", func(t *testing.T) {
		do := getppid("SCMP_ACT_NOTIFY", nil)
		do.Notify = true
		if o := perform(t, do); len(o.answers) != 1 || o.answers[0] != [2]uint64{4242, 0} {
			t.Errorf("got %v; %v %s", o.answers, o.state, o.stderr)
		}
	})
	t.Run("kill process", func(t *testing.T) {
		if o := perform(t, getppid("SCMP_ACT_KILL_PROCESS", nil)); o.signal() != unix.SIGSYS || len(o.answers) != 0 {
			t.Errorf("got %v %v %s", o.state, o.answers, o.stderr)
		}
	})
	t.Run("trap", func(t *testing.T) {
		if o := perform(t, getppid("SCMP_ACT_TRAP", nil)); !strings.Contains(o.stderr, "SIGSYS: bad system call") || len(o.answers) != 0 {
			t.Errorf("got %v %v %s", o.state, o.answers, o.stderr)
		}
	})
	for _, action := range []string{"SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD"} {
		t.Run(action, func(t *testing.T) {
			do := getppid(action, nil)
			do.Thread = true
			if o := perform(t, do); !o.state.Success() || o.stderr != "thread died" || len(o.answers) != 0 {
				t.Errorf("got %v %v %s", o.state, o.answers, o.stderr)
			}
		})
	}
	t.Run("killed by default", func(t *testing.T) {
		o := perform(t, task{Config: Config{DefaultAction: "SCMP_ACT_KILL_PROCESS", Syscalls: []Rule{allowed()}}, Calls: [][7]uint64{{unix.SYS_GETPPID}}})
		if o.signal() != unix.SIGSYS {
			t.Errorf("got %v %v %s", o.state, o.answers, o.stderr)
		}
	})
}

// TestKernelComparesArguments: every operator around values whose halves matter.
func TestKernelComparesArguments(t *testing.T) {
	values := []uint64{0, 5, 0x7fffffff, 0xffffffff, 1 << 32, 5<<32 + 5, 1<<63 + 1, ^uint64(0)}
	var around []uint64
	for _, v := range values {
		around = append(around, v-1, v, v+1, v+1<<32, v-1<<32, v^1<<63, v>>32, v<<32)
	}
	for _, op := range []string{"NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"} {
		t.Run(op, func(t *testing.T) {
			for _, v := range values {
				do := task{Config: Config{DefaultAction: "SCMP_ACT_ALLOW", Syscalls: []Rule{{
					Names: []string{"getppid"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: ptr(99),
					Args: []Arg{{Index: 2, Op: "SCMP_CMP_" + op, Value: v, ValueTwo: v & 0x80000000_00000005}},
				}}}}
				for _, x := range around {
					do.Calls = append(do.Calls, [7]uint64{unix.SYS_GETPPID, 7, 8, x})
				}
				o := perform(t, do)
				if len(o.answers) != len(around) {
					t.Fatalf("%d answers of %d: %v %s", len(o.answers), len(around), o.state, o.stderr)
				}
				for i, x := range around {
					match := map[string]bool{
						"NE": x != v, "LT": x < v, "LE": x <= v, "EQ": x == v, "GE": x >= v, "GT": x > v, "MASKED_EQ": x&v == v&0x80000000_00000005,
					}[op]
					if got := o.answers[i][1] == 99; got != match {
						t.Errorf("%#x %s %#x: got %v", x, op, v, got)
					}
				}
			}
		})
	}
}

// TestKernelAgreesWithTheMachine: the in-kernel filter and the one that the other tests
// run decide alike, on profiles with many rules and arguments.
func TestKernelAgreesWithTheMachine(t *testing.T) {
	for seed := range uint64(8) {
		r := random{rand.New(rand.NewPCG(seed, 3))}
		cfg := &Config{DefaultAction: pick(r, "SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"), Syscalls: []Rule{allowed()}}
		for n := range uint(40) {
			rule := Rule{Names: []string{pick(r, "getppid", "getuid", "getgid", "umask")}, Action: "SCMP_ACT_ERRNO", ErrnoRet: ptr(100 + n)}
			for i := range uint(1 + r.IntN(3)) {
				rule.Args = append(rule.Args, Arg{Index: (n + i) % 6, Op: pick(r, "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"), Value: r.value(), ValueTwo: r.value()})
			}
			cfg.Syscalls = append(cfg.Syscalls, rule)
		}
		p, err := Compile(cfg)
		if err != nil {
			continue // a contradiction
		}
		native, _ := abiOf(runnable(runtime.GOARCH)[0])
		m, do, want := newMachine(t, p), task{Config: *cfg}, []uint32(nil)
		for range 200 {
			call := packet{arch: native.audit, nr: pick[uint32](r, unix.SYS_GETPPID, unix.SYS_GETUID, unix.SYS_GETGID, unix.SYS_UMASK)}
			for i := range call.args {
				call.args[i] = r.value()
			}
			do.Calls = append(do.Calls, [7]uint64{uint64(call.nr), call.args[0], call.args[1], call.args[2], call.args[3], call.args[4], call.args[5]})
			want = append(want, m.run(t, call, false))
		}
		o := perform(t, do)
		if len(o.answers) != len(want) {
			t.Fatalf("seed %d: %d answers: %v %s", seed, len(o.answers), o.state, o.stderr)
		}
		for i, v := range want {
			errno := uint64(0)
			if v&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO {
				errno = uint64(v & unix.SECCOMP_RET_DATA)
			}
			if o.answers[i][1] != errno {
				t.Errorf("seed %d: %#x: errno %d, want %d", seed, do.Calls[i], o.answers[i][1], errno)
			}
		}
	}
}

// TestKernelUnderTheDefaultProfile: Docker's model, by what it is known for.
func TestKernelUnderTheDefaultProfile(t *testing.T) {
	const none = 0
	cases := []struct {
		name  string
		call  [7]uint64
		errno unix.Errno
	}{
		{"getppid", [7]uint64{unix.SYS_GETPPID}, none},
		{"add_key", [7]uint64{unix.SYS_ADD_KEY}, unix.EPERM},
		{"clone3", [7]uint64{unix.SYS_CLONE3}, unix.ENOSYS},
		{"bpf", [7]uint64{unix.SYS_BPF, ^uint64(0)}, unix.EPERM},
		{"io_uring_setup", [7]uint64{unix.SYS_IO_URING_SETUP}, unix.EPERM},
		{"unshare", [7]uint64{unix.SYS_UNSHARE, unix.CLONE_NEWUSER}, unix.EPERM},
		{"clone of a user namespace", [7]uint64{unix.SYS_CLONE, unix.CLONE_NEWUSER | unix.CLONE_VM}, unix.EPERM},
		{"socket of AF_VSOCK", [7]uint64{unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EPERM},
		{"socket of AF_ALG", [7]uint64{unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET}, unix.EPERM},
		{"socket of AF_UNIX", [7]uint64{unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM}, none},
		{"personality query", [7]uint64{unix.SYS_PERSONALITY, 0xffffffff}, none},
		{"personality with ADDR_NO_RANDOMIZE", [7]uint64{unix.SYS_PERSONALITY, 0x40000}, unix.EPERM},
		{"a call of the future", [7]uint64{600}, unix.ENOSYS},
		{"no call", [7]uint64{^uint64(0)}, unix.ENOSYS},
	}
	do := task{Config: *Default(defaultCaps)}
	for _, c := range cases {
		do.Calls = append(do.Calls, c.call)
	}
	o := perform(t, do)
	if len(o.answers) != len(cases) {
		t.Fatalf("%d answers: %v %s", len(o.answers), o.state, o.stderr)
	}
	for i, c := range cases {
		if got := unix.Errno(o.answers[i][1]); got != c.errno {
			t.Errorf("%s: %v, want %v", c.name, got, c.errno)
		}
	}
	t.Run("a program", func(t *testing.T) {
		o := perform(t, task{Config: *Default(defaultCaps), Exec: []string{"/bin/sh", "-c", "ls -l / >/dev/null && echo $(echo works)"}})
		if !o.state.Success() || o.stdout != "works\n" {
			t.Errorf("%v %q %s", o.state, o.stdout, o.stderr)
		}
	})
}

// TestKernelOtherABIs: calls that enter the kernel by its other doors.
func TestKernelOtherABIs(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("x32 and int 0x80 are amd64's")
	}
	both := Config{DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_X86", "SCMP_ARCH_X32"}, Syscalls: []Rule{
		{Names: []string{"getppid"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: ptr(99)}, // 110, x32: 1<<30|110, i386: 64
		{Names: []string{"socket"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: ptr(98)},  // i386: socketcall(1)
		{Names: []string{"getpriority"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: ptr(97), Args: []Arg{{Index: 1, Op: "SCMP_CMP_EQ", Value: 1<<32 + 3}}},
	}}
	native := both
	native.Architectures = nil

	t.Run("x32", func(t *testing.T) {
		// The filter comes before the kernel finds out that it has no x32.
		o := perform(t, task{Config: both, Calls: [][7]uint64{{x32Bit | unix.SYS_GETPPID}, {x32Bit | unix.SYS_GETPRIORITY, 0, 3}, {unix.SYS_GETPPID}, {unix.SYS_GETPRIORITY, 0, 3}}})
		if len(o.answers) != 4 || o.answers[0][1] != 99 || o.answers[1][1] != 97 || o.answers[2][1] != 99 || o.answers[3][1] != 0 {
			t.Errorf("got %v; %v %s", o.answers, o.state, o.stderr)
		}
	})
	t.Run("x32 not named", func(t *testing.T) {
		o := perform(t, task{Config: native, Calls: [][7]uint64{{x32Bit | unix.SYS_GETPPID}}, Thread: true})
		if o.stderr != "thread died" || len(o.answers) != 0 {
			t.Errorf("got %v; %v %s", o.answers, o.state, o.stderr)
		}
	})

	run := func(t *testing.T, cfg Config, nr, a, b uint32) outcome {
		path := filepath.Join(t.TempDir(), "i386")
		if err := os.WriteFile(path, program386(nr, a, b), 0o755); err != nil {
			t.Fatal(err)
		}
		return perform(t, task{Config: cfg, Exec: []string{path}})
	}
	emulates := runs386(t)
	if !emulates {
		t.Log("no CONFIG_IA32_EMULATION in this kernel: the machine decides on i386's calls")
	}
	p, err := Compile(&both)
	if err != nil {
		t.Fatal(err)
	}
	m := newMachine(t, p)
	for name, c := range map[string]struct {
		nr, a, b uint32
		want     uint32 // errno
		ours     bool   // by the filter
	}{
		"getpid":                      {20, 0, 0, 0, false},
		"getppid":                     {64, 0, 0, 99, true},
		"socket":                      {359, unix.AF_UNIX, unix.SOCK_STREAM, 98, true},
		"socketcall, as socket":       {102, 1, 0, 98, true},
		"socketcall, as bind":         {102, 2, 0, uint32(unix.EFAULT), false},
		"getpriority, the low word":   {96, 0, 3, 97, true},
		"getpriority, something else": {96, 0, 4, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			want := uint32(unix.SECCOMP_RET_ALLOW)
			if c.ours {
				want = unix.SECCOMP_RET_ERRNO | c.want
			}
			call := packet{arch: unix.AUDIT_ARCH_I386, nr: c.nr, args: [6]uint64{uint64(c.a), uint64(c.b)}}
			if got := m.run(t, call, false); got != want {
				t.Errorf("the machine: %#x, want %#x", got, want)
			}
			if !emulates {
				return
			}
			if o := run(t, both, c.nr, c.a, c.b); o.state.ExitCode() != int(c.want) {
				t.Errorf("the kernel: errno %d, want %d; %v %s", o.state.ExitCode(), c.want, o.state, o.stderr)
			}
		})
	}
	if emulates {
		t.Run("i386 not named", func(t *testing.T) {
			if o := run(t, native, 20, 0, 0); o.signal() != unix.SIGSYS {
				t.Errorf("got %v %s", o.state, o.stderr)
			}
		})
	}
}

// runs386 tells whether the kernel starts i386 programs at all.
func runs386(t *testing.T) bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "i386")
	if err := os.WriteFile(path, program386(20, 0, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	err := exec.Command(path).Run()
	if err != nil && !errors.Is(err, unix.ENOEXEC) {
		t.Fatal(err)
	}
	return err == nil
}

// program386 is a static i386 ELF program that makes one system call by int 0x80 and
// exits with its errno, or 0.
func program386(nr, a, b uint32) []byte {
	const base, header = 0x08048000, 52 + 32
	var code []byte
	move := func(op byte, v uint32) { code = binary.LittleEndian.AppendUint32(append(code, op), v) }
	move(0xb8, nr)                        // mov eax, nr
	move(0xbb, a)                         // mov ebx, a
	move(0xb9, b)                         // mov ecx, b
	code = append(code, 0x31, 0xd2)       // xor edx, edx
	code = append(code, 0xcd, 0x80)       // int 0x80
	code = append(code, 0x31, 0xdb)       // xor ebx, ebx
	move(0x3d, ^uint32(4095)+1)           // cmp eax, -4095
	code = append(code, 0x72, 0x04)       // jb exit
	code = append(code, 0xf7, 0xd8)       // neg eax
	code = append(code, 0x89, 0xc3)       // mov ebx, eax
	move(0xb8, 1)                         // exit: mov eax, exit
	code = append(code, 0xcd, 0x80, 0xf4) // int 0x80; hlt

	var elf bytes.Buffer
	size := uint32(header + len(code))
	for _, field := range []any{
		[16]byte{0x7f, 'E', 'L', 'F', 1, 1, 1}, // 32 bits, little endian
		uint16(2), uint16(3), uint32(1),        // executable, EM_386
		uint32(base + header), uint32(52), uint32(0), uint32(0), // entry, program headers
		uint16(52), uint16(32), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(0), uint32(base), uint32(base), size, size, uint32(5), uint32(4096), // PT_LOAD, r-x
	} {
		_ = binary.Write(&elf, binary.LittleEndian, field) // a Buffer does not fail
	}
	return append(elf.Bytes(), code...)
}

func TestInstallSaysWhatIsMissing(t *testing.T) {
	p := &Program{Flags: unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV}
	for errno, want := range map[unix.Errno]string{
		unix.EACCES: " (needs CAP_SYS_ADMIN or process.noNewPrivileges)",
		unix.EINVAL: " (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs Linux 5.19)",
		unix.EBUSY:  " (a filter above has a listener already, and there can be one)",
		unix.ENOMEM: "",
	} {
		if got := p.hint(errno); got != want {
			t.Errorf("%v: %q", errno, got)
		}
	}
}
