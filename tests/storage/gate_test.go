package storage

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestWhoWaitsAtItsGate: an init that has the socket of its start, and no other.
func TestWhoWaitsAtItsGate(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "start"))
	check(t, err)
	defer listener.Close()
	gate, err := listener.(*net.UnixListener).File()
	check(t, err)
	defer gate.Close()
	conn, err := net.Dial("unix", listener.Addr().String())
	check(t, err)
	defer conn.Close()
	talk, err := conn.(*net.UnixConn).File()
	check(t, err)
	defer talk.Close()
	for _, x := range []struct {
		name  string
		files []*os.File
		want  bool
	}{
		{"at its gate", []*os.File{gate}, true},
		{"before the commit", []*os.File{gate, talk}, false},
		{"told to start", []*os.File{talk}, false},
		{"the program", nil, false},
	} {
		init := exec.Command("sleep", "1000")
		init.ExtraFiles = x.files
		check(t, init.Start())
		if got := waits(init.Process.Pid); got != x.want {
			t.Errorf("%s: it waits: %v", x.name, got)
		}
		check(t, init.Process.Kill())
		_ = init.Wait()
	}
}
