package nsenter

import (
	"math"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Go has threads before main runs, and the kernel refuses setns(CLONE_NEWUSER) and
// setns(CLONE_NEWTIME) to a process with threads. So the namespaces are entered in a
// child that is forked by hand and has one thread: between the fork and the execve of
// our own binary there are only raw system calls on memory that was laid out before.
// No allocation, no stack growth, no lock: another thread may have held any of them.
//
// It is a plain fork, not vfork: the child of CLONE_VM would share our stack, and the
// two stages below must not run on one that the parent uses. A copy of our page
// tables costs about 0.1 ms.

// What the runtime does around syscall.ForkExec: block signals, forbid stack growth,
// and undo it on both sides. gVisor uses the same names; the runtime keeps them stable.

//go:linkname beforeFork syscall.runtime_BeforeFork
func beforeFork()

//go:linkname afterFork syscall.runtime_AfterFork
func afterFork()

//go:linkname afterForkInChild syscall.runtime_AfterForkInChild
func afterForkInChild()

// cloneArgs is struct clone_args of clone3(2), version 2 (Linux 5.7).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

// step says where the child was when it failed; the parent turns it into words.
type step uint32

const (
	stepPID    step = iota // no failure: the value is the pid of the final child
	stepCgroup             // + index of the tasks file
	stepDeathSignal
	stepSetns // + index of the namespace, in value's upper half
	stepUnshareTime
	stepTimeOffsets
	stepClone
	stepSetgid
	stepSetuid
	stepUnshareCgroup
	stepNarrow
	stepSocket
	stepExec
	stepOrphan // the parent went away before it said go
)

func (s step) String() string {
	return [...]string{"clone", "join cgroup", "prctl(PR_SET_PDEATHSIG)", "setns", "unshare(CLONE_NEWTIME)", "write timens_offsets",
		"clone3", "setresgid", "setresuid", "unshare(CLONE_NEWCGROUP)", "close descriptors", "dup3", "execveat", "wait for the parent"}[s]
}

// report is one message on the report pipe.
type report struct {
	step  step
	index uint32 // of the join
	value int32  // errno, or the pid
}

// stage is everything the child needs, laid out before the fork.
type stage struct {
	tasks     []int // v1 cgroups to enter, by writing into them
	joins     []joinFD
	unshare   uintptr // CLONE_NEWTIME: only in the middle stage
	offsets   []byte  // for timens_offsets
	timePath  *byte
	flags     uint64 // of the final clone
	newCgroup bool
	setID     bool // be uid and gid 0 of the new user namespace
	fds       [fdCount]int
	above     int // all of fds are below it
	socketFD  int // the number that the socket has after the exec
	argv, env **byte
	empty     *byte
}

// The descriptors that the child needs to the end.
const (
	fdGo     = iota // read end: one byte means go, end of file means the parent is gone
	fdReport        // write end
	fdSocket
	fdExe
	fdCount
)

type joinFD struct {
	fd    int
	flags uintptr
}

// fork makes the child and returns its pid and pidfd. With joins or a new time
// namespace there are two clones: the middle process enters what exists, clones the
// final child as our own child (CLONE_PARENT) and reports its pid; then pidfd is that
// of the middle process, which ends at once.
//
//go:noinline
//go:norace
//go:nosplit
func fork(st *stage, args *cloneArgs, middle bool) (pid uintptr, pidfd int32, errno syscall.Errno) {
	beforeFork()
	// As a number the address does not move with the stack: from here on nothing grows it.
	var fd int32 = -1
	args.pidfd = uint64(uintptr(unsafe.Pointer(&fd)))
	pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno != 0 || pid != 0 {
		afterFork()
		return pid, fd, errno
	}
	afterForkInChild()
	enroll(st)
	if middle {
		enter(st)
	} else {
		narrow(st)
	}
	become(st)
	return 0, -1, 0 // not reached
}

// enroll moves the child into its v1 cgroups while it still has the parent's rights; the
// final child of two stages inherits them.
//
//go:norace
//go:nosplit
func enroll(st *stage) {
	for i := range st.tasks {
		zero := byte('0') // the writer itself
		if _, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(st.tasks[i]), uintptr(unsafe.Pointer(&zero)), 1); e != 0 {
			fail(st, stepCgroup, uint32(i), e)
		}
	}
}

