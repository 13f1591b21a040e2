package libcontainer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"thinrun/libcontainer/hooks"
	"thinrun/libcontainer/plan"
	"thinrun/libcontainer/process"
	"thinrun/rootfs"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// initStage is the container's side of create: everything that happens between the
// execve of our binary in the new namespaces and the execve of the user's program.
// It runs on the main thread alone; the other threads of the Go runtime share neither
// its capabilities nor its filter, and vanish at the execve.
type initStage struct {
	plan.Init
	parent  conn
	files   []*os.File // root, gate, listening socket, then the bind sources
	root    *rootfs.Root
	program string
	joined  bool     // an exec
	start   *os.File // the connection of `start`; an error text may still go there
}

// What arrives ahead of the plan, in this order.
const (
	fileRoot = iota
	fileGate
	fileStart
	fileSources
)

// step is one row of the table. The name is the "what" of its errors.
type step struct {
	name string
	run  func(*initStage) error
}

// initSteps is create's order. What a row needs to have happened before it is said
// beside it; TestInitOrder holds the pairs that may not swap.
var initSteps = [...]step{
	{"session", (*initStage).session},
	{"keyring", (*initStage).keyring},
	{"bring up lo", (*initStage).loopback},
	{"hostname", (*initStage).hostname},
	// The host's tree is still below us: nothing is opened by path in the rootfs.
	{"rootfs", (*initStage).attach},
	{"mount", (*initStage).mount},
	{"dev", (*initStage).dev},
	// prestart and createRuntime: namespaces and mounts exist, pivot_root has not happened.
	{"hooks", (*initStage).parentHooks},
	{"createContainer hooks", (*initStage).createContainer},
	{"pivot_root", (*initStage).pivot},
	// The terminal comes from the container's own devpts, so after the mounts.
	{"console", (*initStage).console},
	// As root and before the root becomes read-only.
	{"cwd", (*initStage).makeCwd},
	// Writes to /proc/sys need it writable, and capabilities.
	{"sysctl", (*initStage).sysctl},
	{"seal", (*initStage).seal},
	{"scheduling", (*initStage).scheduling},
	{"labels", (*initStage).labels},
	// Without no_new_privs loading a filter takes CAP_SYS_ADMIN, so before the drop.
	{"seccomp", (*initStage).seccompPrivileged},
	{"user", (*initStage).become},
	{"no_new_privs", (*initStage).noNewPrivileges},
	// As the user: it must be able to go there, and to execute it.
	{"cwd", (*initStage).chdir},
	{"", (*initStage).findProgram},
	// A listener must reach the agent through the parent, so before ready.
	{"seccomp", (*initStage).seccompNotifying},
	{"ready", (*initStage).ready},
	{"wait for start", (*initStage).gate},
	{"startContainer hooks", (*initStage).startContainer},
	{"descriptors", (*initStage).closeFDs},
	// With no_new_privs the filter comes last: all it must allow is execve.
	{"seccomp", (*initStage).seccompLast},
	{"", (*initStage).exec},
}

// execSteps is the order for a process that joins a running container.
var execSteps = [...]step{
	{"session", (*initStage).session},
	{"keyring", (*initStage).keyring},
	{"console", (*initStage).execConsole},
	{"scheduling", (*initStage).scheduling},
	{"labels", (*initStage).labels},
	{"seccomp", (*initStage).seccompPrivileged},
	{"user", (*initStage).become},
	{"no_new_privs", (*initStage).noNewPrivileges},
	{"cwd", (*initStage).chdir},
	{"", (*initStage).findProgram},
	{"seccomp", (*initStage).seccompNotifying},
	{"ready", (*initStage).ready},
	{"descriptors", (*initStage).closeFDs},
	{"seccomp", (*initStage).seccompLast},
	{"", (*initStage).exec},
}

// IsStage tells whether word is the first argument of an init stage.
func IsStage(word string) bool { return word == "init" || word == "exec" }

