package devmapper

import (
	"os"
	"os/exec"
	"strconv"
	"testing"
)

// What cannot be known of a maker must not make its claim last for ever.
func TestClaimsMakerIsAliveOnlyIfItIsTheSame(t *testing.T) {
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	self, start := strconv.Itoa(os.Getpid()), strconv.FormatUint(startTime(os.Getpid()), 10)
	for name, test := range map[string]struct {
		boot, pid, start string
		want             bool
	}{
		"this process":               {bootID(), self, start, true},
		"an earlier one of its pid":  {bootID(), self, "1", false},
		"of another boot":            {"another", self, start, false},
		"dead":                       {bootID(), strconv.Itoa(dead.Process.Pid), start, false},
		"dead, start time not known": {bootID(), strconv.Itoa(dead.Process.Pid), "0", false},
		"not known":                  {bootID(), "0", "0", false},
	} {
		if got := alive(record{"boot": test.boot, "pid": test.pid, "start": test.start}); got != test.want {
			t.Errorf("%s: alive: %v", name, got)
		}
	}
}
