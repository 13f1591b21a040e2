package plan

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"os"
	"strings"
	"testing"

	"thinrun/libcontainer/bundle"
	"thinrun/tests/mutant"
)

// bases are the golden configs.
func bases(t testing.TB) [][]byte {
	t.Helper()
	var out [][]byte
	for _, c := range cases {
		raw, err := os.ReadFile("testdata/" + c.name + "/config.json")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, raw)
	}
	return out
}

// try does all that create does with a config before it touches anything. It fails the
// test when the error is not one line of 1 to 4096 bytes.
func try(t testing.TB, raw []byte) (ran bool) {
	t.Helper()
	check := func(err error) {
		if text := err.Error(); len(text) == 0 || len(text) > 4096 || strings.ContainsAny(text, "\n\r\x00") {
			t.Errorf("error of %d bytes, or not one line: %.300q\nconfig: %.2000q", len(text), text, raw)
		}
	}
	b, err := bundle.Parse(raw)
	if err != nil {
		check(err)
		return false
	}
	for _, facts := range []Facts{host(), hostV1()} {
		p, err := New(b.Spec, request(), facts)
		if err != nil {
			check(err)
			continue
		}
		text, err := json.Marshal(p)
		if err != nil || !json.Valid(text) {
			t.Errorf("the plan is no JSON: %v\nconfig: %.2000q", err, raw)
		}
		ran = true
	}
	if _, err := NewExec(b.Spec, b.Spec.Process, ExecOptions{ID: "c1", Args: []string{"a"}}); err != nil {
		check(err)
	}
	again, err := bundle.Parse(bundle.Encode(b.Spec))
	if err != nil {
		t.Errorf("what was read is refused when written again: %v\nconfig: %.2000q", err, raw)
	} else if !bytes.Equal(bundle.Encode(again.Spec), bundle.Encode(b.Spec)) {
		t.Errorf("written and read again it is another: %.2000q", raw)
	}
	return ran
}

// TestMutantsAreAnsweredWithOneLine: no panic, no hang, no flood (runc 1.1 panicked on 5
// of 400 such). The seed is fixed; a failure prints the config.
func TestMutantsAreAnsweredWithOneLine(t *testing.T) {
	r := rand.New(rand.NewSource(20260401))
	all := bases(t)
	ran := 0
	const mutants = 1000
	for range mutants {
		if try(t, mutant.Of(t, r, all[r.Intn(len(all))])) {
			ran++
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d accepted, %d refused", ran, mutants-ran)
	if ran < mutants/20 || ran > mutants*19/20 {
		t.Errorf("%d of %d mutants were accepted; the test has become one-sided", ran, mutants)
	}
}

// FuzzLoad looks for more of them: go test -fuzz FuzzLoad ./libcontainer/plan
func FuzzLoad(f *testing.F) {
	for _, base := range bases(f) {
		f.Add(base)
	}
	r := rand.New(rand.NewSource(1))
	for _, base := range bases(f) {
		f.Add(mutant.Of(f, r, base))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { try(t, raw) })
}
