package storage

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"thinrun/tests/box"
	"thinrun/tests/crash/step"
)

var (
	stormLength = flag.Duration("storm", 0, "how long TestStorm is; 0: what make test has time for")
	stormSeed   = flag.Uint64("seed", 0, "what TestStorm does; 0: something new")
)

// TestStorm: eight processes pull, import, run, commit, tag, remove and collect at random
// on one storage. Afterwards there must be an order of all that they did in which every
// outcome was right, and nothing must be left.
//
// The seed repeats what each process does, though not how they meet.
func TestStorm(t *testing.T) {
	length, seed := *stormLength, *stormSeed
	if length == 0 {
		length = 20 * time.Second
		if box.InLab() {
			length = time.Minute
		}
	}
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	drivers(t, func(t *testing.T, p *place) {
		t.Logf("-storm %v -seed %d", length, seed)
		p.withPool()
		s := p.storm()
		before := p.look()
		const workers = 8
		over := time.AfterFunc(length, func() { close(s.over) })
		defer over.Stop()
		var all sync.WaitGroup
		for i := range workers {
			w := &worker{storm: s, place: p.fork(), number: i, random: rand.New(rand.NewPCG(seed, uint64(i)))}
			all.Go(func() {
				for w.goesOn() {
					w.step()
				}
			})
		}
		all.Wait()
		last := &worker{storm: s, place: p.fork(), number: workers}
		for name := range names {
			last.look(name)
		}
		p.OK("gc")
		p.settled(before)
		p.OK("gc") // now that the programs of killed runs have ended
		for name := range names {
			if p.has(names[name]) {
				p.OK("image", "rm", names[name])
			}
		}
		p.OK("gc")
		if d := p.settled(before).diff(before); d != "" {
			t.Errorf("left behind:\n%s", d)
		}
		if wrong := explain(s.history); wrong != nil {
			t.Errorf("this fits no order of what came before it:\n%s", tail(s.history, wrong))
		}
		s.report(length)
	})
}

// storm is what the workers share.
type storm struct {
	t      *testing.T
	over   chan struct{}
	source []source // version 1 and so on; 0 is none

	mu      sync.Mutex
	clock   int
	history []*operation
	used    map[string]int // container -> the version that it has shown
	next    int            // the next version
	bodies  map[int]string // version -> the hash of what it has in /body
	pace    time.Duration  // of a command
}

// source is where a version comes from.
type source struct{ word, from string }

func (p *place) storm() *storm {
	p.t.Helper()
	s := &storm{t: p.t, over: make(chan struct{}), used: map[string]int{}, bodies: map[int]string{}, next: 1, source: make([]source, 1)}
	h := newHub(p.t)
	base := baseLayer(p.t, p.tree("base"))
	for i := range 6 {
		version := s.version("")
		body := strings.Repeat(fmt.Sprintf("body of %d\n", version), 1000*(i+1))
		s.bodies[version] = fmt.Sprintf("%x", sha256.Sum256([]byte(body)))
		word := fmt.Sprintf("version %d\n", version)
		if i%3 == 2 { // imported, not pulled
			dir := p.tree(fmt.Sprintf("storm-%d", version))
			check(p.t, os.WriteFile(filepath.Join(dir, "version"), []byte(word), 0o644))
			check(p.t, os.WriteFile(filepath.Join(dir, "body"), []byte(body), 0o644))
			s.source = append(s.source, source{"import", dir})
			continue
		}
		s.source = append(s.source, source{"pull", h.push("storm", fmt.Sprint(version), base, fileLayer(p.t, "body", body), fileLayer(p.t, "version", word))})
	}
	// Directories that stay, made once.
	p.OK("image", "import", names[0], p.tree("warm-up"))
	s.pace = 4 * p.Took("run", "--image", names[0], "warm-up", "true") // they are eight
	p.OK("image", "rm", names[0])
	return s
}

// version is a new one, with the body of another.
func (s *storm) version(body string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.next
	s.next++
	s.bodies[n] = body
	return n
}

