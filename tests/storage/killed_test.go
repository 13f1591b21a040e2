package storage

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"thinrun/tests/crash/step"
)

// TestKilledImage: an image is there with all of its layers, or nothing is.
func TestKilledImage(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		p.withPool()
		one, two := p.tree("one"), p.tree("two, which is longer")
		p.OK("image", "import", "base", one)
		p.t.Cleanup(func() { p.OK("image", "rm", "base") })
		p.OK("run", "--image", "base", "warm-up", "true") // directories that stay
		p.sweep(verb{
			name: "tag", args: []string{"image", "tag", "base", "x"},
			undo:  func(p *place) { p.OK("image", "rm", "x") },
			holds: func(p *place, what string, done bool) { p.version(what, "x", "one", done) },
		})
		p.sweep(verb{
			name: "import", args: []string{"image", "import", "x", two},
			undo:  func(p *place) { p.OK("image", "rm", "x") },
			holds: func(p *place, what string, done bool) { p.version(what, "x", "two, which is longer", done) },
		})
		p.sweep(verb{
			name: "import over another", args: []string{"image", "import", "x", two},
			before: func(p *place) {
				if !p.has("x") {
					p.OK("image", "import", "x", one)
				}
			},
			undo: func(p *place) { p.OK("image", "import", "x", one) },
			holds: func(p *place, what string, done bool) {
				p.version(what, "x", map[bool]string{false: "one", true: "two, which is longer"}[done], true)
			},
		})
		if p.has("x") {
			p.OK("image", "rm", "x")
		}
		p.sweep(verb{
			name: "image rm", args: []string{"image", "rm", "x"}, over: "no such image",
			before: func(p *place) {
				if !p.has("x") {
					p.OK("image", "import", "x", two)
				}
			},
			holds: func(p *place, what string, done bool) { p.version(what, "x", "two, which is longer", !done) },
		})
		if p.has("x") {
			p.OK("image", "rm", "x")
		}
		p.sweep(verb{
			name: "run", runs: true, args: []string{"run", "--image", "base", "killed", "cat", "/version"},
			next: [][]string{{"gc"}, {"delete", "--force", "killed"}},
		})
	})
}

// TestKilledCommit: the container goes on, whatever happens to who looks at its root.
func TestKilledCommit(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		p.withPool()
		p.OK("image", "import", "base", p.tree("one"))
		p.OK("run", "--detach", "--image", "base", "works", "sleep", "100000")
		p.t.Cleanup(func() {
			p.OK("delete", "--force", "works")
			p.OK("image", "rm", "base")
		})
		p.OK("exec", "works", "sh", "-c", "echo changed > /version")
		p.sweep(verb{
			name: "commit", args: []string{"image", "commit", "works", "x"},
			next: [][]string{{"gc"}, {"image", "commit", "works", "x"}, {"exec", "works", "true"}},
			undo: func(p *place) { p.OK("image", "rm", "x") },
			holds: func(p *place, what string, done bool) {
				p.version(what, "x", "changed", done)
				if code := p.Run("exec", "works", "sh", "-c", "echo changed > /version; cat /version"); code != 0 || p.Said() != "changed" {
					p.t.Errorf("%s: in the container: exit code %d: %s", what, code, p.Said())
				}
			},
		})
		// Beside the work directory: killed before its last rename, export leaves .FILE.part,
		// which the next one replaces.
		file := filepath.Join(t.TempDir(), "archive")
		p.sweep(verb{
			name: "export", args: []string{"image", "export", "base", file}, ends: true,
			before: func(p *place) { _ = os.Remove(file) },
			holds: func(p *place, what string, _ bool) { // whole, or not there
				if _, err := os.Stat(file); err == nil {
					p.OK("image", "import", "exported", "oci-archive:"+file)
					p.version(what, "exported", "one", true)
					p.OK("image", "rm", "exported")
				}
			},
		})
	})
}

