package plan

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"

	"thinrun/libcontainer/bundle"
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

// mutate changes one value somewhere in a decoded config: its type, its size, its sign,
// or whether it is there.
func mutate(r *rand.Rand, v any, set func(any), unset func()) {
	down := r.Intn(8) > 0
	switch x := v.(type) {
	case map[string]any:
		if len(x) > 0 && down {
			names := slices.Sorted(maps.Keys(x))
			name := names[r.Intn(len(names))]
			mutate(r, x[name], func(n any) { x[name] = n }, func() { delete(x, name) })
			return
		}
	case []any:
		if len(x) > 0 && down {
			i := r.Intn(len(x))
			mutate(r, x[i], func(n any) { x[i] = n }, func() { set(append(x[:i:i], x[i+1:]...)) })
			return
		}
	}
	switch r.Intn(4) {
	case 0:
		unset()
	case 1: // another type
		set([]any{nil, true, "x", json.Number("7"), []any{}, map[string]any{}, []any{nil}, map[string]any{"": nil}}[r.Intn(8)])
	case 2: // another size or sign of the same
		switch x := v.(type) {
		case string:
			set([]any{"", strings.Repeat(x+"y", 3000), x + "\x00", "-" + x, x + "\n" + x, "../" + x, x + "\u2028é", " ", "/"}[r.Intn(9)])
		case json.Number:
			set(json.Number([]string{"0", "-1", "-" + strings.TrimPrefix(x.String(), "-"), "4294967295", "4294967296", "9223372036854775808",
				"18446744073709551615", "1e400", "0.5", "1" + strings.Repeat("0", 300)}[r.Intn(10)]))
		case bool:
			set(!x)
		case []any:
			long := x
			for len(long) > 0 && len(long) < 2000 {
				long = append(long, long...)
			}
			set(long)
		default:
			set(nil)
		}
	case 3: // the same once more, elsewhere
		set([]any{v, v})
	}
}

// mutant is one of the test's configs.
func mutant(t testing.TB, r *rand.Rand, base []byte) []byte {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(base))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	for range 1 + r.Intn(3) {
		mutate(r, tree, func(v any) { tree = v }, func() { tree = nil })
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	if r.Intn(4) == 0 && len(raw) > 0 { // broken text
		switch i := r.Intn(len(raw)); r.Intn(4) {
		case 0:
			raw = raw[:i]
		case 1:
			raw[i] = byte(r.Intn(256))
		case 2:
			raw = append(raw[:i:i], raw[min(len(raw), i+1+r.Intn(20)):]...)
		case 3:
			raw = append(raw[:i:i], append([]byte(strings.Repeat(`{"a":[`, r.Intn(300))), raw[i:]...)...)
		}
	}
	return raw
}

// TestMutantsAreAnsweredWithOneLine: no panic, no hang, no flood (runc 1.1 panicked on 5
// of 400 such). The seed is fixed; a failure prints the config.
func TestMutantsAreAnsweredWithOneLine(t *testing.T) {
	r := rand.New(rand.NewSource(20260401))
	all := bases(t)
	ran := 0
	const mutants = 2000
	for range mutants {
		if try(t, mutant(t, r, all[r.Intn(len(all))])) {
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
		f.Add(mutant(f, r, base))
	}
	f.Fuzz(func(t *testing.T, raw []byte) { try(t, raw) })
}
