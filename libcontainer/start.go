package libcontainer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"thinrun/libcontainer/cgroup"
	"thinrun/libcontainer/hooks"
	"thinrun/libcontainer/plan"
	"thinrun/libcontainer/state"

	"golang.org/x/sys/unix"
)

// Start lets a created container's program run. It returns when the program has been
// executed, or with init's reason why not.
func (rt *Runtime) Start(id string) error {
	store, err := state.Open(rt.Root)
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := rt.goOn(store, id, true); err != nil { // a commit is over in a moment
		return err
	}
	c, err := store.Lock(id)
	if err != nil {
		return err
	}
	defer c.Close()
	rec, err := c.Load()
	if err != nil {
		return err
	}
	status, err := statusOf(store, rec)
	if err != nil {
		return err
	}
	switch status {
	case state.Created:
	case state.Running:
		return errors.New("cannot start an already running container")
	case state.Stopped:
		return errors.New("cannot start a container that has stopped")
	default:
		return fmt.Errorf("cannot start a container in the %s state", status)
	}
	if err := openGate(c, rec); err != nil {
		return errors.Join(err, initEnd(rec))
	}
	return rt.poststart(context.Background(), c, rec)
}

// initEnd waits for an init that has said why it cannot go on: who hears of it may
// delete the container at once, and must not find it running.
func initEnd(rec *state.Record) error {
	init, err := rec.Init.Open()
	if errors.Is(err, state.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer init.Close()
	return waitExit(init, deadlineNow(), rec.Init.PID)
}

// openGate says start and waits for the answer. Init writes one byte when nothing is left
// but the execve, which then closes the connection; anything else is the text of an error,
// and no answer at all means that init was killed before: by a user, or for a limit that
// has room for a waiting init and none for one that sets out.
func openGate(c *state.Container, rec *state.Record) error {
	answer, err := askToStart(c)
	killed := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
	if err != nil && !killed {
		return err
	}
	text, about := bytes.CutPrefix(answer, []byte{aboutToExec})
	switch {
	case len(text) > 0:
		return errors.New(string(text))
	case !about:
		if rec.Cgroup.Existed { // see create
			return errNotRun
		}
		cg, err := openCgroup(rec)
		return errors.Join(starved(cg, limitsHit{}, errNotRun), err)
	}
	return nil
}

var errNotRun = errors.New("init was killed before it could run the program")

// askToStart is what init says until it hangs up.
func askToStart(c *state.Container) (answer []byte, err error) {
	conn, err := c.Dial()
	if err != nil {
		return nil, fmt.Errorf("init is not waiting: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{1}); err != nil {
		return nil, fmt.Errorf("tell init to start: %w", err)
	}
	if answer, err = io.ReadAll(conn); err != nil {
		return answer, fmt.Errorf("wait for init to start: %w", err)
	}
	return answer, nil
}

// aboutToExec is init's byte on the start connection.
const aboutToExec = 0

// poststart runs the hooks that need the program running. Since runtime-spec 1.3 a
// failing one fails start, and the container is killed.
func (rt *Runtime) poststart(ctx context.Context, c *state.Container, rec *state.Record) error {
	if !rec.HasPoststart {
		return nil
	}
	b, err := savedBundle(c)
	if err != nil {
		return err
	}
	st, err := ociState(rec, state.Running)
	if err != nil {
		return err
	}
	if err := hooks.Run(ctx, "poststart", plan.Hooks(b.Spec.Hooks.Poststart), st, rec.Bundle); err != nil {
		return errors.Join(err, killAll(rec, deadlineNow(), func(cg *cgroup.Cgroup, _ time.Time) error { return cg.Kill() }))
	}
	return nil
}