// Init is main for the init stage: argv is ["thinrun", "init"|"exec", socket]. It
// returns only when something failed; the parent has the error then.
func Init(kind, socket string) int {
	fd, err := strconv.Atoi(socket)
	if err != nil {
		return 1
	}
	unix.CloseOnExec(fd)
	// Another process in our pid namespace may not look into us: our memory and
	// descriptors are the host's until the execve (CVE-2016-9962).
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	s := &initStage{parent: conn{fd}}
	if s.files, err = s.parent.receivePlan(&s.Init); err != nil {
		return s.fail(fmt.Errorf("plan: %w", err))
	}
	steps := initSteps[:]
	if kind == "exec" {
		steps, s.joined = execSteps[:], true
	}
	for _, step := range steps {
		if err := step.run(s); err != nil {
			if step.name != "" {
				err = fmt.Errorf("%s: %w", step.name, err)
			}
			return s.fail(err)
		}
	}
	return 1 // not reached: the last step is execve
}

// fail tells whoever listens: the parent until ready, then the process that said start.
func (s *initStage) fail(err error) int {
	switch {
	case s.start != nil:
		io.WriteString(s.start, err.Error())
	case s.parent.fd >= 0:
		s.parent.send(msgFailed, []byte(err.Error()))
	}
	return 1
}

func (s *initStage) session() error { return s.Process.NewSession() }

func (s *initStage) keyring() error {
	if err := s.Process.KeyLabel(); err != nil {
		return err
	}
	return s.Process.Keyring()
}

func (s *initStage) loopback() error {
	if !s.LoopbackUp {
		return nil
	}
	return loopbackUp()
}

func (s *initStage) hostname() error {
	if s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("sethostname %q: %w", s.Hostname, err)
		}
	}
	if s.Domainname != "" {
		if err := unix.Setdomainname([]byte(s.Domainname)); err != nil {
			return fmt.Errorf("setdomainname %q: %w", s.Domainname, err)
		}
	}
	return nil
}

func (s *initStage) attach() (err error) {
	s.root, err = rootfs.Attach(&s.Rootfs, s.files[fileRoot])
	return err
}

func (s *initStage) mount() error { return s.root.Mount(s.files[fileSources:]) }
func (s *initStage) dev() error   { return s.root.Dev() }

func (s *initStage) parentHooks() error {
	if !s.AskHooks {
		return nil
	}
	return s.parent.ask(msgMounted, nil, msgContinue)
}

func (s *initStage) createContainer() error {
	if len(s.CreateContainer) == 0 {
		return nil
	}
	var st specs.State
	if err := json.Unmarshal(s.HookState, &st); err != nil {
		return err
	}
	// As the hooks outside, unless the bundle is closed to root of our user namespace.
	dir := st.Bundle
	if unix.Access(dir, unix.X_OK) != nil {
		dir = ""
	}
	return hooks.Run(context.Background(), "createContainer", s.CreateContainer, s.HookState, dir)
}

func (s *initStage) pivot() error { return s.root.Pivot() }

func (s *initStage) console() error {
	if !s.Process.Terminal {
		return nil
	}
	var size process.Size
	if s.Process.Console != nil {
		size = *s.Process.Console
	}
	master, slave, err := s.root.Console(size.Height, size.Width)
	if err != nil {
		return err
	}
	return s.takeTerminal(master, slave)
}

// execConsole is console in a container that runs: its root is the one we are in.
func (s *initStage) execConsole() (err error) {
	if !s.Process.Terminal {
		return nil
	}
	if s.root, err = rootfs.Inside(); err != nil {
		return err
	}
	defer s.root.Close()
	return s.console()
}

func (s *initStage) takeTerminal(master, slave *os.File) error {
	defer slave.Close()
	err := s.parent.send(msgConsole, nil, master)
	master.Close()
	if err != nil {
		return err
	}
	return s.Process.TakeTerminal(slave)
}

func (s *initStage) sysctl() error     { return s.root.Sysctl() }
func (s *initStage) seal() error       { return s.root.Seal() }
func (s *initStage) scheduling() error { return s.Process.Scheduling() }
func (s *initStage) labels() error     { return s.Process.Labels() }

