package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// events is what test2json says about one test after another: "name action" with
// output between.
func events(lines ...string) []byte {
	var b strings.Builder
	for _, l := range lines {
		name, rest, _ := strings.Cut(l, " ")
		action, output, _ := strings.Cut(rest, " ")
		b.WriteString(`{"Action":"` + action + `","Test":"` + name + `","Output":"` + output + `"}` + "\n")
	}
	return []byte(b.String())
}

func TestOutcomeCounts(t *testing.T) {
	for _, c := range []struct {
		name             string
		place            string
		events           []byte
		err              error
		pass, fail, skip int
		says             string // in the summary
	}{
		{"passes", "native", events("TestA run", "TestA pass", "TestB run", "TestB pass"), nil, 2, 0, 0, "2 passed, 0 failed, 0 skipped\n"},
		{"a parent is not counted beside its subtests", "native",
			events("TestA run", "TestA/x run", "TestA/x pass", "TestA/y run", "TestA/y fail", "TestA fail"), errors.New("exit status 1"), 1, 1, 0, "--- TestA/y\n"},
		{"a parent that fails by itself is", "native",
			events("TestA run", "TestA/x run", "TestA/x pass", "TestA output boom", "TestA fail"), errors.New("exit status 1"), 1, 1, 0, "boom"},
		{"a skip gives its reason", "native",
			events("TestA run", `TestA output     a_test.go:1: logged\n`, `TestA output     a_test.go:2: needs root\n`, "TestA skip"), nil, 0, 0, 1, "  native: needs root\n      p TestA\n"},
		{"a skip without reason fails", "native", events("TestA run", "TestA skip"), nil, 0, 1, 0, "skipped without a reason"},
		{"a skip in the lab fails", "lab v2", events("TestA run", `TestA output     a_test.go:2: needs root\n`, "TestA skip"), nil, 0, 1, 0, "skipped in the lab kernel"},
		{"but native only does not", "lab v2", events("TestA run", `TestA output     a_test.go:2: native only: needs SMP\n`, "TestA skip"), nil, 0, 0, 1, "native only: needs SMP"},
		{"a test that did not end fails", "native", events("TestA run", "TestA output panic"), errors.New("exit status 2"), 0, 1, 0, "did not end"},
		{"a binary that breaks before its tests fails", "lab v2", nil, errors.New("exit status 125"), 0, 1, 0, "exit status 125"},
		{"a binary without tests fails", "native", nil, nil, 0, 1, 0, "ran no test"},
		{"a binary that breaks after its tests fails", "native", events("TestA run", "TestA pass"), errors.New("exit status 1"), 1, 1, 0, "exit status 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := outcome{job: job{pkg: pkg{path: "p"}, place: c.place}, err: c.err}
			o.read(c.events)
			if p, f, s := o.count("pass"), o.count("fail"), o.count("skip"); p != c.pass || f != c.fail || s != c.skip {
				t.Errorf("%d passed, %d failed, %d skipped; want %d, %d, %d", p, f, s, c.pass, c.fail, c.skip)
			}
			var b strings.Builder
			if ok := summary(&b, []outcome{o}, time.Second); ok != (c.fail == 0 && c.pass > 0) {
				t.Errorf("summary says %v", ok)
			}
			if !strings.Contains(b.String(), c.says) {
				t.Errorf("summary %q lacks %q", b.String(), c.says)
			}
		})
	}
}
