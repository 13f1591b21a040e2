package lifecycle

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/tests/testbundle"
)

// TestRunThatWaitsHoldsNoImages: once its record names the image, a run that waits for
// somebody else, here for one who takes no pidfd, keeps nobody from changing images, and so
// no other start that comes behind that one.
func TestRunThatWaitsHoldsNoImages(t *testing.T) {
	rt := withImage(t)
	path, id := t.TempDir()+"/full", rt.ID()
	full, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	check(t, unix.Bind(full, &unix.SockaddrUnix{Name: path}))
	check(t, unix.Listen(full, 0))
	guest, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(guest)
	check(t, unix.Connect(guest, &unix.SockaddrUnix{Name: path})) // with one in it, it is full

	waits := rt.Command("run", "-d", "--image", "base", "--pidfd-socket", path, id, "sleep", "100000")
	rt.Start(waits)
	for !strings.Contains(rt.Run("state", id).Stdout, `"created"`) {
	}
	for _, args := range [][]string{{"image", "tag", "base", "second"}, {"run", "--image", "second", rt.ID(), "true"}} {
		cmd := rt.Command(args...)
		rt.Start(cmd)
		over := make(chan testbundle.Result, 1)
		go func() { over <- rt.Wait(cmd) }()
		select {
		case r := <-over:
			if r.Code != 0 {
				t.Error(r)
			}
		case <-time.After(time.Minute):
			t.Errorf("%q waits for a run that waits", args)
			_ = cmd.Process.Kill()
			<-over
		}
	}
	check(t, unix.Close(full)) // and so its connect fails
	if r := rt.Wait(waits); r.Code == 0 || !strings.Contains(r.Stderr, "pidfd socket") {
		t.Error(r)
	}
	rt.OK("image", "rm", "second", "base")
}
