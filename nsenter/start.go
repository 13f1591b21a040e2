package nsenter

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Command is our own binary, to be run in the namespaces of Config.
type Command struct {
	Config
	Args []string // argv; the child knows its part by it
	Env  []string
	// Socket becomes descriptor SocketFD of the child. Standard input, output and error
	// are inherited, and so is every descriptor below SocketFD that the caller left open.
	Socket   *os.File
	SocketFD int
	// Cgroup is a cgroup v2 directory in which the child is born; nil: in ours.
	Cgroup *os.File
	// Tasks are files of v1 cgroups in which the child enters itself, while it has one
	// thread: without the lock that moving it from outside takes (see cgroup.Entry).
	Tasks []*os.File
	// Target is a process (pidfd) whose namespaces TargetKinds are joined, all in one
	// setns; for exec.
	Target      *os.File
	TargetKinds Kind
}

// Child is a started command. It waits, before its execve, until Release.
type Child struct {
	PID     int
	PidFD   *os.File
	goPipe  *os.File
	reports *os.File
	cmd     *Command
}

// Start forks. The caller must be locked to its thread, because the child dies with
// the thread that made it (PR_SET_PDEATHSIG). On return the child exists, in its
// namespaces and, with Cgroup, in its cgroup.
func (c *Command) Start() (_ *Child, err error) {
	exe, err := Self()
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	joins, closeJoins, err := c.openJoins()
	if err != nil {
		return nil, err
	}
	defer closeJoins()
	goR, goW, err := pipe()
	if err != nil {
		return nil, err
	}
	defer goR.Close()
	repR, repW, err := pipe()
	if err != nil {
		goW.Close()
		return nil, err
	}
	defer repW.Close()
	child := &Child{goPipe: goW, reports: repR, cmd: c}
	defer func() {
		if err != nil {
			child.close()
		}
	}()

	st, err := c.layOut(joins, [fdCount]*os.File{fdGo: goR, fdReport: repW, fdSocket: c.Socket, fdExe: exe})
	if err != nil {
		return nil, err
	}
	middle := len(joins) > 0 || st.unshare != 0
	args := &cloneArgs{flags: unix.CLONE_PIDFD, exitSignal: uint64(unix.SIGCHLD)}
	if !middle {
		args.flags |= st.flags
	}
	if c.Cgroup != nil {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(c.Cgroup.Fd())
	}
	syscall.ForkLock.Lock()
	pid, pidfd, errno := fork(st, args, middle)
	syscall.ForkLock.Unlock()
	if errno != 0 {
		return nil, fmt.Errorf("clone3 (%s): %w", c.New, explain(errno, c.New))
	}
	child.PID, child.PidFD = int(pid), os.NewFile(uintptr(pidfd), "pidfd")
	if middle {
		if err := child.adopt(); err != nil {
			return nil, err
		}
	}
	return child, nil
}

// layOut makes the child's stage. The files stay the caller's, and open until the fork.
func (c *Command) layOut(joins []joinFD, files [fdCount]*os.File) (*stage, error) {
	argv, err := syscall.SlicePtrFromStrings(c.Args)
	if err != nil {
		return nil, err
	}
	env, err := syscall.SlicePtrFromStrings(c.Env)
	if err != nil {
		return nil, err
	}
	timePath, _ := syscall.BytePtrFromString("/proc/self/timens_offsets")
	st := &stage{
		joins:     joins,
		offsets:   offsetLines(c.TimeOffsets),
		timePath:  timePath,
		flags:     uint64(c.New &^ (Cgroup | Time)),
		newCgroup: c.New&Cgroup != 0,
		setID:     c.New&User != 0 || c.TargetKinds&User != 0 || c.joinsUser(),
		socketFD:  c.SocketFD,
		argv:      &argv[0], env: &env[0], empty: new(byte),
	}
	for _, f := range c.Tasks {
		st.tasks = append(st.tasks, int(f.Fd()))
	}
	if c.New&Time != 0 {
		st.unshare = unix.CLONE_NEWTIME
	}
	// Out of the way of SocketFD and of what is passed on below it.
	st.above = c.SocketFD + 1
	for i, f := range files {
		st.fds[i] = int(f.Fd())
		st.above = max(st.above, st.fds[i]+1)
	}
	return st, nil
}

