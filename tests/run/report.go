package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
)

// outcome is what a job's tests said.
type outcome struct {
	job
	tests   []*test
	output  string // what belongs to no test
	err     error
	elapsed time.Duration
}

// test is one test or subtest.
type test struct {
	name   string
	action string // pass, fail, skip; "" when it did not end
	reason string // of a skip
	output string
}

// read takes the events of test2json and judges.
func (o *outcome) read(events []byte) {
	byName := make(map[string]*test)
	for line := range bytes.Lines(events) {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		if e.Test == "" {
			o.output += e.Output
			continue
		}
		t := byName[e.Test]
		if t == nil {
			t = &test{name: e.Test}
			byName[e.Test] = t
			o.tests = append(o.tests, t)
		}
		switch e.Action {
		case "output":
			t.output += e.Output
		case "pass", "fail", "skip":
			t.action = e.Action
		}
	}
	for _, t := range o.tests {
		if t.action == "skip" {
			t.judgeSkip(o.lab())
		}
		if t.action == "" {
			t.action = "fail"
			t.output += "    did not end\n"
		}
	}
	// A test with subtests is counted by them, unless it has a failure of its own.
	o.tests = slices.DeleteFunc(o.tests, func(t *test) bool {
		return slices.ContainsFunc(o.tests, func(sub *test) bool {
			return path.Dir(sub.name) == t.name && (t.action != "fail" || sub.action == "fail")
		})
	})
	if o.err == nil && len(o.tests) == 0 {
		o.err = errors.New("ran no test")
	}
	if o.err != nil && o.count("fail") == 0 {
		o.tests = append(o.tests, &test{name: "the test binary", action: "fail", output: fmt.Sprintf("    %v\n", o.err)})
	}
}

// judgeSkip finds the reason and whether it is good enough.
func (t *test) judgeSkip(lab bool) {
	// t.Skip is the last to log: "    file_test.go:12: reason".
	if all := regexp.MustCompile(`(?m)^\s+\S+\.go:\d+: (.*)$`).FindAllStringSubmatch(t.output, -1); len(all) > 0 {
		t.reason = all[len(all)-1][1]
	}
	switch {
	case t.reason == "":
		t.action = "fail"
		t.output += "    skipped without a reason\n"
	case lab && !strings.HasPrefix(t.reason, "native only:"):
		t.action = "fail"
		t.output += "    skipped in the lab kernel, which has to have what tests need\n"
	}
}

func (o *outcome) count(action string) (n int) {
	for _, t := range o.tests {
		if t.action == action {
			n++
		}
	}
	return n
}

// line is shown when the job ends.
func (o *outcome) line() string {
	word := "ok  "
	if o.count("fail") > 0 {
		word = "FAIL"
	}
	s := fmt.Sprintf("%s  %-10s  %-34s %4d passed", word, o.place, o.pkg.path, o.count("pass"))
	for _, c := range []struct{ action, word string }{{"fail", "failed"}, {"skip", "skipped"}} {
		if n := o.count(c.action); n > 0 {
			s += fmt.Sprintf(", %d %s", n, c.word)
		}
	}
	return s + fmt.Sprintf("  (%.1fs)", o.elapsed.Seconds())
}

// summary prints the skips, the failures in full and the counts.
func summary(w io.Writer, outcomes []outcome, elapsed time.Duration) (ok bool) {
	total := make(map[string]int)
	perPlace := make(map[string]map[string]int)
	skips := make(map[string][]string) // place and reason -> tests
	for _, o := range outcomes {
		if perPlace[o.place] == nil {
			perPlace[o.place] = make(map[string]int)
		}
		for _, t := range o.tests {
			total[t.action]++
			perPlace[o.place][t.action]++
			if t.action == "skip" {
				key := o.place + ": " + t.reason
				skips[key] = append(skips[key], o.pkg.path+" "+t.name)
			}
		}
	}
	for _, o := range outcomes {
		o.printFailures(w)
	}
	if len(skips) > 0 {
		fmt.Fprint(w, "\nskipped:\n")
		for _, reason := range sorted(skips) {
			fmt.Fprintf(w, "  %s\n", reason)
			for _, name := range skips[reason] {
				fmt.Fprintf(w, "      %s\n", name)
			}
		}
	}
	fmt.Fprintf(w, "\nin %v:\n", elapsed.Round(time.Second))
	for _, place := range sorted(perPlace) {
		c := perPlace[place]
		fmt.Fprintf(w, "  %-10s  %d passed, %d failed, %d skipped\n", place, c["pass"], c["fail"], c["skip"])
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", total["pass"], total["fail"], total["skip"])
	return total["fail"] == 0 && total["pass"] > 0
}

func (o *outcome) printFailures(w io.Writer) {
	if o.count("fail") == 0 {
		return
	}
	fmt.Fprintf(w, "\n=== %s in %s", o.pkg.path, o.place)
	if o.err != nil {
		fmt.Fprintf(w, ": %v", o.err)
	}
	fmt.Fprintln(w)
	for _, t := range o.tests {
		if t.action == "fail" {
			fmt.Fprintf(w, "--- %s\n%s", t.name, t.output)
		}
	}
	if rest := strings.TrimSuffix(o.output, "FAIL\n"); rest != "" {
		fmt.Fprintf(w, "--- beside the tests\n%s", rest)
	}
}

func sorted[V any](m map[string]V) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
