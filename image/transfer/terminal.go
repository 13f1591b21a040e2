package transfer

import (
	"os"

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