// TestKilledGC: what a killed gc has begun the next one ends.
func TestKilledGC(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		p.withPool()
		one, two := p.tree("one"), p.tree("two")
		p.OK("image", "import", "base", one)
		p.t.Cleanup(func() { p.OK("image", "rm", "base") })
		p.OK("run", "--image", "base", "warm-up", "true")
		clean := p.look()
		imports := p.Took("image", "import", "x", two)
		p.OK("image", "rm", "x")
		runs := p.Took("run", "--image", "base", "half", "true")
		p.sweep(verb{
			name: "gc", args: []string{"gc"}, ends: true,
			before: func(p *place) {
				// Two imports and a container, killed somewhere, until there is something.
				for part := math.Phi; p.look().diff(clean) == ""; part += math.Phi {
					_, f := math.Modf(part)
					after := func(d time.Duration) time.Duration { return time.Duration(f * float64(d)) }
					step.After(p.t, after(imports), false, p.Starter("image", "import", "x", two))
					step.After(p.t, after(imports)/2, false, p.Starter("image", "import", "x", two))
					step.After(p.t, after(runs), true, p.Starter("run", "--image", "base", "half", "true"))
					if p.has("x") {
						p.OK("image", "rm", "x")
					}
				}
				p.ended()
			},
			holds: func(p *place, what string, _ bool) {
				if d := p.settled(clean).diff(clean); d != "" {
					p.t.Errorf("%s:\n%s", what, d)
				}
			},
		})
	})
}

// TestKilledPool: a pool is there or not; half a pool is no pool, and in nobody's way.
func TestKilledPool(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		if p.control == nil {
			t.Skip("native only: overlay has no pool")
		}
		p.OK(poolCreate...)
		p.OK("pool", "destroy") // the lock's file stays
		p.sweep(verb{
			name: "pool create", args: poolCreate, over: "exists",
			undo: func(p *place) { p.OK("pool", "destroy") },
		})
		p.sweep(verb{
			name: "pool destroy", args: []string{"pool", "destroy"}, over: "no pool",
			before: func(p *place) {
				if p.pool() == "" {
					p.OK(poolCreate...)
				}
			},
		})
		if p.pool() == "" {
			p.OK(poolCreate...)
		}
		one := p.tree("one")
		p.OK("image", "import", "base", one)
		p.OK("run", "--image", "base", "warm-up", "true")
		p.sweep(verb{
			name: "activation", args: []string{"gc"}, ends: true,
			before: func(p *place) { p.deactivate() },
			next:   [][]string{{"gc"}, {"run", "--image", "base", "next", "true"}},
		})
		p.OK("image", "rm", "base")
		p.OK("pool", "destroy")
	})
}

// TestKilledUpkeep: a pool is grown, renewed, trimmed and checked, and half of that harms
// nothing: images and containers are what they were.
func TestKilledUpkeep(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		if p.control == nil {
			t.Skip("native only: overlay has no pool")
		}
		one, two := p.tree("one"), p.tree("two")
		remake := func(p *place) {
			if p.pool() != "" {
				p.OK("pool", "destroy", "--force")
			}
			p.OK(poolCreate...)
			p.OK("image", "import", "x", one)
		}
		holds := func(p *place, what string, _ bool) { p.version(what, "x", "one", true) }
		remake(p)
		p.t.Cleanup(func() {
			p.OK("image", "rm", "x")
			p.OK("pool", "destroy")
		})
		p.OK("run", "--image", "x", "warm-up", "true")
		p.sweep(verb{
			name: "pool grow", args: []string{"pool", "grow", "--data-size", "640M", "--metadata-size", "32M"},
			half: []string{"pool", "grow", "--metadata-size", "32M"}, // metadata comes first, with a record of its own
			undo: remake, holds: holds, over: "it has that size already",
		})
		p.sweep(verb{name: "pool check", args: []string{"pool", "check"}, ends: true, holds: holds})
		p.sweep(verb{name: "pool renew", args: []string{"pool", "renew"}, ends: true, holds: holds})
		p.sweep(verb{
			name: "pool trim", args: []string{"pool", "trim"}, ends: true, holds: holds,
			before: func(p *place) { // something that can be given back
				p.OK("image", "import", "y", two)
				p.OK("image", "rm", "y")
			},
		})
	})
}

// deactivate takes the pool's device away, as a boot would.
func (p *place) deactivate() {
	p.t.Helper()
	if name := p.pool(); name != "" {
		_, err := p.control.Remove(name, false)
		check(p.t, err)
	}
}

// has tells whether there is an image of that name.
func (p *place) has(name string) bool {
	for _, img := range p.records() {
		if img.Name == name+":latest" {
			return true
		}
	}
	return false
}

// version runs an image and compares what it holds; there: whether it must be there.
func (p *place) version(what, name, want string, there bool) {
	p.t.Helper()
	if p.has(name) != there {
		p.t.Errorf("%s: image %s: there: %v, want %v", what, name, !there, there)
		return
	}
	if !there {
		return
	}
	if code := p.Run("run", "--image", name, "looks", "cat", "/version"); code != 0 || p.Said() != want {
		p.t.Errorf("%s: run --image %s: exit code %d, it has version %q, want %q", what, name, code, p.Said(), want)
	}
}