// makeCwd makes the working directory, which images need not have; runc does the same. What
// leads through a descriptor in /proc is made nowhere, and chdir has the words for it.
func (s *initStage) makeCwd() error {
	if s.Process.Cwd == "" {
		return nil
	}
	if err := s.root.MakeDir(s.Process.Cwd); err != nil && !errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("process.cwd %q: %w", s.Process.Cwd, err)
	}
	return nil
}

func (s *initStage) seccompPrivileged() error {
	if s.Process.NoNewPrivileges {
		return nil
	}
	return s.installSeccomp()
}

func (s *initStage) seccompNotifying() error {
	if !s.Process.NoNewPrivileges || s.Seccomp == nil || !s.Seccomp.Notify {
		return nil
	}
	return s.installSeccomp()
}

func (s *initStage) seccompLast() error {
	if !s.Process.NoNewPrivileges || s.Seccomp != nil && s.Seccomp.Notify {
		return nil
	}
	return s.installSeccomp()
}

// installSeccomp loads the filter. The listener is taken by the parent, because sendmsg
// may be what the filter notifies of: nobody would answer yet.
func (s *initStage) installSeccomp() error {
	if s.Seccomp == nil {
		return nil
	}
	fd, err := s.Seccomp.Install()
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	return s.parent.ask(msgListener, []byte(strconv.Itoa(fd)), msgContinue)
}

// become also re-arms what a change of ids takes away: the kernel clears the death
// signal then (commit_creds).
func (s *initStage) become() error {
	if err := s.Process.Become(); err != nil {
		return err
	}
	return deathSignal(unix.SIGKILL)
}

func (s *initStage) noNewPrivileges() error {
	if !s.Process.NoNewPrivileges {
		return nil
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

func (s *initStage) chdir() error { return s.Process.Chdir() }

func (s *initStage) findProgram() (err error) {
	s.program, err = s.Process.LookPath()
	return err
}

// ready is the end of the conversation: the parent commits, and lives or dies without
// us. The death signal goes before we say ready, not after the commit: the parent may
// exit in between. Until the commit its end is the end of file that we wait for.
func (s *initStage) ready() error {
	if err := deathSignal(0); err != nil {
		return err
	}
	if err := s.parent.ask(msgReady, nil, msgCommit); err != nil {
		return err
	}
	if s.joined {
		return nil // nobody else would hear of a failing execve; a good one closes the socket
	}
	s.parent.Close()
	s.parent.fd = -1
	return nil
}

// gate waits for `start`. The lock on the gate file is ours until the execve closes it:
// that is how others tell created from running. A connection that sends nothing was
// somebody who looked or died; the next may be the one.
func (s *initStage) gate() error {
	if s.files[fileStart] == nil {
		return nil
	}
	listener := int(s.files[fileStart].Fd())
	for {
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("accept", err)
		}
		var b [1]byte
		if n, err := unix.Read(fd, b[:]); n == 1 && err == nil {
			s.start = os.NewFile(uintptr(fd), "start")
			return unix.Close(listener)
		}
		unix.Close(fd)
	}
}

func (s *initStage) startContainer() error {
	if len(s.StartContainer) == 0 {
		return nil
	}
	var st specs.State
	if err := json.Unmarshal(s.HookState, &st); err != nil {
		return err
	}
	st.Status = specs.StateCreated // creating is over; the program does not run yet
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	// The working directory is process.cwd by now.
	return hooks.Run(context.Background(), "startContainer", s.StartContainer, data, "")
}

func (s *initStage) closeFDs() error {
	if err := s.Process.CloseFDs(); err != nil || s.start == nil {
		return err
	}
	_, err := s.start.Write([]byte{aboutToExec}) // the filter that is next may not allow it
	if errors.Is(err, unix.EPIPE) {
		return nil // start was killed; what it began goes on
	}
	return err
}

func (s *initStage) exec() error { return s.Process.Execve(s.program) }

func deathSignal(sig unix.Signal) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(sig), 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_PDEATHSIG)", err)
	}
	return nil
}

// loopbackUp is `ip link set lo up` in the namespace we are in.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return os.NewSyscallError("SIOCSIFFLAGS", err)
	}
	return nil
}
