package libcontainer

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/state"

	"golang.org/x/sys/unix"
)

// ErrNotRunning is what shims match to learn that there is nobody left to signal.
var ErrNotRunning = errors.New("container not running")

// Kill sends sig to init; with all, also when there is no init any more, to whatever is
// left in the cgroup.
func (rt *Runtime) Kill(id string, sig unix.Signal, all bool) error {
	store, err := state.Open(rt.Root)
	if err != nil {
		return err
	}
	defer store.Close()
	rec, err := store.Read(id)
	if errors.Is(err, state.ErrNoRecord) {
		return ErrNotRunning // a create that has not come to that, or was killed before
	}
	if err != nil {
		return err
	}
	if _, err := rt.goOn(store, id, false); err != nil {
		return err
	}
	init, err := rec.Init.Open()
	if errors.Is(err, state.ErrGone) {
		if !all {
			return ErrNotRunning
		}
		return signalCgroup(rec, sig)
	}
	if err != nil {
		return err
	}
	defer init.Close()
	if err := unix.PidfdSendSignal(int(init.Fd()), sig, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return ErrNotRunning
		}
		return fmt.Errorf("signal init (pid %d): %w", rec.Init.PID, err)
	}
	if sig != unix.SIGKILL {
		return nil
	}
	// Without a pid namespace of its own the death of init does not take the others along.
	if !slices.Contains(rec.Namespaces, "pid") {
		return signalCgroup(rec, sig)
	}
	// A frozen process does not die; runc and crun thaw too.
	cg, err := openCgroup(rec)
	if err != nil || cg == nil {
		return err
	}
	return cg.Thaw()
}

// StopSignal is what the container's image, or who ran it, wants its init to be told when
// nobody names a signal. A container that cannot be told has the usual one: Kill knows why.
func (rt *Runtime) StopSignal(id string) string {
	const usual = "SIGTERM"
	store, err := state.Open(rt.Root)
	if err != nil {
		return usual
	}
	defer store.Close()
	rec, err := store.Read(id)
	if err != nil || rec.Storage.Image == "" { // with a bundle kill is runc's
		return usual
	}
	if word := rec.Annotations[bundle.AnnotationStopSignal]; word != "" {
		return word
	}
	return usual
}

// signalCgroup leaves a cgroup alone that create did not get: in it lives somebody else.
func signalCgroup(rec *state.Record, sig unix.Signal) error {
	if !rec.Cgroup.Made {
		return nil
	}
	cg, err := openCgroup(rec)
	if err != nil || cg == nil {
		return err
	}
	if sig == unix.SIGKILL {
		return cg.Kill()
	}
	return cg.Signal(sig)
}

// ParseSignal takes a number, NAME or SIGNAME in any case, and crun's RTMIN+n.
func ParseSignal(word string) (unix.Signal, error) {
	if n, err := strconv.Atoi(word); err == nil {
		if n < 0 || n > 64 { // 0 asks whether init is there; kill(2)
			return 0, fmt.Errorf("signal %d is not between 0 and 64", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(word), "SIG")
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok { // as glibc counts: 34 is the first
		n := 0
		if rest != "" {
			var err error
			if n, err = strconv.Atoi(strings.TrimPrefix(rest, "+")); err != nil || n < 0 || n > 30 {
				return 0, fmt.Errorf("unknown signal %q", word)
			}
		}
		return unix.Signal(34 + n), nil
	}
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	return 0, fmt.Errorf("unknown signal %q", word)
}
