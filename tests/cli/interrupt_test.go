package cli

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/tests/box"
)

// TestInterruptedImportDiesOfTheSignal, after it has given back its half layer: the shell of
// a script goes on at ^C if what it waits for only fails. A signal that is ignored does nothing.
func TestInterruptedImportDiesOfTheSignal(t *testing.T) {
	box.Require(t)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	const size = 8 << 20
	for _, err := range []error{
		w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Size: size, Mode: 0o644}), errOf(w.Write(make([]byte, size))), w.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		signal         unix.Signal
		ignored, first bool // first: of a pid namespace, where nobody dies of a signal of its own
	}{
		{unix.SIGINT, false, false}, {unix.SIGTERM, false, false}, {unix.SIGHUP, false, false},
		{unix.SIGHUP, true, false}, {unix.SIGINT, true, false}, {unix.SIGTERM, false, true},
	} {
		name := unix.SignalName(row.signal)
		if row.ignored {
			name += " ignored"
		}
		if row.first {
			name += " as pid 1"
		}
		t.Run(name, func(t *testing.T) {
			th := newThinrun(t)
			trap := ""
			if row.ignored {
				trap = "trap '' INT HUP; "
			}
			cmd := exec.Command("/bin/sh", "-c", trap+`exec "$@"`, "sh", th.binary, "--root", th.root, "--storage", th.storage, "--storage-driver", "overlay", "image", "import", "-q", "x", "-")
			if row.first {
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
			}
			var errs strings.Builder
			cmd.Stderr = &errs
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			half := archive.Len() / 2 // more than fits into a pipe: it is at work
			if _, err := stdin.Write(archive.Bytes()[:half]); err != nil {
				t.Error(err)
			}
			if err := cmd.Process.Signal(row.signal); err != nil {
				t.Error(err)
			}
			if row.ignored {
				if _, err := io.Copy(stdin, bytes.NewReader(archive.Bytes()[half:])); err != nil {
					t.Error(err)
				}
				stdin.Close()
			}
			cmd.Wait()
			stdin.Close()
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			died := status.Signal() == row.signal
			if row.first {
				died = status.ExitStatus() == 128+int(row.signal)
			}
			switch {
			case row.ignored && (!cmd.ProcessState.Success() || errs.String() != ""):
				t.Errorf("%v: %q", cmd.ProcessState, errs.String())
			case !row.ignored && (!died || errs.String() != `thinrun: image import "x": interrupted by `+unix.SignalName(row.signal)+"\n"):
				t.Errorf("%v: %q", cmd.ProcessState, errs.String())
			}
			layers, err := os.ReadDir(filepath.Join(th.storage, "overlay/layers"))
			if want := map[bool]int{true: 1}[row.ignored]; err != nil || len(layers) != want {
				t.Errorf("layers %v, %v; want %d", layers, err, want)
			}
		})
	}
}

func errOf(_ int, err error) error { return err }
