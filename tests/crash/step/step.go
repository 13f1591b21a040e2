// Package step ends commands where it hurts: before the n-th system call that changes
// something, or after a time; the command alone, or all that it has started.
package step

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Never is a call that no command gets to.
const Never = 1 << 30

// Start starts a command with these attributes, and is answered with its process.
type Start func(attr *syscall.SysProcAttr) *os.Process

// Call is a system call that changes something: its number, and for ioctl the request.
type Call struct{ Number, Request uint64 }

func (c Call) String() string {
	if c.Request != 0 {
		return fmt.Sprintf("number %d, request %#x", c.Number, c.Request)
	}
	return fmt.Sprintf("number %d", c.Number)
}

// Before runs a command and kills it before its n-th system call that changes something,
// counted over all its threads. It returns the calls up to that one, and whether the
// command got there. The children are not traced: they run at their own speed.
func Before(t testing.TB, n int, tree bool, start Start) (calls []Call, hit bool) {
	t.Helper()
	runtime.LockOSThread() // ptrace answers the thread that traces
	defer runtime.UnlockOSThread()
	proc := start(&syscall.SysProcAttr{Ptrace: true})
	defer proc.Release()
	pid := proc.Pid
	var ws unix.WaitStatus
	if _, err := wait(pid, &ws); err != nil || !ws.Stopped() {
		t.Fatalf("wait for the traced process: %v, status %#x", err, ws)
	}
	// Threads come as CLONE events; the init stage is a fork, and goes free.
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		t.Fatal(os.NewSyscallError("ptrace(PTRACE_SETOPTIONS)", err))
	}
	known := map[int]bool{pid: true}
	stopped, sig := pid, 0
	var last [2]uint64 // call and first argument
	for {
		// ESRCH: killed meanwhile; its end is reported next.
		if err := unix.PtraceSyscall(stopped, sig); err != nil && err != unix.ESRCH {
			t.Fatal(os.NewSyscallError("ptrace(PTRACE_SYSCALL)", err))
		}
		sig = 0
		tid, err := wait(-1, &ws)
		if err != nil {
			t.Fatal(os.NewSyscallError("wait4", err))
		}
		for ws.Exited() || ws.Signaled() {
			if tid == pid {
				return calls, hit
			}
			if tid, err = wait(-1, &ws); err != nil {
				t.Fatal(os.NewSyscallError("wait4", err))
			}
		}
		stopped = tid
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP|0x80:
			nr, args, entry := syscallOf(t, tid)
			if hit || !entry || !changes(t, tid, nr, args) {
				break
			}
			// The writes of one copy (an old kernel makes one of our binary) are one point.
			again := nr == unix.SYS_WRITE && last == [2]uint64{nr, args[0]}
			if last = [2]uint64{nr, args[0]}; again {
				break
			}
			call := Call{Number: nr}
			if nr == unix.SYS_IOCTL {
				call.Request = args[1]
			}
			if calls = append(calls, call); len(calls) == n {
				// Fatal signals come first: the kernel does not begin the call any more.
				hit = true
				if tree {
					killTree(pid)
				} else if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		case s == unix.SIGTRAP: // an event, or the exec
		case s == unix.SIGSTOP && !known[tid]:
			known[tid] = true // each new thread begins with it
		default:
			sig = int(s)
		}
	}
}

// After runs a command and kills it after a time. Signaled says whether that came in time.
func After(t testing.TB, d time.Duration, tree bool, start Start) syscall.WaitStatus {
	t.Helper()
	proc := start(nil)
	killed := make(chan bool)
	timer := time.AfterFunc(d, func() {
		defer close(killed)
		if tree {
			killTree(proc.Pid)
		}
		_ = proc.Kill()
	})
	state, err := proc.Wait()
	if !timer.Stop() {
		<-killed
	}
	if err != nil {
		t.Fatal(err)
	}
	return state.Sys().(syscall.WaitStatus)
}

