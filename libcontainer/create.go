package libcontainer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/cgroup"
	"thinrun/libcontainer/hooks"
	"thinrun/libcontainer/plan"
	"thinrun/libcontainer/process"
	"thinrun/libcontainer/seccomp"
	"thinrun/libcontainer/state"
	"thinrun/nsenter"
	"thinrun/rootfs"

	"golang.org/x/sys/unix"
)

// CreateOptions are the flags of create and run.
type CreateOptions struct {
	Bundle        string
	Config        string         // "" = config.json in the bundle
	Spec          *bundle.Bundle // run --image without a bundle: the config is made, not read
	Image         string
	RootfsSize    string // as the user wrote it: 20G
	ConsoleSocket string
	PidFile       string
	PidfdSocket   string
	NoPivot       bool
	NoNewKeyring  bool
	PreserveFDs   int
	// detach: nobody stays who could hold the terminal; console takes its master else.
	detach bool
	// ephemeral: a foreground run, which deletes at its end.
	ephemeral bool
	// image is what run --image has made the config of: no other may be under it.
	image *heldImage
	// localhost: run --image without the host's network, which brings its names.
	localhost bool
	console   func(master *os.File) error
}

// Create makes the container and leaves its init waiting for start.
func (rt *Runtime) Create(id string, opt CreateOptions) error {
	opt.detach = true
	created, err := rt.create(context.Background(), id, opt)
	if err != nil {
		return err
	}
	created.Close()
	return nil
}

// DryRun is the plan that Create would follow. It touches nothing.
func (rt *Runtime) DryRun(id string, opt CreateOptions) (*plan.Plan, error) {
	host, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	_, p, err := rt.plan(id, opt, host)
	return p, err
}

// created is a container that waits at the gate: its lock, record and init.
type created struct {
	state *state.Container
	rec   *state.Record
	init  *nsenter.Child
}

func (c *created) Close() {
	c.init.Close()
	c.state.Close()
}

// plan reads the config and decides, without a trace on the system.
func (rt *Runtime) plan(id string, opt CreateOptions, host cgroup.Host) (*bundle.Bundle, *plan.Plan, error) {
	if err := state.CheckID(id); err != nil {
		return nil, nil, err
	}
	b := opt.Spec
	if b == nil {
		var err error
		if b, err = bundle.Load(opt.Bundle, opt.Config); err != nil {
			return nil, nil, err
		}
	}
	root, err := filepath.Abs(rt.Root)
	if err != nil {
		return nil, nil, err
	}
	// Sockets of a service manager come first among the descriptors to pass on.
	listen := process.ListenFDs(os.Getenv, os.Getpid())
	if err := process.CheckPreserved(listen + opt.PreserveFDs); err != nil {
		return nil, nil, err
	}
	p, err := plan.New(b.Spec, plan.Options{
		ID: id, Bundle: b.Dir, StateDir: filepath.Join(root, id), Image: opt.Image, RootfsSize: opt.RootfsSize,
		Dirs: opt.volumes(), Localhost: opt.localhost, NoPivot: opt.NoPivot, NoNewKeyring: opt.NoNewKeyring, PreserveFDs: listen + opt.PreserveFDs,
		SystemdCgroup: rt.SystemdCgroup, CgroupManager: rt.CgroupManager,
		Rootless: rt.Rootless == "true" || rt.Rootless == "auto" && os.Geteuid() != 0,
	}, facts(host))
	if err != nil {
		return nil, nil, err
	}
	if listen > 0 {
		p.Init.Process.Env = append(p.Init.Process.Env, process.ListenEnv(listen)...)
	}
	if len(p.NetDevices) > 0 {
		return nil, nil, bundle.Refuse("linux.netDevices", "thinrun does not move network devices; move them in a createRuntime hook")
	}
	if p.IntelRdt != nil {
		return nil, nil, bundle.Refuse("linux.intelRdt", "thinrun does not manage resctrl groups; leave it out")
	}
	if p.Seccomp != nil {
		if p.Init.Seccomp, err = seccomp.Compile(p.Seccomp); err != nil {
			return nil, nil, err
		}
	}
	return b, p, nil
}

