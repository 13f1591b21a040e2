package storage

import "testing"

// TestKilledPull: a pull of three layers, of which one is there already and one takes the
// other's file away.
func TestKilledPull(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		p.withPool()
		h := newHub(t)
		base := baseLayer(t, p.tree("base"))
		ref := h.push("repo", "three", base, fileLayer(t, "one", "1\n", "version", "two\n"), fileLayer(t, "one.wh", "", "version", "three\n"))
		p.OK("image", "pull", h.push("repo", "one", base), "base")
		p.t.Cleanup(func() { p.OK("image", "rm", "base") })
		p.OK("run", "--image", "base", "warm-up", "true")
		p.sweep(verb{
			name: "pull", args: []string{"image", "pull", "--quiet", ref, "x"}, reuses: true,
			undo:  func(p *place) { p.OK("image", "rm", "x") },
			holds: func(p *place, what string, done bool) { p.version(what, "x", "three", done) },
		})
	})
}
