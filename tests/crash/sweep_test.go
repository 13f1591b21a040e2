package crash

import (
	"fmt"
	"math"
	"testing"
	"time"

	"thinrun/tests/box"
	"thinrun/tests/crash/step"
)

// points is how often each command is killed on each driver, at least.
const points = 150

// command is one that is killed.
type command struct {
	name   string
	before func(i int) // makes what the command works on
	args   func(i int) []string

	duration time.Duration
	steps    int  // kills before a system call, until
	stepped  bool // the command has no more of them
	stride   int  // calls from one such kill to the next
	misses   int  // in a row
	times    int  // kills after a time
	late     int  // of these, those that came when the command had ended
}

// done: enough kills, and enough of them while the children run at another pace than
// the stepper's.
func (c *command) done(points int) bool {
	return c.stepped && c.steps+c.times-c.late >= points && c.times-c.late >= points/5
}

// TestKilledAnywhere kills create, run and delete before each system call of theirs that
// changes something, then at times spread over their duration; alternately the runtime
// alone and all that it has started. Then one delete --force must give everything back,
// and the id must be good for the next container: the commands take turns on one id, and
// delete needs a container that was created and, every other time, started.
//
// runc 1.1 and 1.5 and crun 1.8 leave something in 23 to 31 % of such kills.
func TestKilledAnywhere(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		n, steps := points, points
		if box.InLab() {
			steps = 20 // a traced call costs a millisecond there, and a command makes 1,500
			if p.driver != "devmapper" {
				n, steps = 6, 2 // the others have it all on this kernel
			}
		}
		p.sweep(n, steps)
	})
}

// sweep kills each command at that many points, of which at most about steps are before a
// system call.
func (p *place) sweep(points, steps int) {
	const id = "crash"
	pidFile := p.sleeps + "/pid"
	commands := []*command{
		{name: "create", args: func(int) []string {
			return []string{"create", "--bundle", p.sleeps, "--pid-file", pidFile, id}
		}},
		{name: "delete", before: func(i int) {
			p.OK("create", "--bundle", p.sleeps, "--pid-file", pidFile, id)
			if i%4 < 2 {
				p.OK("start", id)
			}
		}, args: func(i int) []string {
			if i%4 < 2 {
				return []string{"delete", "--force", id}
			}
			return []string{"delete", id} // a created one needs no force
		}},
		{name: "run", args: func(int) []string { return []string{"run", "--bundle", p.ends, id} }},
	}
	for _, c := range commands {
		for range 3 {
			if c.before != nil {
				c.before(0)
			}
			took := p.Took(c.args(0)...)
			if c.duration == 0 || took < c.duration {
				c.duration = took
			}
			p.OK("delete", "--force", id)
		}
		if c.before != nil {
			c.before(0)
		}
		calls, _ := step.Before(p.t, step.Never, false, p.Starter(c.args(0)...))
		c.stride = max(1, len(calls)/steps)
		p.OK("delete", "--force", id)
	}
	p.base, p.files = p.rt.Snapshot(), p.listing() // with the pid file, which is the caller's
	if !p.clean("not killed") {
		return
	}
	failures := 0
	for i := 0; ; i++ {
		busy := false
		for _, c := range commands {
			if c.done(points) {
				continue
			}
			busy = true
			if c.before != nil {
				c.before(i)
			}
			what := p.kill(c, i, points)
			if code := p.Run("delete", "--force", id); code != 0 {
				p.t.Errorf("%s: delete --force: exit code %d: %s", what, code, p.Said())
				p.Run("delete", "--force", id)
				failures++
			}
			if !p.clean(what) {
				failures++
				p.base, p.files = p.rt.Snapshot(), p.listing()
			}
			if failures >= 5 {
				p.t.Fatal("and so on; given up")
			}
		}
		if !busy {
			break
		}
	}
	p.life(id)
	p.clean("at last")
	for _, c := range commands {
		p.t.Logf("%s: %d kills before a system call, %d after a time up to %v, and %d that came too late", c.name, c.steps, c.times-c.late, c.duration, c.late)
	}
}

// kill runs a command and kills it somewhere. It returns where.
func (p *place) kill(c *command, i, points int) string {
	p.t.Helper()
	tree := i%2 == 1
	victim := "the runtime"
	if tree {
		victim = "the tree"
	}
	if !c.stepped {
		n := 1 + c.steps*c.stride
		calls, hit := step.Before(p.t, n, tree, p.Starter(c.args(i)...))
		if hit {
			c.steps++
			c.misses = 0
			return fmt.Sprintf("%s, %s killed before call %d (%v)", c.name, victim, n, calls[n-1])
		}
		// Go's threads make a few calls more or less, and a created container is easier to
		// delete than a started one.
		c.misses++
		c.stepped = c.misses == 4
		return c.name + ", traced and not killed"
	}
	// Multiples of the golden ratio, less their whole part, are spread evenly however many
	// there are.
	c.times++
	_, part := math.Modf(float64(c.times) * math.Phi)
	after := time.Duration(part * float64(c.duration))
	if !step.After(p.t, after, tree, p.Starter(c.args(i)...)).Signaled() {
		if c.late++; c.late > 3*points {
			p.t.Fatalf("%s: %d kills came too late; it takes %v no more", c.name, c.late, c.duration)
		}
	}
	return fmt.Sprintf("%s, %s killed after %v", c.name, victim, after)
}
