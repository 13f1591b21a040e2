package storage

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// names are the images of the storm.
var names = [...]string{"a", "b", "c", "d"}

// world is the model: which version each name stands for, 0: none.
type world [len(names)]int

// effect is what an operation did, as far as its outcome tells: whether the world allowed
// it, and what the world is then.
type effect func(world) (world, bool)

func reads(name, version int) effect {
	return func(w world) (world, bool) { return w, w[name] == version }
}

func writes(name, version int) effect {
	return func(w world) (world, bool) { w[name] = version; return w, true }
}

func removes(name int) effect {
	return func(w world) (world, bool) {
		was := w[name]
		w[name] = 0
		return w, was != 0
	}
}

func tags(old, name int) effect {
	return func(w world) (world, bool) { w[name] = w[old]; return w, w[old] != 0 }
}

// perhaps is an operation that was killed: all of it or nothing.
func perhaps(e effect) []effect {
	return []effect{e, func(w world) (world, bool) { return w, true }}
}

// operation is one command of one process. Between its start and its end it has had its
// effect, at one moment.
type operation struct {
	worker     int
	what       string
	start, end int // places in the order of all starts and ends
	effects    []effect
	outcome    string
}

func (o *operation) String() string {
	return fmt.Sprintf("%5d-%5d  process %d: %s: %s", o.start, o.end, o.worker, o.what, o.outcome)
}

// explain finds out whether there is an order of the operations, each somewhere between its
// start and its end, in which the model allows every outcome (linearizability; found as
// Lowe does, "Testing for linearizability", 2017: all configurations at once, and no
// operation before one has ended). If not, it names the first operation that fits no more.
func explain(history []*operation) *operation {
	type config struct {
		w    world
		done uint64 // workers whose operation under way has had its effect
	}
	type event struct {
		at  int
		op  *operation
		end bool
	}
	var events []event
	for _, o := range history {
		events = append(events, event{o.start, o, false}, event{o.end, o, true})
	}
	slices.SortFunc(events, func(a, b event) int { return a.at - b.at })
	configs := map[config]bool{{}: true}
	under := map[int]*operation{}
	for _, e := range events {
		if !e.end {
			under[e.op.worker] = e.op
			continue
		}
		// All that can have had its effect until now, in all orders.
		var queue []config
		for c := range configs {
			queue = append(queue, c)
		}
		for len(queue) > 0 {
			c := queue[len(queue)-1]
			queue = queue[:len(queue)-1]
			if c.done&(1<<e.op.worker) != 0 {
				continue // the others can wait
			}
			for worker, o := range under {
				if c.done&(1<<worker) != 0 {
					continue
				}
				for _, f := range o.effects {
					if w, ok := f(c.w); ok {
						next := config{w, c.done | 1<<worker}
						if !configs[next] {
							configs[next] = true
							queue = append(queue, next)
						}
					}
				}
			}
		}
		ended := map[config]bool{}
		for c := range configs {
			if c.done&(1<<e.op.worker) != 0 {
				c.done &^= 1 << e.op.worker
				ended[c] = true
			}
		}
		if len(ended) == 0 {
			return e.op
		}
		configs = ended
		delete(under, e.op.worker)
	}
	return nil
}

// tail is what happened around an operation.
func tail(history []*operation, at *operation) string {
	list := slices.Clone(history)
	slices.SortFunc(list, func(a, b *operation) int { return a.end - b.end })
	i := slices.Index(list, at)
	var b strings.Builder
	for _, o := range list[max(0, i-40) : i+1] {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

func TestModelTellsRightFromWrong(t *testing.T) {
	op := func(worker, start, end int, effects ...effect) *operation {
		return &operation{worker: worker, start: start, end: end, effects: effects}
	}
	for _, c := range []struct {
		name    string
		history []*operation
		wrong   int // -1: none
	}{
		{"one after the other", []*operation{op(0, 0, 1, writes(0, 7)), op(1, 2, 3, reads(0, 7))}, -1},
		{"a read of what is not there", []*operation{op(0, 0, 1, writes(0, 7)), op(1, 2, 3, reads(0, 0))}, 1},
		{"a read of the other name", []*operation{op(0, 0, 1, writes(0, 7)), op(1, 2, 3, reads(1, 7))}, 1},
		{"at once, either", []*operation{op(0, 0, 2, writes(0, 7)), op(1, 1, 3, reads(0, 0))}, -1},
		{"seen, and then not", []*operation{op(0, 0, 9, writes(0, 7)), op(1, 1, 2, reads(0, 7)), op(1, 3, 4, reads(0, 0))}, 2},
		{"removed twice", []*operation{op(0, 0, 1, writes(0, 7)), op(1, 2, 5, removes(0)), op(2, 3, 4, removes(0))}, 1},
		{"a tag copies what is there", []*operation{op(0, 0, 1, writes(0, 7)), op(1, 2, 5, tags(0, 1)), op(2, 3, 4, writes(0, 8)), op(2, 6, 7, reads(1, 8)), op(2, 8, 9, reads(0, 8))}, -1},
		{"a tag of what came later", []*operation{op(0, 0, 1, writes(0, 7)), op(1, 2, 3, tags(0, 1)), op(2, 4, 5, writes(0, 8)), op(2, 6, 7, reads(1, 8))}, 3},
		{"killed, done", []*operation{op(0, 0, 1, perhaps(writes(0, 7))...), op(1, 2, 3, reads(0, 7)), op(1, 4, 5, reads(0, 7))}, -1},
		{"killed, not done", []*operation{op(0, 0, 1, perhaps(writes(0, 7))...), op(1, 2, 3, reads(0, 0))}, -1},
		{"killed, done later", []*operation{op(0, 0, 1, perhaps(writes(0, 7))...), op(1, 2, 3, reads(0, 0)), op(1, 4, 5, reads(0, 7))}, 2},
	} {
		var want *operation
		if c.wrong >= 0 {
			want = c.history[c.wrong]
		}
		if got := explain(c.history); got != want {
			t.Errorf("%s: got %v, want %v", c.name, got, want)
		}
	}
}