// create is the story: claim, record, cgroup, child, root, conversation, commit.
// Whatever fails after the claim is given back by the teardown that delete uses. The end
// of ctx makes it fail: whoever it waits for then is killed.
func (rt *Runtime) create(ctx context.Context, id string, opt CreateOptions) (_ *created, err error) {
	host, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	b, p, err := rt.plan(id, opt, host)
	if err != nil {
		return nil, err
	}
	if err := checkKernel(); err != nil {
		return nil, err
	}
	for _, j := range p.Namespaces.Join {
		if j.Kind == nsenter.PID {
			if err := nsenter.Reseal(neededInEnv); err != nil {
				return nil, err
			}
		}
	}
	if err := checkConsole(p.Init.Process.Terminal, opt.detach, opt.ConsoleSocket); err != nil {
		return nil, err
	}
	cg, err := newCgroup(p, host)
	if err != nil {
		return nil, err
	}
	store, err := state.Open(rt.Root)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	c, err := store.Claim(id)
	if err != nil {
		return nil, err
	}
	rec, err := newRecord(p, cg)
	if err == nil {
		err = c.Save(rec)
	}
	if err != nil {
		return nil, errors.Join(err, c.Remove(), c.Close())
	}
	defer func() {
		if err != nil {
			if undo := rt.teardown(c, rec); undo != nil {
				err = fmt.Errorf("%w; and giving back what it had made: %w", err, undo)
			}
			c.Close()
		}
	}()
	if err := c.WriteFile(configFile, b.Raw); err != nil {
		return nil, err
	}
	if cg != nil {
		if err := cg.Create(); err != nil {
			return nil, err
		}
		// Only now is it ours to kill in: Create refuses one with processes in it, which
		// may be another container's.
		rec.Cgroup.Made, rec.Cgroup.Existed = true, cg.Existed()
		if err := c.Save(rec); err != nil {
			return nil, err
		}
		if !cg.Existed() { // else its limits may be what others ran into
			defer func() {
				if err != nil {
					err = starved(cg, limitsHit{}, err)
				}
			}()
		}
	}
	// The child dies with the thread that made it, so this goroutine keeps its thread.
	// It is never given back: the process ends with the command.
	runtime.LockOSThread()
	talk, child, err := startStage("init", &nsenter.Command{Config: p.Namespaces}, p, cg)
	if err != nil {
		return nil, err
	}
	defer talk.Close()
	defer func() {
		if err != nil {
			reap(child)
		}
	}()
	defer context.AfterFunc(ctx, func() { kill(child) })()
	if rec.Init, err = state.Of(child.PID); err != nil {
		return nil, errors.Join(child.Failure(), err)
	}
	// Our binary boots in the child while we make its root.
	if err := rt.converse(ctx, talk, child, c, rec, p, opt); err != nil {
		return nil, whyEnded(child, err)
	}
	// Killed before the commit, we take init along, and gc knows it by this phase; after it
	// there is a container, of which gc keeps its hands only once the record says created.
	rec.Phase, rec.Ephemeral = state.PhaseCommitting, opt.ephemeral
	if err := c.Save(rec); err != nil {
		return nil, err
	}
	if err := announce(child, opt); err != nil {
		return nil, err
	}
	if err := talk.tell(msgCommit); err != nil {
		return nil, errors.Join(whyEnded(child, err), unannounce(opt))
	}
	rec.Phase = state.PhaseCreated
	if err := c.Save(rec); err != nil {
		return nil, errors.Join(err, unannounce(opt))
	}
	return &created{c, rec, child}, nil
}

// checkConsole: a terminal needs somebody who holds its master when we have gone, and
// nobody else is to get it. The words are runc's.
func checkConsole(terminal, detach bool, socket string) error {
	if terminal && detach && socket == "" {
		return errors.New("cannot allocate tty if thinrun will detach without setting console socket")
	}
	if socket != "" && !(terminal && detach) {
		return errors.New("cannot use console socket if thinrun will not detach or allocate tty")
	}
	return nil
}

// unannounce takes back the pid file of a container that is not to be.
func unannounce(opt CreateOptions) error {
	if opt.PidFile == "" {
		return nil
	}
	return os.Remove(opt.PidFile)
}

