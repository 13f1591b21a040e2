package libcontainer

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"

	"thinrun/libcontainer/state"
	"thinrun/nsenter"

	"golang.org/x/sys/unix"
)

// TestSignalOnTheWayToTheProgram: between init's last word and its execve a signal that ends
// the making kills init, and that is no end of the program by SIGKILL.
func TestSignalOnTheWayToTheProgram(t *testing.T) {
	for _, opened := range []bool{false, true} { // before the signal comes
		ctx, end := context.WithCancel(t.Context())
		c, gate := waiting(t)
		listener, err := c.state.Listen()
		if err != nil {
			t.Fatal(err)
		}
		go func() { // init, as far as start sees it
			fd, _, err := unix.Accept4(int(listener.Fd()), unix.SOCK_CLOEXEC)
			if err != nil {
				t.Error(err)
				return
			}
			_, err = unix.Read(fd, make([]byte, 1))
			if opened {
				gate.Close()
				end()
			} else {
				end()
				unix.Poll([]unix.PollFd{{Fd: int32(c.init.PidFD.Fd()), Events: unix.POLLIN}}, -1)
			}
			if _, e := unix.Write(fd, []byte{aboutToExec}); err != nil || e != nil {
				t.Error(err, e)
			}
			unix.Close(fd)
		}()
		err = new(Runtime).startCreated(ctx, c)
		if opened && err != nil || !opened && !errors.Is(err, errNotRun) {
			t.Errorf("opened %v: %v", opened, err)
		}
		if ended, _ := unix.Poll([]unix.PollFd{{Fd: int32(c.init.PidFD.Fd()), Events: unix.POLLIN}}, 0); ended == 1 == opened {
			t.Errorf("opened %v: init has ended: %v", opened, ended == 1)
		}
		listener.Close()
	}
}

// waiting is a container whose init is a sleep and whose gate the test holds.
func waiting(t *testing.T) (*created, *os.File) {
	t.Helper()
	store, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	c, err := store.Claim("web")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	gate, err := c.Gate()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "100000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	init := &nsenter.Child{PID: cmd.Process.Pid, PidFD: os.NewFile(uintptr(pidfd), "pidfd")}
	t.Cleanup(func() { init.PidFD.Close() })
	return &created{c, &state.Record{ID: "web"}, init}, gate
}
