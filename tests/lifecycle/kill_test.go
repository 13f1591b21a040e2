package lifecycle

import (
	"testing"

	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestKillSignals(t *testing.T) {
	rt := newRuntime(t)
	p := createPiped(t, rt, testbundle.New(t).Args("/signals").Self("signals"))
	rt.OK("start", p.id)
	if got := p.line(); got != "ready" {
		t.Fatal(got)
	}
	for _, x := range []struct{ word, want string }{
		{"1", "1"}, {"HUP", "1"}, {"SIGHUP", "1"}, {"hup", "1"}, {"sighup", "1"}, {"SigUsr1", "10"}, {"USR2", "12"},
		{"64", "64"}, {"RTMIN+1", "35"}, {"SIGRTMIN+3", "37"}, {"WINCH", "28"},
	} {
		rt.OK("kill", p.id, x.word)
		if got := p.line(); got != x.want {
			t.Errorf("kill %s: the program got %s, want %s", x.word, got, x.want)
		}
	}
	for _, word := range []string{"65", "-9", "NOSUCH", "", "SIGSIGHUP"} {
		if word != "" { // no signal named: SIGTERM
			rt.Fails(1, []string{"kill", p.id, word}, "signal")
		}
	}
	rt.OK("kill", p.id, "0") // is it there?
	rt.OK("kill", p.id)      // SIGTERM
	if got := p.line(); got != "15" {
		t.Errorf("kill: the program got %s", got)
	}
}

// Without a pid namespace nobody else ends a container's other processes.
func TestKillWithoutPidNamespace(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t).Without(specs.PIDNamespace).Shell("sleep 100000 & sleep 100000 & echo ready; wait")
	p := createPiped(t, rt, b)
	rt.OK("start", p.id)
	p.line()
	rt.OK("kill", p.id, "KILL")
	if rest, err := p.stdout.ReadString(0); rest != "" || err == nil { // nobody has the pipe
		t.Errorf("%q, %v", rest, err)
	}
	rt.Reap(p.pid)
	rt.OK("delete", p.id)

	// init ends by itself; the rest lives on, until kill --all as containerd does it
	p = createPiped(t, rt, testbundle.New(t).Without(specs.PIDNamespace).Shell("sleep 100000 & echo ready"))
	rt.OK("start", p.id)
	p.line()
	rt.Reap(p.pid)
	rt.Fails(1, []string{"kill", p.id, "9"}, "container not running")
	rt.OK("kill", "--all", p.id, "9")
	if rest, err := p.stdout.ReadString(0); rest != "" || err == nil {
		t.Errorf("%q, %v", rest, err)
	}
	rt.OK("delete", p.id)
}