// killTree kills a process and all below it, as the end of its cgroup would. It waits for
// those below: half dead they are neither running nor gone, and nobody else waits for them.
func killTree(pid int) {
	var tree []unix.PollFd
	for _, child := range below(pid) {
		if fd, err := unix.PidfdOpen(child, 0); err == nil {
			defer unix.Close(fd)
			tree = append(tree, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		}
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	for _, p := range tree {
		_ = unix.PidfdSendSignal(int(p.Fd), unix.SIGKILL, nil, 0)
	}
	for i := range tree {
		for {
			if _, err := unix.Poll(tree[i:i+1], -1); err != unix.EINTR {
				break
			}
		}
	}
}

// below lists the descendants of a process that we started or adopted.
func below(pid int) (list []int) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	tasks, _ := os.ReadDir(dir)
	for _, task := range tasks {
		b, _ := os.ReadFile(filepath.Join(dir, task.Name(), "children"))
		for word := range strings.FieldsSeq(string(b)) {
			var child int
			if _, err := fmt.Sscan(word, &child); err == nil {
				list = append(append(list, child), below(child)...)
			}
		}
	}
	return list
}

// wait is for what this thread traces or has started.
func wait(pid int, ws *unix.WaitStatus) (int, error) {
	for {
		got, err := unix.Wait4(pid, ws, unix.WALL|unix.WNOTHREAD, nil)
		if err != unix.EINTR {
			return got, err
		}
	}
}

// syscallOf asks what a thread stopped for, in words that are the same on each
// architecture (PTRACE_GET_SYSCALL_INFO, Linux 5.3).
func syscallOf(t testing.TB, tid int) (nr uint64, args [6]uint64, entry bool) {
	var info struct {
		op     uint8
		_      [3]uint8
		arch   uint32
		ip, sp uint64
		nr     uint64
		args   [6]uint64
	}
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
	if e == unix.EIO { // User-Mode Linux
		nr, args, entry, err := registers(tid)
		if err != nil && err != unix.ESRCH {
			t.Fatal(err)
		}
		return nr, args, err == nil && entry
	}
	if e != 0 && e != unix.ESRCH {
		t.Fatal(os.NewSyscallError("ptrace(PTRACE_GET_SYSCALL_INFO)", e))
	}
	return info.nr, info.args, e == 0 && info.op == unix.PTRACE_SYSCALL_INFO_ENTRY
}

// changes is content to count a call too many: those left out only look, wait, or are
// about the process's own memory and threads.
func changes(t testing.TB, tid int, nr uint64, args [6]uint64) bool {
	switch nr {
	case unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_CLOSE, unix.SYS_FSTAT, unix.SYS_STATFS, unix.SYS_FSTATFS, unix.SYS_LSEEK,
		unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_FCNTL, unix.SYS_GETCWD, unix.SYS_FACCESSAT, unix.SYS_STATX,
		unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_BRK, unix.SYS_MINCORE, unix.SYS_MLOCK,
		unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_SCHED_YIELD,
		unix.SYS_SCHED_GETAFFINITY, unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
		unix.SYS_TGKILL, unix.SYS_RESTART_SYSCALL, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETPPID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID,
		unix.SYS_GETEGID, unix.SYS_UNAME, unix.SYS_PRLIMIT64, unix.SYS_GETRANDOM, unix.SYS_SET_TID_ADDRESS, unix.SYS_SET_ROBUST_LIST,
		unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PPOLL, unix.SYS_RECVMSG,
		unix.SYS_PIDFD_OPEN, unix.SYS_EXIT, unix.SYS_SOCKET, unix.SYS_PIPE2, unix.SYS_DUP3, unix.SYS_WAITID, unix.SYS_WAIT4,
		newfstatat, archPrctl, poll:
		return false
	case unix.SYS_PRCTL:
		return args[0] != unix.PR_SET_VMA // Go names its memory
	case unix.SYS_OPENAT:
		return args[2]&(unix.O_WRONLY|unix.O_RDWR|unix.O_CREAT) != 0
	case unix.SYS_CLONE:
		return args[0]&unix.CLONE_THREAD == 0
	case unix.SYS_CLONE3: // the flags come first in its struct
		var flags [8]byte
		if _, err := unix.PtracePeekData(tid, uintptr(args[0]), flags[:]); err != nil && err != unix.ESRCH {
			t.Fatal(os.NewSyscallError("ptrace(PTRACE_PEEKDATA)", err))
		}
		return binary.LittleEndian.Uint64(flags[:])&unix.CLONE_THREAD == 0
	}
	return true
}
