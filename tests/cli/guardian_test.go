package cli

import (
	"io"
	"os"
	"os/exec"
	"testing"

	"thinrun/libcontainer"

	"golang.org/x/sys/unix"
)

// TestGuardianOutlivesItsUnit: systemctl stop and an ending job send SIGTERM to each
// process of theirs. What resumes a container after its killed commit is not to die first.
func TestGuardianOutlivesItsUnit(t *testing.T) {
	th := newThinrun(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer ours.Close()
	cmd := exec.Command(th.binary)
	cmd.Args = []string{"thinrun", "guardian", th.root, th.storage, "container", "none"}
	cmd.Env = []string{libcontainer.InitMark + "=1"}
	cmd.ExtraFiles = []*os.File{theirs}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	if _, err := io.ReadFull(ours, b[:]); err != nil {
		t.Fatalf("it does not say that it is there: %v", err)
	}
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGINT} {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ours.Write([]byte{1}); err != nil { // all is well
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the guardian: %v", err)
	}
}