// report counts what came out.
func (s *storm) report(length time.Duration) {
	counts := map[string]int{}
	for _, o := range s.history {
		words := strings.Fields(o.what)
		kind := words[0]
		if kind == "image" {
			kind += " " + words[1]
		}
		counts[kind+": "+o.outcome]++
	}
	var lines []string
	for what, n := range counts {
		lines = append(lines, fmt.Sprintf("%6d  %s", n, what))
	}
	slices.Sort(lines)
	s.t.Logf("%d operations in %v, %.0f a minute, %d versions\n%s", len(s.history), length, float64(len(s.history))/length.Minutes(), s.next-1, strings.Join(lines, "\n"))
}

// worker is one of the processes, or rather who starts them one after the other.
type worker struct {
	*storm
	place  *place
	number int
	random *rand.Rand
	count  int
}

// fork is the same place for another goroutine.
func (p *place) fork() *place {
	q := *p
	q.Caller = p.Fork(p.t)
	return &q
}

func (w *worker) goesOn() bool {
	select {
	case <-w.over:
		return false
	default:
		return !w.t.Failed()
	}
}

// judge tells from a command's exit code and its words what effects it may have had, and
// what to call that. No effects: wrong.
type judge func(code int, said string) (outcome string, effects []effect)

// do runs a command and writes down when it was under way.
func (w *worker) do(args []string, judge judge) *operation {
	o := w.begin(args)
	code := w.place.Run(args...)
	w.end(o, code, judge)
	return o
}

func (w *worker) begin(args []string) *operation {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock++
	return &operation{worker: w.number, what: strings.Join(args, " "), start: w.clock}
}

