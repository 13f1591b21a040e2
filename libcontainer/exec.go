package libcontainer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"

	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/plan"
	"thinrun/libcontainer/process"
	"thinrun/libcontainer/seccomp"
	"thinrun/libcontainer/state"
	"thinrun/nsenter"

	"golang.org/x/sys/unix"
)

// ExecOptions are the flags of exec.
type ExecOptions struct {
	ProcessFile     string // the whole process as JSON; the fields below are ignored then
	Args            []string
	Cwd             string
	Env             []string
	Terminal        bool
	User            string
	AdditionalGIDs  []int64
	Caps            []string
	NoNewPrivileges bool
	SELinuxLabel    string
	AppArmor        string

	Detach        bool
	PidFile       string
	PidfdSocket   string
	ConsoleSocket string
	PreserveFDs   int
	Cgroup        []string
	IgnorePaused  bool
}

// Exec runs one more process in a container, with the limits, filter and labels of the
// container. The code is its exit status when it ran in the foreground.
func (rt *Runtime) Exec(id string, opt ExecOptions) (code int, err error) {
	if err := nsenter.Reseal(neededInEnv); err != nil {
		return 0, err
	}
	store, err := state.Open(rt.Root)
	if err != nil {
		return 0, err
	}
	defer store.Close()
	rec, err := store.Read(id)
	if err != nil {
		return 0, err
	}
	if _, err := rt.goOn(store, id, true); err != nil { // a commit is over in a moment
		return 0, err
	}
	status, err := statusOf(store, rec)
	if err != nil {
		return 0, err
	}
	switch status {
	case state.Created, state.Running:
	case state.Paused:
		if !opt.IgnorePaused {
			return 0, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
		}
	case state.Stopped:
		return 0, errors.New("cannot exec in a stopped container: container not running")
	default:
		return 0, fmt.Errorf("cannot exec in a container in the %s state", status)
	}
	p, err := rt.execPlan(store, rec, opt)
	if err != nil {
		return 0, err
	}
	if err := checkConsole(p.Init.Process.Terminal, opt.Detach, opt.ConsoleSocket); err != nil {
		return 0, err
	}
	fg := newForeground(opt.Detach)
	defer fg.Close()
	child, err := rt.execStart(rec, p, opt, fg.console)
	if err != nil {
		return 0, err
	}
	defer child.Close()
	if opt.Detach {
		return 0, nil
	}
	return fg.wait(child)
}

// execPlan is what the new process is: the saved config's process, with what the flags
// change, or the one in --process.
func (rt *Runtime) execPlan(store *state.Store, rec *state.Record, opt ExecOptions) (*plan.Plan, error) {
	raw, err := store.ReadFile(rec.ID, configFile)
	if err != nil {
		return nil, err
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		return nil, err
	}
	spec := b.Spec
	proc := *spec.Process
	if opt.ProcessFile != "" {
		p, err := bundle.LoadProcess(opt.ProcessFile)
		if err != nil {
			return nil, err
		}
		proc = *p
	}
	p, err := plan.NewExec(spec, &proc, plan.ExecOptions{
		ID: rec.ID, Image: rec.Storage.Image != "", Whole: opt.ProcessFile != "", Args: opt.Args, Cwd: opt.Cwd, Env: opt.Env, Terminal: opt.Terminal, User: opt.User,
		AdditionalGIDs: opt.AdditionalGIDs, Caps: opt.Caps, NoNewPrivileges: opt.NoNewPrivileges,
		SELinuxLabel: opt.SELinuxLabel, AppArmor: opt.AppArmor, PreserveFDs: opt.PreserveFDs,
	})
	if err != nil {
		return nil, err
	}
	if p.Seccomp != nil {
		p.Init.Seccomp, err = seccomp.Compile(p.Seccomp)
	}
	return p, err
}