// adopt waits for the middle process and takes over the final child that it reports.
func (c *Child) adopt() error {
	defer c.PidFD.Close()
	var ws unix.WaitStatus
	for {
		if _, err := unix.Wait4(c.PID, &ws, 0, nil); err != unix.EINTR {
			break
		}
	}
	if ws.Signaled() { // it could not report
		return fmt.Errorf("enter namespaces: killed by %s", ws.Signal())
	}
	r, err := c.read()
	if err != nil {
		return err
	}
	c.PID = int(r.value)
	fd, err := unix.PidfdOpen(c.PID, 0) // our own child and not reaped: the pid is its
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	c.PidFD = os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// Release writes the id maps and lets the child execute our binary. The caller has put
// it into its cgroups before.
func (c *Child) Release() error {
	if c.cmd.New&User != 0 {
		if err := c.writeMaps(); err != nil {
			return err
		}
	}
	_, err := c.goPipe.Write([]byte{1})
	c.goPipe.Close()
	if err != nil {
		return fmt.Errorf("release the init stage: %w", err)
	}
	return nil
}

// Failure tells why the child ended before our binary ran in it; nil when it did run.
// It blocks until one or the other is known.
func (c *Child) Failure() error {
	_, err := c.read()
	return err
}

// read takes one report; end of file is a success of execve.
func (c *Child) read() (report, error) {
	var r report
	b := unsafe.Slice((*byte)(unsafe.Pointer(&r)), int(unsafe.Sizeof(r)))
	n, err := c.reports.Read(b)
	if n != len(b) {
		if n == 0 {
			return r, nil
		}
		return r, fmt.Errorf("report of the init stage: %w", err)
	}
	if r.step == stepPID {
		return r, nil
	}
	errno := syscall.Errno(r.value)
	what := r.step.String()
	switch r.step {
	case stepSetns:
		what = "setns " + c.cmd.joinName(int(r.index))
	case stepCgroup:
		what = "join cgroup " + c.cmd.Tasks[r.index].Name()
	}
	if errno == 0 {
		return r, fmt.Errorf("%s: ended early", what)
	}
	return r, fmt.Errorf("%s: %w", what, errno)
}

// Close gives up the descriptors; the child lives on.
func (c *Child) Close() {
	c.close()
	if c.PidFD != nil {
		c.PidFD.Close()
	}
}

func (c *Child) close() {
	c.goPipe.Close()
	c.reports.Close()
}

// writeMaps writes the id maps of the child's user namespace.
func (c *Child) writeMaps() error {
	proc := "/proc/" + strconv.Itoa(c.PID)
	if os.Geteuid() != 0 {
		// user_namespaces(7): without CAP_SETGID the group map needs setgroups denied.
		if err := os.WriteFile(proc+"/setgroups", []byte("deny"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("deny setgroups: %w", err)
		}
	}
	for _, m := range []struct {
		file string
		maps []Mapping
		path string
	}{{"/uid_map", c.cmd.UIDMappings, "linux.uidMappings"}, {"/gid_map", c.cmd.GIDMappings, "linux.gidMappings"}} {
		if len(m.maps) == 0 {
			continue
		}
		var b strings.Builder
		for _, l := range m.maps {
			fmt.Fprintf(&b, "%d %d %d\n", l.ContainerID, l.HostID, l.Size)
		}
		if err := os.WriteFile(proc+m.file, []byte(b.String()), 0); err != nil {
			return fmt.Errorf("%s: write %s: %w", m.path, strings.TrimPrefix(m.file, "/"), errors.Unwrap(err))
		}
	}
	return nil
}

// openJoins opens the namespaces that exist, in the order in which they are entered:
// the user namespace last, because until then we have the rights of our own.
func (c *Command) openJoins() (joins []joinFD, done func(), err error) {
	var files []*os.File
	done = func() {
		for _, f := range files {
			f.Close()
		}
	}
	if c.Target != nil && c.TargetKinds != 0 {
		joins = append(joins, joinFD{int(c.Target.Fd()), uintptr(c.TargetKinds)})
	}
	for _, user := range []bool{false, true} {
		for _, j := range c.Join {
			if (j.Kind == User) != user {
				continue
			}
			f, err := os.OpenFile(j.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				done()
				return nil, nil, fmt.Errorf("%s namespace: %w", j.Kind, err)
			}
			files = append(files, f)
			if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || Kind(kind) != j.Kind {
				done()
				return nil, nil, fmt.Errorf("%s namespace: %s is not one", j.Kind, j.Path)
			}
			joins = append(joins, joinFD{int(f.Fd()), uintptr(j.Kind)})
		}
	}
	return joins, done, nil
}

func (c *Command) joinsUser() bool {
	for _, j := range c.Join {
		if j.Kind == User {
			return true
		}
	}
	return false
}

// joinName is the n-th of openJoins, for an error text.
func (c *Command) joinName(n int) string {
	if c.Target != nil && c.TargetKinds != 0 {
		if n == 0 {
			return "(" + c.TargetKinds.String() + ")"
		}
		n--
	}
	for _, user := range []bool{false, true} {
		for _, j := range c.Join {
			if (j.Kind == User) != user {
				continue
			}
			if n == 0 {
				return j.Kind.String() + " " + j.Path
			}
			n--
		}
	}
	return "?"
}

// Kinds in the order in which runtime-spec lists them.
var kindNames = [...]struct {
	kind Kind
	name string
}{{PID, "pid"}, {Network, "network"}, {Mount, "mount"}, {IPC, "ipc"}, {UTS, "uts"}, {User, "user"}, {Cgroup, "cgroup"}, {Time, "time"}}

// Names lists the kinds in k as runtime-spec spells them.
func (k Kind) Names() []string {
	var names []string
	for _, n := range kindNames {
		if k&n.kind != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

// String joins Names with commas.
func (k Kind) String() string { return strings.Join(k.Names(), ",") }

func explain(errno syscall.Errno, kinds Kind) error {
	switch {
	case errno == unix.EPERM && kinds&User == 0:
		return fmt.Errorf("%w (new namespaces need CAP_SYS_ADMIN or a user namespace of their own)", errno)
	case errno == unix.ENOSPC:
		return fmt.Errorf("%w (too many namespaces: see /proc/sys/user/max_*_namespaces)", errno)
	case errno == unix.EINVAL:
		return fmt.Errorf("%w (this kernel lacks one of these namespaces)", errno)
	}
	return errno
}

func offsetLines(offsets []TimeOffset) []byte {
	var b strings.Builder
	for _, o := range offsets {
		fmt.Fprintf(&b, "%s %d %d\n", o.Clock, o.Secs, o.Nanos)
	}
	return []byte(b.String())
}

func pipe() (r, w *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	return os.NewFile(uintptr(p[0]), "pipe"), os.NewFile(uintptr(p[1]), "pipe"), nil
}
