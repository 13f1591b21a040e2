package step

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestKilledTreeHasEnded: whoever looks next finds none of them half dead.
func TestKilledTreeHasEnded(t *testing.T) {
	for round := range 20 {
		var child int
		start := func(attr *syscall.SysProcAttr) *os.Process {
			cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
			cmd.SysProcAttr = attr
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err == nil {
				_, err = fmt.Fscan(bufio.NewReader(out), &child)
			}
			if err != nil {
				t.Fatal(err)
			}
			return cmd.Process
		}
		if status := After(t, 0, true, start); !status.Signaled() {
			t.Fatalf("round %d: it ended with %v", round, status)
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Fatalf("round %d: its child is there: %s", round, stat)
		}
	}
}