// enter is the middle stage.
//
//go:norace
//go:nosplit
func enter(st *stage) {
	for i := range st.joins {
		if _, _, e := syscall.RawSyscall(unix.SYS_SETNS, uintptr(st.joins[i].fd), st.joins[i].flags, 0); e != 0 {
			fail(st, stepSetns, uint32(i), e)
		}
	}
	if st.unshare != 0 {
		if _, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, st.unshare, 0, 0); e != 0 {
			fail(st, stepUnshareTime, 0, e)
		}
		// The offsets can be set only while no process is in the namespace, and we are
		// not: only our children will be; time_namespaces(7).
		if len(st.offsets) > 0 {
			fd, _, e := syscall.RawSyscall6(unix.SYS_OPENAT, ^uintptr(99), uintptr(unsafe.Pointer(st.timePath)), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0)
			if e != 0 {
				fail(st, stepTimeOffsets, 0, e)
			}
			if _, _, e := syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&st.offsets[0])), uintptr(len(st.offsets))); e != 0 {
				fail(st, stepTimeOffsets, 0, e)
			}
		}
	}
	// From the clone on, the final child is in the pid namespace of the others.
	narrow(st)
	args := cloneArgs{flags: st.flags | unix.CLONE_PARENT}
	pid, _, e := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if e != 0 {
		fail(st, stepClone, 0, e)
	}
	if pid == 0 {
		return // the final child goes on in become
	}
	r := report{step: stepPID, value: int32(pid)}
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(st.fds[fdReport]), uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// narrow closes all that came along but what the child needs to the end and what is to
// be passed on: a tracer in the container could take state directories, cgroups and the
// namespaces of the host out of it (CVE-2016-9962). It also closes our copy of the go
// pipe's write end, which would hide the parent's death.
//
//go:norace
//go:nosplit
func narrow(st *stage) {
	for i := range st.fds {
		to := uintptr(st.above + i)
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(st.fds[i]), to, unix.O_CLOEXEC); e != 0 {
			fail(st, stepNarrow, 0, e)
		}
	}
	for i := range st.fds {
		st.fds[i] = st.above + i
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(st.socketFD), uintptr(st.above-1), 0); e != 0 {
		fail(st, stepNarrow, 0, e)
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(st.above+fdCount), math.MaxUint32, 0); e != 0 {
		fail(st, stepNarrow, 0, e)
	}
}

// become is the final child: wait until the parent has put us into our cgroup and
// written our id maps, then execute our own binary.
//
//go:norace
//go:nosplit
func become(st *stage) {
	// Until the parent commits, its death is ours. The order closes the gap: a parent
	// that died before this call has closed the pipe that is read next.
	if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0); e != 0 {
		fail(st, stepDeathSignal, 0, e)
	}
	var b [1]byte
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(st.fds[fdGo]), uintptr(unsafe.Pointer(&b[0])), 1)
		if e == unix.EINTR {
			continue
		}
		if e != 0 || n != 1 {
			fail(st, stepOrphan, 0, e)
		}
		break
	}
	if st.setID {
		// An execve by an unmapped uid would drop the capabilities in the new user namespace.
		if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); e != 0 {
			fail(st, stepSetgid, 0, e)
		}
		if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); e != 0 {
			fail(st, stepSetuid, 0, e)
		}
		// Changing ids clears the death signal (commit_creds in kernel/cred.c).
		syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
	}
	if st.newCgroup {
		// Not in the clone: with CLONE_INTO_CGROUP the new namespace would be rooted at
		// the parent's cgroup (copy_cgroup_ns looks at current).
		if _, _, e := syscall.RawSyscall(unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP, 0, 0); e != 0 {
			fail(st, stepUnshareCgroup, 0, e)
		}
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, uintptr(st.fds[fdSocket]), uintptr(st.socketFD), 0); e != 0 {
		fail(st, stepSocket, 0, e)
	}
	_, _, e := syscall.RawSyscall6(unix.SYS_EXECVEAT, uintptr(st.fds[fdExe]), uintptr(unsafe.Pointer(st.empty)),
		uintptr(unsafe.Pointer(st.argv)), uintptr(unsafe.Pointer(st.env)), unix.AT_EMPTY_PATH, 0)
	fail(st, stepExec, 0, e)
}

// fail reports and ends the child.
//
//go:norace
//go:nosplit
func fail(st *stage, s step, index uint32, e syscall.Errno) {
	r := report{step: s, index: index, value: int32(e)}
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(st.fds[fdReport]), uintptr(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
	}
}
