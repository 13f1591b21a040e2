package libcontainer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"thinrun/libcontainer/state"
	"thinrun/rootfs/storage/proc"

	"golang.org/x/sys/unix"
)

// A commit holds a container still for a moment, its file system or its processes, and so
// does what looks at the pool's metadata with all containers' disks. Killed in that moment
// it would leave them waiting for the next command, and nobody may come. So a second
// process, in a session of its own, sees to it: it outlives us, and the end of its socket
// tells it that we are gone. Stopped in that moment (SIGSTOP, or ^Z at a terminal) it has to
// go on, and the guardian sees to that too.
//
// For the case that both are killed there is a mark in the container's directory
// (state.Still), which kill, delete, exec, start, commit and gc look for, and the claim of
// the unfinished layer, which the pool's next user finds.

// guardianWord is the first argument of our binary as a guardian.
const guardianWord = "guardian"

// What a guardian watches over.
const (
	guardContainer = "container" // by its id: the processes
	guardDevice    = "device"    // by its dm name
)

// IsGuardian tells whether the arguments are a guardian's.
func IsGuardian(args []string) bool { return len(args) == 6 && args[1] == guardianWord }

// Guardian is main for the guardian: argv is ["thinrun", "guardian", --root, --storage,
// kind, name], and its socket is descriptor 3.
func Guardian(args []string) int {
	// Who ends a unit or a job sends its signal to all in there. The commit may die of it:
	// that is what we are for.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	parent := os.NewFile(3, "parent")
	watched, _ := state.Of(os.Getppid()) // who still reads our byte, so nobody has its pid by then
	rt := &Runtime{Root: args[2], Storage: args[3], StorageDriver: driverAuto, Warn: func(string) {}}
	if _, err := parent.Write([]byte{1}); err != nil { // it has gone before it made anything still
		return 0
	}
	if allIsWell(parent, watched) {
		return 0
	}
	if err := rt.resume(args[4], args[5]); err != nil {
		return 1 // the next command has more to say
	}
	return 0
}

// allIsWell waits for the word of the one who is watched, or for its end. There is no limit
// to that: a copy or a slow disk takes its time, and to resume what it holds still beside
// it would put a file system in motion into an image. But it may not stop.
func allIsWell(parent *os.File, watched state.Process) bool {
	fds := []unix.PollFd{{Fd: int32(parent.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 200)
		if n > 0 || err != nil && err != unix.EINTR {
			break
		}
		keepGoing(watched)
	}
	var b [1]byte
	n, _ := parent.Read(b[:])
	return n == 1
}

// keepGoing continues a process that is stopped.
func keepGoing(p state.Process) {
	if st, err := proc.Read(p.PID); err != nil || st.State != 'T' {
		return
	}
	pidfd, err := p.Open()
	if err != nil {
		return // it has ended
	}
	_ = unix.PidfdSendSignal(int(pidfd.Fd()), unix.SIGCONT, nil, 0)
	pidfd.Close()
}

func (rt *Runtime) resume(kind, name string) error {
	if kind == guardDevice {
		d, err := rt.devmapper(rt.Storage)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.ResumeSuspended(name)
	}
	store, err := state.Open(rt.Root)
	if err != nil {
		return err
	}
	defer store.Close()
	_, err = rt.goOn(store, name, true)
	return err
}

// guard starts a guardian; done ends it.
func (rt *Runtime) guard(storageDir, kind, name string) (done func(), err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "guardian"), os.NewFile(uintptr(fds[1]), "guardian's")
	defer theirs.Close()
	p, err := startGuardian(theirs, rt.stateRoot(), storageDir, kind, name)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("guardian: %w", err)
	}
	theirs.Close()
	var ready [1]byte
	if _, err := io.ReadFull(ours, ready[:]); err != nil {
		ours.Close()
		p.Wait()
		return nil, fmt.Errorf("guardian: it has ended: %w", err)
	}
	return func() {
		ours.Write([]byte{1})
		ours.Close()
		p.Wait()
	}, nil
}

func startGuardian(socket *os.File, words ...string) (*os.Process, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	return os.StartProcess("/proc/self/exe", append([]string{"thinrun", guardianWord}, words...), &os.ProcAttr{
		Dir: "/", Env: initEnv, Files: []*os.File{null, null, null, socket},
		Sys: &syscall.SysProcAttr{Setsid: true}, // no signal to our group or from our terminal
	})
}

// goOn lets a container go on that a killed commit has left standing still, and tells if
// it did. With wait the commit may be about to die; without it one that lives is left alone.
func (rt *Runtime) goOn(store *state.Store, id string, wait bool) (left bool, err error) {
	mark, err := store.LeftStill(id, wait)
	if mark == nil || err != nil {
		if errors.Is(err, state.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	rec, err := store.Read(id)
	if err != nil {
		return true, errors.Join(err, mark.Close())
	}
	return true, rt.lift(mark, rec)
}

// lift takes the mark of a killed commit away, after what it stands for. On failure it
// stays.
func (rt *Runtime) lift(mark *state.Still, rec *state.Record) error {
	if err := rt.letGo(rec); err != nil {
		return errors.Join(err, mark.Close())
	}
	return mark.Remove()
}

// letGo undoes what any commit does to hold the container still.
func (rt *Runtime) letGo(rec *state.Record) error {
	if rec.Storage.Driver == driverDevmapper {
		d, err := rt.devmapper(rec.Storage.Storage)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.ResumeSuspended(rec.Storage.Device)
	}
	cg, err := openCgroup(rec)
	if err != nil || cg == nil {
		return err
	}
	return cg.Thaw()
}
