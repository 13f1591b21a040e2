package proc

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStatBehindAHostileName(t *testing.T) {
	const rest = " S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 98"
	for _, name := range []string{"cat", "a b", ") S 1 1 (", "((", "x) R 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 1 ("} {
		if got, ok := parse([]byte("7 (" + name + ")" + rest)); got != (Stat{'S', 4711}) || !ok {
			t.Errorf("%q: %v, %v", name, got, ok)
		}
	}
	for _, bad := range []string{"", "7 (cat", "7 (cat)", "7 (cat) S 1", "7 (cat)" + strings.Replace(rest, "4711", "x", 1)} {
		if got, ok := parse([]byte(bad)); ok {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

func TestReadOfOneThatLivesAndOneThatDoesNot(t *testing.T) {
	if st, err := Read(os.Getpid()); err != nil || st.Start == 0 || st.State == 'Z' {
		t.Errorf("this process: %+v, %v", st, err)
	}
	if id, err := BootID(); err != nil || len(id) != 36 {
		t.Errorf("boot id %q, %v", id, err)
	}
	cmd := exec.Command("true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Ended, and not reaped before Wait.
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if st, err := Read(cmd.Process.Pid); err != nil || st.State != 'Z' {
		t.Errorf("zombie: %+v, %v", st, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if st, err := Read(cmd.Process.Pid); !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
		t.Errorf("reaped: %+v, %v", st, err)
	}
}