// startStage forks the init stage into the command's namespaces and cgroup and lets it
// boot.
func startStage(kind string, cmd *nsenter.Command, p *plan.Plan, cg *cgroup.Cgroup) (conn, *nsenter.Child, error) {
	talk, socket, err := socketPair()
	if err != nil {
		return conn{}, nil, err
	}
	defer socket.Close()
	cmd.Socket, cmd.SocketFD = socket, 3+p.Init.Process.PreserveFDs
	cmd.Args, cmd.Env = []string{"thinrun", kind, strconv.Itoa(cmd.SocketFD)}, initEnv
	if cg != nil {
		var entry *cgroup.Entry
		if err = enoughPids(cg); err == nil {
			entry, err = cg.Entry()
		}
		if err != nil {
			talk.Close()
			return conn{}, nil, err
		}
		defer entry.Close()
		cmd.Cgroup, cmd.Tasks = entry.Dir, entry.Tasks
	}
	child, err := cmd.Start()
	if err != nil {
		talk.Close()
		return conn{}, nil, err
	}
	// What only its parent may do to the waiting child, then it goes.
	proc := &p.Init.Process
	err = errors.Join(proc.SetOOMScoreAdj(child.PID), proc.SetRlimits(child.PID))
	if err == nil {
		err = child.Release()
	}
	if errors.Is(err, unix.EPIPE) { // killed before it was let go
		err = whyEnded(child, errHangUp)
	}
	if err != nil {
		reap(child)
		talk.Close()
		return conn{}, nil, err
	}
	return talk, child, nil
}

// initEnv keeps the Go runtime of the init stage small: it lives for milliseconds, and
// in the container's memory limit.
var initEnv = []string{InitMark + "=1", "GOMAXPROCS=1", "GOGC=off"}

// InitMark in the environment, with "init" or "exec" as the first argument, makes our
// binary the init stage.
const InitMark = "_THINRUN_INIT"

// converse gives init its root and its plan and answers it until it is ready.
func (rt *Runtime) converse(ctx context.Context, talk conn, child *nsenter.Child, c *state.Container, rec *state.Record, p *plan.Plan, opt CreateOptions) error {
	files, err := rt.openFiles(c, rec, p, opt.image, child)
	defer closeAll(files)
	if err != nil {
		return err
	}
	var st []byte // what hooks read
	p.Init.AskHooks = len(p.Prestart)+len(p.CreateRuntime) > 0
	if p.Init.AskHooks || len(p.Init.CreateContainer)+len(p.Init.StartContainer) > 0 {
		if st, err = ociState(rec, state.Creating); err != nil {
			return err
		}
		p.Init.HookState = st
	}
	if err := talk.sendPlan(&p.Init, files); err != nil && !errors.Is(err, unix.EPIPE) {
		return err // EPIPE: init has said why, or Failure knows
	}
	return talk.converse(answers{
		mounted: func() error {
			if err := hooks.Run(ctx, "prestart", p.Prestart, st, rec.Bundle); err != nil {
				return err
			}
			return hooks.Run(ctx, "createRuntime", p.CreateRuntime, st, rec.Bundle)
		},
		console: func(master *os.File) error {
			if opt.ConsoleSocket != "" {
				return process.SendConsole(opt.ConsoleSocket, master)
			}
			return opt.console(master)
		},
		listener: func(fd int) error { return sendListener(p.Seccomp, rec, child, fd) },
	})
}

