package storage

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"thinrun/tests/box"
	"thinrun/tests/crash/step"
)

// verb is a command that is killed. It takes the place from one state to another; killed,
// and followed by one more command, the place must be in one of the two.
type verb struct {
	name string
	args []string
	// before makes what the command works on, where it is not there. Nil: nothing.
	before func(p *place)
	// undo goes back after the command has done its work.
	undo func(p *place)
	// next are the commands that may come next, in turn; nil: gc.
	next [][]string
	// runs: it starts a program, which may outlive it; its end is waited for.
	runs bool
	// reuses: repeated, it takes up what the killed one has finished, and nothing is left.
	reuses bool
	// over is what the command says when it is repeated after it was done; "": it can be
	// done again.
	over string
	// ends: whatever comes next ends what the killed one has begun.
	ends bool
	// half is a command that does the first of the two things that this one does, each of
	// them whole: a killed one may have done that and no more.
	half []string
	// holds checks more of a state, every third time.
	holds func(p *place, what string, done bool)
}

var pointsFlag = flag.Int("points", 0, "how often each verb is killed; 0: what make test has time for")

// points is how often each verb is killed.
func points() int {
	switch {
	case *pointsFlag != 0:
		return *pointsFlag
	case box.InLab():
		return 5 // a kill and a look around cost two seconds there
	}
	return 50
}

// sweep kills a verb that often: most of them before one of its system calls that change
// something, the others after a time, at the pace it has without a tracer. Alternately the
// command alone and all that it has started. In turn the next command is gc, the same
// command again, or what the verb says.
func (p *place) sweep(v verb) {
	p.t.Helper()
	p.t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
		q := *p
		q.t, q.Caller = t, p.Fork(t)
		q.kills(v, points())
	})
}

func (p *place) kills(v verb, points int) {
	if v.before == nil {
		v.before = func(*place) {}
	}
	if v.undo == nil {
		v.undo = func(*place) {}
	}
	next := v.next
	if next == nil {
		next = [][]string{{"gc"}, v.args}
	}
	// Once without a kill, and once for the stepper: what the two states look like, how
	// long it takes, and what it calls.
	v.before(p)
	before := p.look()
	duration := p.Took(v.args...)
	after := p.settled(before)
	var halfway view
	if v.half != nil {
		v.undo(p)
		v.before(p)
		p.OK(v.half...)
		halfway = p.settled(before)
	}
	for range 2 {
		v.undo(p)
		v.before(p)
		duration = min(duration, p.Took(v.args...))
	}
	v.undo(p)
	v.before(p)
	if d := p.settled(before).diff(before); d != "" && !v.ends {
		p.t.Fatalf("%s, not killed and undone:\n%s", v.name, d)
	}
	calls, _ := step.Before(p.t, step.Never, false, p.Starter(v.args...))
	if d := p.settled(after).diff(after); d != "" {
		p.t.Fatalf("%s, traced:\n%s", v.name, d)
	}
	v.undo(p)
	at := choose(calls, points*3/5)
	var steps, times, late, again, finished int
	for i := range points {
		v.before(p)
		tree, victim := i%2 == 1, "it alone"
		if tree {
			victim = "all of it"
		}
		var what string
		if i < len(at) {
			made, hit := step.Before(p.t, at[i], tree, p.Starter(v.args...))
			what = fmt.Sprintf("%s traced and not killed (it said %q)", v.name, p.Said())
			if hit {
				steps++
				what = fmt.Sprintf("%s, %s killed before call %d of %d (%v)", v.name, victim, at[i], len(calls), made[at[i]-1])
			}
		} else {
			times++
			// Multiples of the golden ratio, less their whole part, are spread evenly however
			// many there are.
			_, part := math.Modf(float64(times) * math.Phi)
			d := time.Duration(part * float64(duration))
			what = fmt.Sprintf("%s, %s killed after %v", v.name, victim, d)
			if !step.After(p.t, d, tree, p.Starter(v.args...)).Signaled() {
				late++
			}
		}
		if v.runs {
			p.ended()
			p.Afresh() // what it has said meanwhile is not the next command's
		}
		args := next[i%len(next)]
		repeated := slices.Equal(args, v.args)
		code := p.Run(args...)
		over := code != 0 && repeated && v.over != "" && strings.Contains(p.Said(), v.over)
		if over {
			p.OneLine(code, args)
		}
		if code != 0 && !over {
			p.t.Errorf("%s, then %q: exit code %d: %s", what, args, code, p.Said())
		}
		if list := asleep(); len(list) > 0 {
			p.t.Errorf("%s, then %q: %s", what, args, strings.Join(list, ", "))
		}
		if args[0] == "exec" { // which collects nothing
			p.OK("gc")
		}
		got := p.settled(before, after)
		if repeated && len(got.minus(after)) > 0 {
			// What a killed one has finished and not yet named is for gc.
			again++
			p.spare(what, got, after, over, v.reuses)
			p.OK("gc")
			got = p.settled(after)
		}
		undone, done := got.diff(before), got.diff(after)
		half := v.half != nil && got.diff(halfway) == ""
		switch {
		case (repeated || v.ends) && done != "":
			p.t.Errorf("%s, then %q:\n%s", what, args, done)
		case undone != "" && done != "" && !half:
			p.t.Errorf("%s, then %q:\n  if it was not done:\n%s  if it was:\n%s", what, args, undone, done)
		}
		if v.holds != nil && i%3 == 0 {
			v.holds(p, what, done == "")
		}
		if p.t.Failed() {
			p.t.FailNow() // the rest would say the same
		}
		if done == "" {
			finished++
		}
		if done == "" || half {
			v.undo(p)
		}
	}
	p.t.Logf("%s: %d kills before one of %d calls, %d after a time up to %v (%d came too late); done in the end %d times; gc had to help the repeated one %d times",
		v.name, steps, len(calls), times-late, duration, late, finished, again)
	if v.ends {
		return
	}
	v.before(p)
	if d := p.settled(before).diff(before); d != "" {
		p.t.Errorf("%s, at last:\n%s", v.name, d)
	}
}

// spare is what may be left for gc after the command was repeated: what the killed one had
// sealed or removed under a name that nobody knows, if the repeated one could not take it
// up. Where the repeated one had nothing to do any more, also what the killed one had in
// hand.
func (p *place) spare(what string, got, want view, over, reuses bool) {
	p.t.Helper()
	allowed := regexp.MustCompile(`^$`)
	if !reuses {
		allowed = regexp.MustCompile(`^thin id of a layer that no image names$|^file /pool/layers/\*$|^(file|tree) /overlay/layers/\*`)
	}
	claim := regexp.MustCompile(`^thin id of a command$|^file /pool/claims/open/\*$|^(file|tree) /overlay/layers/del-\*`)
	for _, line := range got.minus(want) {
		if !allowed.MatchString(line) && !(over && claim.MatchString(line)) {
			p.t.Errorf("%s, then again: left over: %s", what, line)
		}
	}
}

// choose spreads n points over the calls of a command, each time others. Of calls that come
// many times (those that write a tree's files) it takes no more than the first few.
func choose(calls []step.Call, n int) (at []int) {
	const enough = 12
	seen := map[step.Call]int{}
	var candidates []int
	for i, c := range calls {
		if seen[c]++; seen[c] <= enough {
			candidates = append(candidates, i+1)
		}
	}
	n = min(n, len(candidates))
	begin := rand.IntN(len(candidates))
	for i := range n {
		at = append(at, candidates[(i*len(candidates)+begin)/n])
	}
	return at
}
