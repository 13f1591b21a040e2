package crash

import (
	"encoding/binary"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

type (
	unixAttr      = syscall.SysProcAttr
	syscallStatus = syscall.WaitStatus
)

// never is a call that no command gets to.
const never = 1 << 30

// killBefore runs a command and kills it before its n-th system call that changes
// something, counted over all its threads. call is that call's number. When the command
// ends first hit is false, and call is how many there were. The children are not traced:
// they run at their own speed.
func (p *place) killBefore(n int, tree bool, args ...string) (hit bool, call uint64) {
	p.t.Helper()
	runtime.LockOSThread() // ptrace answers the thread that traces
	defer runtime.UnlockOSThread()
	proc := p.start(&unixAttr{Ptrace: true}, args...)
	defer proc.Release()
	pid := proc.Pid
	var ws unix.WaitStatus
	if _, err := wait(pid, &ws); err != nil || !ws.Stopped() {
		p.t.Fatalf("wait for the traced process: %v, status %#x", err, ws)
	}
	// Threads come as CLONE events; the init stage is a fork, and goes free.
	if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_EXITKILL); err != nil {
		p.t.Fatal(os.NewSyscallError("ptrace(PTRACE_SETOPTIONS)", err))
	}
	known := map[int]bool{pid: true}
	stopped, sig := pid, 0
	var last [2]uint64 // call and first argument
	for count := 0; ; {
		// ESRCH: killed meanwhile; its end is reported next.
		if err := unix.PtraceSyscall(stopped, sig); err != nil && err != unix.ESRCH {
			p.t.Fatal(os.NewSyscallError("ptrace(PTRACE_SYSCALL)", err))
		}
		sig = 0
		tid, err := wait(-1, &ws)
		if err != nil {
			p.t.Fatal(os.NewSyscallError("wait4", err))
		}
		for ws.Exited() || ws.Signaled() {
			if tid == pid {
				if !hit {
					call = uint64(count)
				}
				return hit, call
			}
			if tid, err = wait(-1, &ws); err != nil {
				p.t.Fatal(os.NewSyscallError("wait4", err))
			}
		}
		stopped = tid
		switch s := ws.StopSignal(); {
		case s == unix.SIGTRAP|0x80:
			nr, args, entry := p.syscallOf(tid)
			if !entry || !p.changes(tid, nr, args) {
				break
			}
			// The writes of one copy (an old kernel makes one of our binary) are one point.
			again := nr == unix.SYS_WRITE && last == [2]uint64{nr, args[0]}
			if last = [2]uint64{nr, args[0]}; again {
				break
			}
			if count++; count == n {
				// Fatal signals come first: the kernel does not begin the call any more.
				hit, call = true, nr
				if tree {
					killTree(pid)
				} else if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					p.t.Fatal(err)
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
func (p *place) syscallOf(tid int) (nr uint64, args [6]uint64, entry bool) {
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
			p.t.Fatal(err)
		}
		return nr, args, err == nil && entry
	}
	if e != 0 && e != unix.ESRCH {
		p.t.Fatal(os.NewSyscallError("ptrace(PTRACE_GET_SYSCALL_INFO)", e))
	}
	return info.nr, info.args, e == 0 && info.op == unix.PTRACE_SYSCALL_INFO_ENTRY
}

// changes is content to count a call too many: those left out only look, wait, or are
// about the process's own memory and threads.
func (p *place) changes(tid int, nr uint64, args [6]uint64) bool {
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
			p.t.Fatal(os.NewSyscallError("ptrace(PTRACE_PEEKDATA)", err))
		}
		return binary.LittleEndian.Uint64(flags[:])&unix.CLONE_THREAD == 0
	}
	return true
}