// openFiles opens what travels with the plan: root, gate, listening socket, sources.
func (rt *Runtime) openFiles(c *state.Container, rec *state.Record, p *plan.Plan, held *heldImage, child *nsenter.Child) (files []*os.File, err error) {
	root, err := rt.prepareRoot(c, rec, p.Storage, held)
	if err != nil {
		return nil, err
	}
	files = append(files, root)
	if p.Init.Rootfs.UserNS && p.Storage.Image != "" && os.Geteuid() == 0 {
		if err := rt.mapRoot(root, rec.Storage.Driver, child.PID); err != nil {
			return files, fmt.Errorf("image %q: %w", p.Storage.Image, err)
		}
	}
	gate, err := c.Gate()
	if err != nil {
		return files, err
	}
	files = append(files, gate)
	start, err := c.Listen()
	if err != nil {
		return files, err
	}
	files = append(files, start)
	for _, src := range p.Sources {
		path := src.Path
		if src.Cgroup != "" {
			path = rec.Cgroup.Paths[src.Cgroup]
		}
		f, err := rootfs.OpenSource(path, src.Recursive, src.NoFollow)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, mapSources(p.Init.Rootfs.Mounts, files[fileSources:], child)
}

// mapSources makes the trees of id-mapped mounts so, before anybody attaches them.
func mapSources(mounts []rootfs.Mount, files []*os.File, child *nsenter.Child) error {
	for i := range mounts {
		m := &mounts[i]
		if m.IDMap == nil || m.File < 0 {
			continue
		}
		var userns *os.File
		var err error
		if len(m.IDMap.UIDMappings)+len(m.IDMap.GIDMappings) > 0 {
			userns, err = rootfs.UserNamespace(m.IDMap.UIDMappings, m.IDMap.GIDMappings)
		} else { // the container's own
			userns, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", child.PID))
		}
		if err == nil {
			err = m.IDMap.Apply(files[m.File], userns)
			userns.Close()
		}
		if err != nil {
			return fmt.Errorf("mount %q: %w", m.Destination, err)
		}
	}
	return nil
}

// neededInEnv are the variables that a command reads, for nsenter.Reseal.
func neededInEnv(name string) bool {
	return strings.HasPrefix(name, "THINRUN_") || strings.HasPrefix(name, "LISTEN_") || name == "XDG_RUNTIME_DIR"
}

// announce tells the callers who waits for init: pid file and pidfd socket.
func announce(child *nsenter.Child, opt CreateOptions) error {
	if opt.PidfdSocket != "" {
		if err := process.SendConsole(opt.PidfdSocket, child.PidFD); err != nil {
			return fmt.Errorf("pidfd socket: %w", err)
		}
	}
	if opt.PidFile == "" {
		return nil
	}
	return writePidFile(opt.PidFile, child.PID)
}

// writePidFile writes the bare number, whole or not at all: shims read it the moment
// it is there. The file has no name until it is whole, so a kill leaves no other.
func writePidFile(path string, pid int) error {
	f, err := os.OpenFile(filepath.Dir(path), unix.O_TMPFILE|os.O_WRONLY, 0o666)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) {
		return renamePidFile(path, pid)
	}
	if err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	defer f.Close()
	_, err = f.WriteString(strconv.Itoa(pid))
	if err == nil {
		from := "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) // open(2), O_TMPFILE
		err = unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
		if errors.Is(err, unix.EEXIST) { // of a former container
			if err = os.Remove(path); err == nil {
				err = unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("pid file %s: %w", path, err)
	}
	return nil
}

// renamePidFile is for file systems without O_TMPFILE, such as NFS. What a kill leaves
// is the next one's temporary file.
func renamePidFile(path string, pid int) error {
	dir, name := filepath.Split(path)
	tmp := filepath.Join(dir, "."+name)
	err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o666)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("pid file: %w", err)
	}
	return nil
}

// configFile is the copy of config.json that exec and poststart use: edits after
// create must not matter (runtime-spec, lifecycle 2).
const configFile = "config.json"

func savedBundle(c *state.Container) (*bundle.Bundle, error) {
	raw, err := c.ReadFile(configFile)
	if err != nil {
		return nil, err
	}
	return bundle.Parse(raw)
}

// newRecord names everything that create is about to take.
func newRecord(p *plan.Plan, cg *cgroup.Cgroup) (*state.Record, error) {
	self, err := state.Self()
	if err != nil {
		return nil, err
	}
	rec := &state.Record{
		ID: p.ID, OCIVersion: p.OCIVersion, Phase: state.PhaseCreating, Bundle: p.Bundle,
		Rootfs: p.Init.Rootfs.AttachAt, Created: time.Now().UTC(), Owner: os.Geteuid(),
		Annotations: p.Annotations, Runtime: self, Namespaces: p.Namespaces.New.Names(),
		HasPoststart: len(p.Poststart) > 0,
	}
	if cg != nil {
		rec.Cgroup = state.Cgroup{Manager: cg.Manager(), Path: p.Cgroup.Path, Paths: cg.Paths()}
	}
	for _, h := range p.Poststop {
		rec.Poststop = append(rec.Poststop, state.Hook(h))
	}
	return rec, nil
}

func newCgroup(p *plan.Plan, host cgroup.Host) (*cgroup.Cgroup, error) {
	if p.Cgroup.Disabled {
		return nil, nil
	}
	return cgroup.New(p.Cgroup, host)
}

func kill(child *nsenter.Child) {
	unix.PidfdSendSignal(int(child.PidFD.Fd()), unix.SIGKILL, nil, 0)
}

// reap kills and collects a child that did not become a container.
func reap(child *nsenter.Child) {
	kill(child)
	for {
		if _, err := unix.Wait4(child.PID, nil, 0, nil); err != unix.EINTR {
			break
		}
	}
	child.Close()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
