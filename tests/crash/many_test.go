package crash

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// atOnce runs the commands at once and returns what each ended with and said.
func (p *place) atOnce(commands ...[]string) (codes []int, said []string) {
	codes, said = make([]int, len(commands)), make([]string, len(commands))
	ready := make(chan bool)
	var all sync.WaitGroup
	for i, args := range commands {
		q := p.fork()
		all.Go(func() {
			<-ready
			codes[i] = q.Run(args...)
			said[i] = q.Said()
		})
	}
	close(ready)
	all.Wait()
	return codes, said
}

func times(n int, args ...string) (list [][]string) {
	for range n {
		list = append(list, args)
	}
	return list
}

// rounds are fewer in the lab, and fewest for the drivers that have them all on this
// kernel.
func (p *place) rounds(n int) int {
	switch {
	case !box.InLab():
		return n
	case p.driver != "devmapper":
		return max(1, n/8)
	}
	return n / 2
}

func TestManyAtOnce(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		ids := make(chan string)
		var workers sync.WaitGroup
		for range 16 {
			q := p.fork()
			workers.Go(func() {
				for id := range ids {
					for _, args := range [][]string{{"create", "--bundle", q.sleeps, id}, {"start", id}, {"delete", "--force", id}} {
						if code := q.Run(args...); code != 0 {
							t.Errorf("thinrun %q: exit code %d: %s", args, code, q.Said())
						}
					}
				}
			})
		}
		n := 200
		if p.pool == nil {
			n = p.rounds(n)
		}
		for i := range n {
			ids <- fmt.Sprintf("many-%d", i)
		}
		close(ids)
		workers.Wait()
		p.clean("many at once")
	})
}

func TestOneWinner(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		for round := range p.rounds(20) {
			codes, said := p.atOnce(times(8, "create", "--bundle", p.sleeps, "one")...)
			winners := 0
			for i, code := range codes {
				switch {
				case code == 0:
					winners++
				case code != 1 || !strings.HasSuffix(said[i], "container with given ID already exists"):
					t.Errorf("round %d: exit code %d: %s", round, code, said[i])
				}
			}
			if winners != 1 {
				t.Errorf("round %d: %d of 8 creates of one id have won", round, winners)
			}
			p.OK("start", "one") // the losers have not harmed it
			codes, said = p.atOnce(times(8, "delete", "--force", "one")...)
			for i, code := range codes {
				if code != 0 {
					t.Errorf("round %d: one of 8 delete --force: exit code %d: %s", round, code, said[i])
				}
			}
			if !p.clean(fmt.Sprintf("round %d", round)) {
				return
			}
		}
	})
}

// TestAllVerbsAtOnce: every command may come too early or too late for the others, and
// says so in a line; nothing crashes, and nothing is left.
func TestAllVerbsAtOnce(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		const id = "all"
		for round := range p.rounds(16) {
			p.OK("create", "--bundle", p.sleeps, id)
			commands := [][]string{
				{"start", id}, {"state", id}, {"exec", id, "true"}, {"exec", id, "sleep", "1000"},
				{"kill", id, "TERM"}, {"kill", id, "KILL"}, {"delete", id}, {"delete", "--force", id},
			}
			codes, said := p.atOnce(commands...)
			for i, code := range codes {
				legal := code == 0 || code == 1
				if commands[i][0] == "exec" {
					legal = legal || code == 255 || code == 128+9 || code == 128+15
				}
				if !legal || strings.Contains(said[i], "panic") || strings.Contains(said[i], "BUG") {
					t.Errorf("round %d: thinrun %q: exit code %d: %.2000s", round, commands[i], code, said[i])
				}
			}
			// The forced one came last or made the others' work undone: it must have been
			// enough, unless the plain one was before it.
			if code := codes[len(codes)-1]; code != 0 {
				t.Errorf("round %d: delete --force: exit code %d: %s", round, code, said[len(said)-1])
			}
			if !p.clean(fmt.Sprintf("round %d", round)) {
				return
			}
		}
	})
}

// TestDeleteWhileItWrites: without a pid namespace the others do not die with init; they
// write into the root until they do.
func TestDeleteWhileItWrites(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		const id = "writes"
		b := testbundle.New(t).Without(specs.PIDNamespace).Writable().
			Shell(`for i in 1 2 3 4 5 6 7 8; do (while :; do mkdir -p /d$i/a/b; echo >/d$i/a/b/f; rm -r /d$i; done) & done; echo up; wait`)
		if p.driver != "dir" {
			b.Image("base")
		}
		dir := b.Path()
		for round := range p.rounds(16) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			args := p.rt.Argv("run", "--detach", "--bundle", dir, id)
			run, err := os.StartProcess(args[0], args, &os.ProcAttr{Files: []*os.File{nil, w, w}})
			w.Close()
			if err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(r).ReadString('\n'); err != nil || line != "up\n" {
				t.Fatalf("%v, %q", err, line)
			}
			r.Close()
			if _, err := run.Wait(); err != nil {
				t.Fatal(err)
			}
			p.OK("delete", "--force", id)
			if !p.clean(fmt.Sprintf("round %d", round)) {
				return
			}
		}
	})
}