// execStart joins the container's namespaces and cgroup and sees the process ready.
func (rt *Runtime) execStart(rec *state.Record, p *plan.Plan, opt ExecOptions, console func(*os.File) error) (_ *nsenter.Child, err error) {
	init, err := rec.Init.Open()
	if errors.Is(err, state.ErrGone) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	defer init.Close()
	kinds, err := foreignNamespaces(rec.Init.PID)
	if err != nil {
		return nil, err
	}
	cg, err := openCgroup(rec)
	if err != nil {
		return nil, err
	}
	if cg != nil && len(opt.Cgroup) > 0 {
		if cg, err = cg.Sub(opt.Cgroup); err != nil {
			return nil, err
		}
	}
	runtime.LockOSThread() // see create
	if err := p.Init.Process.InitialAffinity(); err != nil {
		return nil, err
	}
	cmd := nsenter.Command{Target: init, TargetKinds: kinds}
	before := hitsOf(cg)
	defer func() {
		if errors.Is(err, errHangUp) {
			err = starved(cg, before, err)
		}
	}()
	talk, child, err := startStage("exec", &cmd, p, cg)
	if errors.Is(err, unix.EBUSY) && cg != nil && len(opt.Cgroup) == 0 {
		// The container has made sub-cgroups for itself: cgroup2 lets nobody into the
		// one above them ("no internal processes"), so join init in its own.
		if cg, err = cg.Of(rec.Init.PID); err == nil {
			before = hitsOf(cg)
			talk, child, err = startStage("exec", &cmd, p, cg)
		}
	}
	if err != nil {
		return nil, err
	}
	defer talk.Close()
	defer func() {
		if err != nil {
			reap(child)
		}
	}()
	settle := process.FirstToDie(child.PID)
	if err := talk.sendPlan(&p.Init, nil); err != nil && !errors.Is(err, unix.EPIPE) {
		return nil, err
	}
	err = talk.converse(answers{
		console: func(master *os.File) error {
			if opt.ConsoleSocket != "" {
				return process.SendConsole(opt.ConsoleSocket, master)
			}
			return console(master)
		},
		listener: func(fd int) error { return sendListener(p.Seccomp, rec, child, fd) },
	})
	if err == nil {
		err = settle()
	}
	if err != nil {
		return nil, whyEnded(child, err)
	}
	announced := CreateOptions{PidFile: opt.PidFile, PidfdSocket: opt.PidfdSocket}
	if err := announce(child, announced); err != nil {
		return nil, err
	}
	if err = talk.tell(msgCommit); err == nil {
		err = executed(talk)
	} else {
		err = whyEnded(child, err)
	}
	if err != nil {
		return nil, errors.Join(err, unannounce(announced))
	}
	return child, nil
}

// executed waits for the end of file that comes from the execve, or for the reason why
// there was none: a missing interpreter shows only there.
func executed(talk conn) error {
	m, payload, _, err := talk.receive()
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	case m == msgFailed:
		return errors.New(string(payload))
	}
	return fmt.Errorf("BUG: message %q after commit", m)
}

// foreignNamespaces are the kinds in which pid's namespace is not ours: joining one's
// own user namespace is EINVAL, and the others cost a system call for nothing.
func foreignNamespaces(pid int) (nsenter.Kind, error) {
	var kinds nsenter.Kind
	for _, ns := range [...]struct {
		file string
		kind nsenter.Kind
	}{{"user", nsenter.User}, {"mnt", nsenter.Mount}, {"pid", nsenter.PID}, {"net", nsenter.Network},
		{"ipc", nsenter.IPC}, {"uts", nsenter.UTS}, {"cgroup", nsenter.Cgroup}, {"time", nsenter.Time}} {
		var ours, theirs unix.Stat_t
		if err := unix.Stat("/proc/self/ns/"+ns.file, &ours); err != nil {
			continue // a kernel without it
		}
		if err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/"+ns.file, &theirs); err != nil {
			return 0, fmt.Errorf("%s namespace of init (pid %d): %w", ns.file, pid, err)
		}
		if ours.Ino != theirs.Ino || ours.Dev != theirs.Dev {
			kinds |= ns.kind
		}
	}
	return kinds, nil
}
