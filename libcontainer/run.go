package libcontainer

import (
	"context"
	"errors"
	"fmt"
	"os"

	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/process"
	"thinrun/libcontainer/state"
	"thinrun/nsenter"

	"golang.org/x/sys/unix"
)

// RunOptions are the flags of run.
type RunOptions struct {
	CreateOptions
	Detach, Keep, NoSubreaper bool
	ImageOptions              *bundle.ImageOptions // run --image without a bundle
}

// Run is create, start, wait and delete in one process. The code is the program's exit
// status, or 128 + the signal that ended it.
func (rt *Runtime) Run(id string, opt RunOptions) (code int, err error) {
	release := func() {}
	if opt.ImageOptions != nil {
		if release, err = rt.imageBundle(id, &opt); err != nil {
			return 0, err
		}
	}
	if !opt.NoSubreaper && !opt.Detach {
		// Whatever the container's processes leave behind is then ours to reap, not
		// something that our caller has never heard of.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return 0, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
		}
	}
	fg := newForeground(opt.Detach)
	defer fg.Close()
	opt.console = fg.console
	opt.detach, opt.ephemeral = opt.Detach, !opt.Detach && !opt.Keep
	ctx, begun := fg.untilTold()
	c, err := rt.create(ctx, id, opt.CreateOptions)
	release() // its record names the layer now, or it is gone
	if err != nil {
		return 0, told(ctx, err)
	}
	defer c.Close()
	if err := rt.startCreated(ctx, c); err != nil {
		return 0, told(ctx, errors.Join(err, rt.teardown(c.state, c.rec), unannounce(opt.CreateOptions)))
	}
	begun()
	if opt.Detach {
		return 0, nil
	}
	// The lock must not be held while the program runs: exec, kill and delete want it.
	if err := c.state.Close(); err != nil {
		return 0, err
	}
	enough := rt.watchPool(c.rec)
	code, err = fg.wait(c.init)
	enough()
	if opt.Keep || err != nil {
		return code, err
	}
	if err := rt.deleteOurs(c.rec); err != nil {
		if code == 0 {
			return 0, err
		}
		rt.Warn(err.Error()) // the program's own status says more
	}
	return code, nil
}

// deleteOurs deletes the container of rec, and no other: while it ran, somebody may have
// deleted it and made a new one of that id.
func (rt *Runtime) deleteOurs(rec *state.Record) error {
	store, err := state.Open(rt.Root)
	if err != nil {
		return err
	}
	defer store.Close()
	c, err := store.Lock(rec.ID)
	if errors.Is(err, state.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	now, err := c.Load()
	if err == nil && now.Init != rec.Init {
		return nil
	}
	return rt.delete(store, c, true) // which knows what to do without a record
}

// startCreated opens the gate of a container whose lock we hold. A program that runs when
// ctx ends gets the signal as any later one, even if we have not heard yet that it runs. One
// that was only about to has not run: its end by our hand is nothing that it did.
func (rt *Runtime) startCreated(ctx context.Context, c *created) error {
	killed := make(chan bool, 1)
	inTime := context.AfterFunc(ctx, func() {
		waits, err := c.state.GateHeld()
		waits = waits && err == nil
		if waits {
			kill(c.init)
		}
		killed <- waits
	})
	err := openGate(c.state, c.rec)
	if !inTime() && <-killed && err == nil {
		err = errNotRun
	}
	if err != nil {
		return err
	}
	return rt.poststart(ctx, c.state, c.rec)
}

// told says that err is what comes of a signal.
func told(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}

// foreground is a run or exec that waits for its program: terminal, signals, exit code.
type foreground struct {
	terminal *process.Terminal
	signals  *process.Signals // nil when detached
}

// newForeground catches signals from now on: one that comes while the container is made
// reaches its program when there is one, if it does not end the making.
func newForeground(detached bool) *foreground {
	fg := new(foreground)
	if !detached {
		fg.signals = process.CatchSignals()
	}
	return fg
}

// untilTold ends when a signal asks us to end while there is no program yet that it could
// be passed on to: a hook, or an agent, may keep us for minutes. begun: there is one.
func (fg *foreground) untilTold() (ctx context.Context, begun func()) {
	if fg.signals == nil { // detached: then it ends us
		return context.Background(), func() {}
	}
	return fg.signals.Told()
}

// console takes the master of the program's terminal.
func (fg *foreground) console(master *os.File) (err error) {
	fg.terminal, err = process.NewTerminal(master)
	return err
}

// Close gives the caller's terminal back as it was. The signals stay caught: the process
// ends with the command, one more signal must not cut a delete short, and giving back 59
// of them costs a thread switch or two each, 0.9 ms.
func (fg *foreground) Close() {
	if fg.terminal != nil {
		fg.terminal.Close()
	}
}

// wait passes signals on until the program ends.
func (fg *foreground) wait(child *nsenter.Child) (int, error) {
	fg.signals.Forward(child.PidFD, fg.terminal)
	status, err := reapUntil(child.PID)
	if err != nil {
		return 0, err
	}
	if fg.terminal != nil {
		fg.terminal.Drain()
	}
	return process.ExitCode(status), nil
}

// reapUntil collects our children, adopted ones too, until pid has ended.
func reapUntil(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case got == pid:
			return status, nil
		}
	}
}
