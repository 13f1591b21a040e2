package transfer

import (
	"context"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// TerminalSize is 0, 0 for what is not a terminal.
func TerminalSize(f *os.File) (columns, rows int) {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	if ws.Col == 0 || ws.Row == 0 { // a serial line does not know its size
		return 80, 24
	}
	return int(ws.Col), int(ws.Row)
}

// IsTerminal tells whether somebody would have to look at what is written to f.
func IsTerminal(f *os.File) bool {
	columns, _ := TerminalSize(f)
	return columns > 0
}

// Interruptible is a context that the first SIGINT, SIGTERM or SIGHUP ends, so that what is
// under way gives back what it has; the second kills as ever. Who ignores one (nohup, a
// shell's job in the background) goes on.
func Interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	came := make(chan os.Signal, 1)
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(sig) {
			signal.Notify(came, sig)
		}
	}
	go func() {
		select {
		case sig := <-came:
			signal.Stop(came)
			cancel(&Interrupted{sig.(unix.Signal)})
		case <-ctx.Done():
			signal.Stop(came)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// Interrupted is the cause of a context's end by a signal.
type Interrupted struct{ Signal unix.Signal }

func (i *Interrupted) Error() string { return "interrupted by " + unix.SignalName(i.Signal) }

// Die ends the process by the signal: a shell that runs a script stops at ^C only if what it
// waits for has died of it.
func (i *Interrupted) Die() {
	if os.Getpid() != 1 { // whom no signal of its own kills, and Go makes that exit code 2
		runtime.LockOSThread()
		signal.Reset(i.Signal)
		unix.Tgkill(os.Getpid(), unix.Gettid(), i.Signal)
	}
	os.Exit(128 + int(i.Signal))
}
