package process

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// Signals are the ones sent to a foreground run or exec, on their way to its process.
type Signals struct {
	caught chan os.Signal
	ending []os.Signal // those that ask us to end
}

// CatchSignals holds on to signals from now on, so that none gets lost between the
// start of the process and Forward.
func CatchSignals() *Signals {
	s := &Signals{caught: make(chan os.Signal, 128)}
	for _, sig := range [...]os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		if !signal.Ignored(sig) { // SIGHUP under nohup(1), SIGINT behind a script's &; Go asks of no other
			s.ending = append(s.ending, sig)
		}
	}
	var list []os.Signal
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		switch sig {
		case unix.SIGCHLD, // about our children
			unix.SIGURG,                // Go's own, for preemption
			unix.SIGPIPE,               // about our own output
			unix.SIGTTIN, unix.SIGTTOU: // about the caller's terminal: we stop, as a job should
			continue
		}
		list = append(list, sig)
	}
	signal.Notify(s.caught, list...)
	return s
}

// Told is a context that ends, with the signal's name as its cause, when we are asked to
// end; until forget.
func (s *Signals) Told() (ctx context.Context, forget func()) {
	ctx, end := context.WithCancelCause(context.Background())
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, s.ending...)
	go func() {
		if sig, ok := <-asked; ok {
			end(fmt.Errorf("ended by %s", unix.SignalName(sig.(syscall.Signal))))
		}
	}()
	return ctx, func() {
		signal.Stop(asked)
		close(asked)
	}
}

// Forward passes the signals to process, a pidfd, until our own end. A new window size goes
// to the terminal instead, if there is one.
func (s *Signals) Forward(process *os.File, terminal *Terminal) {
	go func() {
		for sig := range s.caught {
			s.pass(sig.(syscall.Signal), process, terminal)
		}
	}()
}

// pass has nobody to tell of a failure: the process is gone then, which its waiter sees.
func (s *Signals) pass(sig syscall.Signal, process *os.File, terminal *Terminal) {
	if sig != unix.SIGWINCH {
		_ = unix.PidfdSendSignal(int(process.Fd()), sig, nil, 0)
		return
	}
	if terminal != nil {
		_ = terminal.Resize()
	}
}

// ExitCode is the status a shell would show: the process's own, or 128 and the signal
// that ended it.
func ExitCode(status unix.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
