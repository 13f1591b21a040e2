package crash

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (p *place) init(id string) int {
	p.t.Helper()
	p.OK("state", id)
	var state struct{ PID int }
	if err := json.Unmarshal([]byte(p.Said()), &state); err != nil || state.PID == 0 {
		p.t.Fatalf("%v in %s", err, p.Said())
	}
	return state.PID
}

// foreground runs a container until its program has said that it is up.
func (p *place) foreground(id string) *os.Process {
	p.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { r.Close() })
	args := p.rt.Argv("run", "--bundle", p.speaks, id)
	run, err := os.StartProcess(args[0], args, &os.ProcAttr{Files: []*os.File{nil, w, w}})
	w.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "up\n" {
		p.t.Fatalf("%v, %q", err, line)
	}
	return run
}

// TestNothingStaysWhenAllDie: the kernel itself takes mounts and devices down when init
// and every thinrun are gone. The host's mount table never shows that there was anything.
func TestNothingStaysWhenAllDie(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		table := func() []byte {
			b, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		before := table()
		devices := p.devices()

		p.OK("create", "--bundle", p.sleeps, "created")
		p.OK("create", "--bundle", p.sleeps, "started")
		p.OK("start", "started")
		run := p.foreground("run") // its thinrun stays, and is killed as well

		if !bytes.Equal(table(), before) {
			t.Errorf("the mount table has changed:\n%s\nwas\n%s", table(), before)
		}
		if p.pool != nil && len(p.devices()) != len(devices)+3 {
			t.Errorf("three containers have devices %q, there were %q before", p.devices(), devices)
		}
		victims := []*os.Process{run}
		for _, id := range []string{"created", "started", "run"} {
			init, err := os.FindProcess(p.init(id)) // holds a pidfd
			if err != nil {
				t.Fatal(err)
			}
			victims = append(victims, init)
		}
		for _, v := range victims {
			if err := v.Kill(); err != nil {
				t.Fatal(err)
			}
		}
		for _, v := range victims { // all are our children by now
			if _, err := v.Wait(); err != nil {
				t.Fatal(err)
			}
		}
		for deadline := time.Now().Add(patience); len(p.devices()) > len(devices); {
			if time.Now().After(deadline) {
				t.Errorf("after %v there are devices %q, there were %q", patience, p.devices(), devices)
				break
			}
			unix.Poll(nil, 5) // the kernel tells nobody
		}
		if !bytes.Equal(table(), before) {
			t.Errorf("the mount table has changed:\n%s\nwas\n%s", table(), before)
		}
		for _, id := range []string{"created", "started", "run"} {
			p.OK("delete", id) // no force: they are dead
		}
		p.clean("all dead")
		if !bytes.Equal(table(), before) {
			t.Errorf("the mount table has changed:\n%s\nwas\n%s", table(), before)
		}
	})
}

// TestGCTakesWhatAKilledRunLeft: a foreground run deletes its container at the end. When
// it is killed, gc does that, and not before the program has ended.
func TestGCTakesWhatAKilledRunLeft(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		run := p.foreground("run")
		init, err := os.FindProcess(p.init("run"))
		if err != nil {
			t.Fatal(err)
		}
		end := func(victim *os.Process) {
			t.Helper()
			if err := victim.Kill(); err != nil {
				t.Fatal(err)
			}
			if _, err := victim.Wait(); err != nil {
				t.Fatal(err)
			}
		}
		end(run)
		p.OK("gc")
		p.OK("state", "run") // its program still runs
		end(init)
		p.OK("gc")
		p.clean("gc")
		if !p.Refused("state", "run") {
			t.Error("the container is still there")
		}
	})
}

func (p *place) devices() (list []string) {
	for _, line := range p.rt.Snapshot() {
		if strings.HasPrefix(line, "dm ") {
			list = append(list, line)
		}
	}
	return list
}