func (w *worker) end(o *operation, code int, judge judge) {
	said := w.place.Said()
	o.outcome, o.effects = judge(code, said)
	if o.effects == nil {
		w.t.Errorf("process %d: thinrun %s: exit code %d: %.1000s", w.number, o.what, code, said)
		o.effects = unchanged
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock++
	o.end = w.clock
	w.history = append(w.history, o)
}

// doOrDie is do, but now and then the command is killed: then it has had its effect, or
// none.
func (w *worker) doOrDie(args []string, e effect, judge judge) {
	if w.random == nil || w.random.IntN(10) > 0 {
		w.do(args, judge)
		return
	}
	o := w.begin(args)
	after := time.Duration(w.random.Int64N(int64(w.pace)))
	status := step.After(w.t, after, w.random.IntN(2) == 0, w.place.Starter(args...))
	if status.Signaled() {
		judge = func(int, string) (string, []effect) { return "killed", perhaps(e) }
	}
	w.end(o, status.ExitStatus(), judge)
	if status.Signaled() { // a container of it may yet say something
		w.place.Afresh()
	}
}

var unchanged = []effect{func(now world) (world, bool) { return now, true }}

// inUse is a refusal: the name must have stood for what one of these containers shows.
var inUse = regexp.MustCompile(`image is in use by containers? (\S+(?:, \S+)*); delete`)

// refused are the effects of a refusal for name. A container that was killed before it has
// shown its version may have had any, but the name was not without one.
func (w *worker) refused(name int, said string) []effect {
	m := inUse.FindStringSubmatch(said)
	if m == nil {
		return nil
	}
	var effects []effect
	for id := range strings.SplitSeq(m[1], ", ") {
		if !strings.HasPrefix(id, "storm-") {
			w.t.Errorf("refused because of container %q, which is none of ours", id)
		}
		effects = append(effects, func(now world) (world, bool) { // judged at the end, when it is known
			version := w.used[id]
			return now, now[name] != 0 && (version == 0 || now[name] == version)
		})
	}
	return effects
}

func absent(said string) bool { return strings.Contains(said, "no such image") }

// writing judges a command that gives name a new version.
func (w *worker) writing(name, version int) func(int, string) (string, []effect) {
	return func(code int, said string) (string, []effect) {
		if code == 0 {
			return "done", []effect{writes(name, version)}
		}
		return "refused: in use", w.refused(name, said)
	}
}

// step is one thing that a worker does.
func (w *worker) step() {
	name := w.random.IntN(len(names))
	switch n := w.random.IntN(100); {
	case n < 25:
		w.bring(name)
	case n < 60:
		w.look(name)
	case n < 72:
		w.remove(name)
	case n < 82:
		w.tag(name)
	case n < 90:
		w.commit(name, w.random.IntN(len(names)))
	default:
		w.collect()
	}
}

func (w *worker) bring(name int) {
	version := 1 + w.random.IntN(len(w.source)-1)
	src := w.source[version]
	args := []string{"image", "import", names[name], src.from}
	if src.word == "pull" {
		args = []string{"image", "pull", "--quiet", src.from, names[name]}
	}
	w.doOrDie(args, writes(name, version), w.writing(name, version))
}

// tag copies one name to another.
func (w *worker) tag(old int) {
	name := (old + 1 + w.random.IntN(len(names)-1)) % len(names)
	w.doOrDie([]string{"image", "tag", names[old], names[name]}, tags(old, name), func(code int, said string) (string, []effect) {
		switch {
		case code == 0:
			return "done", []effect{tags(old, name)}
		case absent(said):
			return "no such image", []effect{reads(old, 0)}
		}
		return "refused: in use", w.refused(name, said)
	})
}

// commit changes a container and makes it an image.
func (w *worker) commit(base, name int) {
	id := w.container()
	run := w.do([]string{"run", "--detach", "--image", names[base], id, "sleep", "100000"}, func(code int, said string) (string, []effect) {
		switch {
		case code == 0:
			return "started", unchanged // it will show what it is
		case absent(said):
			return "no such image", []effect{reads(base, 0)}
		}
		return "", nil
	})
	if run.outcome != "started" {
		return
	}
	p := w.place
	if code := p.Run("exec", id, "sh", "-c", show); code != 0 {
		w.t.Errorf("exec %s: exit code %d: %s", id, code, p.Said())
	}
	version := w.saw(id, p.Said())
	w.mu.Lock()
	run.effects = []effect{reads(base, version)}
	body := w.bodies[version]
	w.mu.Unlock()
	changed := w.version(body)
	word := fmt.Sprintf("version %d", changed)
	p.OK("exec", id, "sh", "-c", "echo "+word+" > /version")
	w.doOrDie([]string{"image", "commit", id, names[name]}, writes(name, changed), w.writing(name, changed))
	p.OK("exec", id, "cat", "/version") // it goes on
	if p.Said() != word {
		w.t.Errorf("after a commit container %s says %q, want %q", id, p.Said(), word)
	}
	p.OK("delete", "--force", id)
}

func (w *worker) remove(name int) {
	w.doOrDie([]string{"image", "rm", names[name]}, removes(name), func(code int, said string) (string, []effect) {
		switch {
		case code == 0:
			return "done", []effect{removes(name)}
		case absent(said):
			return "no such image", []effect{reads(name, 0)}
		}
		return "refused: in use", w.refused(name, said)
	})
}

// shown is what the containers print about their image.
var shown = regexp.MustCompile(`(?m)^version (\d+)\n([0-9a-f]{64})  -$`)

const show = "cat /version; sha256sum < /body"

func (w *worker) container() string {
	w.count++
	return fmt.Sprintf("storm-%d-%d", w.number, w.count)
}

// saw notes the version that a container has printed; what else it has must fit.
func (w *worker) saw(id, said string) int {
	m := shown.FindStringSubmatch(said)
	if m == nil {
		return -1
	}
	version, _ := strconv.Atoi(m[1])
	w.mu.Lock()
	defer w.mu.Unlock()
	if want := w.bodies[version]; m[2] != want {
		w.t.Errorf("container %s of version %d has a body of hash %s, want %s", id, version, m[2], want)
	}
	w.used[id] = version
	return version
}

// look runs a container.
func (w *worker) look(name int) {
	id := w.container()
	w.doOrDie([]string{"run", "--image", names[name], id, "sh", "-c", show}, unchanged[0], func(code int, said string) (string, []effect) {
		if version := w.saw(id, said); code == 0 && version > 0 {
			return "ran", []effect{reads(name, version)}
		}
		if absent(said) {
			return "no such image", []effect{reads(name, 0)}
		}
		return "", nil
	})
}

// collect has no effect, and always works.
func (w *worker) collect() {
	w.doOrDie([]string{"gc"}, unchanged[0], func(code int, said string) (string, []effect) {
		if code == 0 {
			return "done", unchanged
		}
		return "", nil
	})
}
