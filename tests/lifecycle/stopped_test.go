package lifecycle

import (
	"testing"
	"time"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"

	"golang.org/x/sys/unix"
)

// TestStoppedCommitGoesOn: a commit that is stopped while it holds the container still, by
// ^Z say, would hold it for as long as nobody continues it.
func TestStoppedCommitGoesOn(t *testing.T) {
	box.NativeOnly(t, "on dm-thin the moment is that of one ioctl")
	rt := withImage(t)
	id := rt.ID()
	rt.OK("run", "-d", "--image", "base", id, "sleep", "100000")
	rt.OK("exec", id, "sh", "-c", "dd if=/dev/urandom of=/a bs=1024k count=200 2>/dev/null; i=0; while [ $i -lt 500 ]; do echo x > /f$i; i=$((i+1)); done")
	caught := false
	for round := 0; round < 20 && !caught; round++ {
		cmd := rt.Command("image", "commit", id, "whole")
		rt.Start(cmd)
		over := make(chan testbundle.Result, 1)
		go func() { over <- rt.Wait(cmd) }()
		for len(over) == 0 && status(t, rt, id) != "paused" {
		}
		_ = cmd.Process.Signal(unix.SIGSTOP)
		if caught = len(over) == 0 && status(t, rt, id) == "paused"; !caught {
			_ = cmd.Process.Signal(unix.SIGCONT) // it had let the container go before it was stopped
		}
		select {
		case r := <-over:
			if r.Code != 0 {
				t.Fatalf("round %d: %v", round, r)
			}
		case <-time.After(time.Minute):
			t.Errorf("round %d: it is stopped, and the container %s", round, status(t, rt, id))
			_ = cmd.Process.Kill()
			<-over
		}
	}
	if !caught {
		t.Error("in no round was it stopped while the container stood still: nothing was tested")
	}
	if got := status(t, rt, id); got != "running" {
		t.Errorf("the container is %s", got)
	}
	rt.OK("delete", "--force", id)
	rt.OK("image", "rm", "whole", "base")
}
