package transfer

import (
	"context"
	"os"
	"os/signal"

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

// Interruptible is a context that the first SIGINT or SIGTERM ends, so that what is under
// way gives back what it has; the second kills as ever.
func Interruptible(parent context.Context) (ctx context.Context, stop func()) {
	ctx, stop = signal.NotifyContext(parent, os.Interrupt, unix.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
