package power

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/tests/box"

	"golang.org/x/sys/unix"
)

// TestMachineKilled is the lesser accident: the machine is killed and loses its memory,
// but the disk keeps all that it was sent. One host lives through all of them.
func TestMachineKilled(t *testing.T) {
	box.NativeOnly(t, "no machine inside the machine")
	box.Require(t)
	h := newHost(t, job{Seed: *seed, Workers: 3, Rounds: 1000})
	disk := h.disk("killed", diskSize)
	h.job.Marks = filepath.Join(h.dir, "marks", "file")
	h.check(os.Mkdir(filepath.Dir(h.job.Marks), 0o755))
	rnd := rand.New(rand.NewPCG(*seed, 4))
	for i := range *kills {
		h.job.Seed = *seed + uint64(i) // another load each time
		marks := h.kill(disk, 2+rnd.IntN(10))
		names, under, err := promises(h.job.State, marks)
		h.check(err)
		images, ok := h.look(fmt.Sprintf("-seed %d, kill %d after %d marks, under way %q", *seed, i, len(marks), under), names, rnd.Uint64(), disk)
		if !ok {
			return // the next one would start from we know not what
		}
		h.job.State, h.job.Used = images, true
	}
}

// kill runs the load until it has reported so many commands, and then kills the machine.
func (h *host) kill(disk string, after int) (marks []string) {
	h.t.Helper()
	h.check(os.WriteFile(h.job.Marks, nil, 0o644))
	cmd := h.machine("load", h.job, disk)
	var errw bytes.Buffer
	cmd.Stderr = &errw
	out, err := cmd.StdoutPipe()
	h.check(err)
	h.check(cmd.Start())
	lines := bufio.NewScanner(out)
	for ; after > 0 && lines.Scan(); after-- {
	}
	if after > 0 {
		_ = cmd.Wait()
		h.t.Fatalf("the load ended before it was killed: %s", errw.Bytes())
	}
	// Labexec answers to this by a SIGKILL for the machine, and ends after it.
	h.check(cmd.Process.Signal(unix.SIGTERM))
	for lines.Scan() {
	}
	_ = cmd.Wait() // it says that it was killed
	b, err := os.ReadFile(h.job.Marks)
	h.check(err)
	text, _, _ := cutLast(string(b)) // a half word is of a mark that nobody has waited for
	return strings.Split(text, "\n")
}

// cutLast cuts at the last end of a line.
func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '\n')
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}
