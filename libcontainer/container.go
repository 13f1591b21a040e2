// Package libcontainer is the life of a container: one file per verb, named as the
// command, and the conversation with the init stage. It is the only package that
// knows all the others; it makes them act in order and gives everything back by the
// record.
package libcontainer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"thinrun/libcontainer/cgroup"
	"thinrun/libcontainer/hooks"
	"thinrun/libcontainer/state"

	"golang.org/x/sys/unix"
)

// Runtime is what the global flags say.
type Runtime struct {
	Root          string // state directory
	Storage       string // images and the pool
	StorageDriver string // auto, devmapper, overlay
	SystemdCgroup bool
	CgroupManager string // "", cgroupfs, systemd, disabled
	Rootless      string // auto, true, false
	// Warn is told, once, what a person should know although the command goes on.
	Warn func(line string)
}

// teardownWait bounds every wait of a teardown.
const teardownWait = 10 * time.Second

// teardown gives back everything that the record names, and the record last. A failed
// create, delete, and delete after a kill -9 are this one function: every part of it
// is content to find nothing, and what it cannot remove it names.
func (rt *Runtime) teardown(c *state.Container, rec *state.Record) error {
	deadline := deadlineNow()
	// A process that waits for a disk that stands still cannot be killed.
	mark, err := c.LeftStill()
	if mark != nil && err == nil {
		err = rt.lift(mark, rec)
	}
	if err != nil {
		return err
	}
	// The processes first: they hold the root and the cgroup.
	if err := killAll(rec, deadline, (*cgroup.Cgroup).Destroy); err != nil {
		return err
	}
	if err := rt.removeStorage(rec); err != nil {
		return err
	}
	rt.poststop(rec)
	return c.Remove()
}

// killAll kills init and, by end, what else is in the container's cgroup, and waits for
// init's end. A cgroup that create did not make is somebody else's: it may only lose
// directories that are empty.
func killAll(rec *state.Record, deadline time.Time, end func(*cgroup.Cgroup, time.Time) error) error {
	init, err := rec.Init.Open()
	switch {
	case errors.Is(err, state.ErrGone):
	case err != nil:
		return err
	default:
		defer init.Close()
		if err := unix.PidfdSendSignal(int(init.Fd()), unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill init (pid %d): %w", rec.Init.PID, err)
		}
	}
	cg, err := openCgroup(rec)
	if err != nil {
		return err
	}
	if cg != nil && rec.Cgroup.Made {
		err = end(cg, deadline)
	} else if cg != nil {
		err = cg.Sweep()
	}
	if err != nil || init == nil {
		return err
	}
	return waitExit(init, deadline, rec.Init.PID)
}

// waitExit waits until the process ends; a pidfd becomes readable then.
func waitExit(pidfd *os.File, deadline time.Time, pid int) error {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 1:
			return nil
		default:
			return fmt.Errorf("init (pid %d) does not end although it was killed (see /proc/%d/stack)", pid, pid)
		}
	}
}

// openCgroup is the container's cgroup by its record; nil when it has none.
func openCgroup(rec *state.Record) (*cgroup.Cgroup, error) {
	return openCgroupOn(cgroup.Detect, rec)
}

// openCgroupOn is openCgroup for those who detect the host once for many containers.
func openCgroupOn(detect func() (cgroup.Host, error), rec *state.Record) (*cgroup.Cgroup, error) {
	if len(rec.Cgroup.Paths) == 0 {
		return nil, nil
	}
	host, err := detect()
	if err != nil {
		return nil, err
	}
	cg, err := cgroup.Open(rec.Cgroup.Manager, rec.Cgroup.Path, rec.Cgroup.Paths, host)
	if err == nil {
		cg.SetExisted(rec.Cgroup.Existed)
	}
	return cg, err
}

// poststop runs the hooks that the record kept. All else is given back by now; the
// record is not, so that hooks of a delete that is killed here run at the next one. A
// failure is told and changes nothing: runtime-spec, lifecycle 13.
func (rt *Runtime) poststop(rec *state.Record) {
	if len(rec.Poststop) == 0 {
		return
	}
	st, err := ociState(rec, state.Stopped)
	if err != nil {
		rt.Warn(err.Error())
		return
	}
	dir := rec.Bundle
	if _, err := os.Stat(dir); err != nil { // the bundle may be gone
		dir = "/"
	}
	for _, h := range rec.Poststop {
		if err := hooks.Run(context.Background(), "poststop", []hooks.Hook{hooks.Hook(h)}, st, dir); err != nil {
			rt.Warn(err.Error())
		}
	}
}
