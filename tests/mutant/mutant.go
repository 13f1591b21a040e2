// Package mutant makes configs that are wrong in a few places out of good ones.
package mutant

import (
	"bytes"
	"encoding/json"
	"maps"
	"math/rand"
	"slices"
	"strings"
	"testing"
)

// Of changes one to three values of a config, and every fourth one as text.
func Of(t testing.TB, r *rand.Rand, base []byte) []byte {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(base))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	for range 1 + r.Intn(3) {
		tree = change(r, tree)
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	if r.Intn(4) > 0 {
		return raw
	}
	at := r.Intn(len(raw))
	switch r.Intn(4) {
	case 0: // cut
		return raw[:at]
	case 1: // another byte
		raw[at] = byte(r.Intn(256))
		return raw
	case 2: // a hole
		return slices.Delete(raw, at, min(len(raw), at+1+r.Intn(20)))
	default: // very deep
		return slices.Insert(raw, at, []byte(strings.Repeat(`{"a":[`, r.Intn(300)))...)
	}
}

// absent is what change returns for a value that is to be left out.
var absent = new(int)

// change returns v with one value in it, or itself, of another type, size or sign, or
// absent, or twice. All values are equally likely.
func change(r *rand.Rand, v any) any {
	n := r.Intn(count(v))
	return at(v, &n, func(v any) any {
		switch r.Intn(8) {
		case 0, 1:
			return absent
		case 2:
			other := []any{nil, true, "x", json.Number("7"), []any{}, map[string]any{}, []any{nil}, map[string]any{"": nil}}
			return other[r.Intn(len(other))]
		case 3:
			return []any{v, v}
		}
		return resize(r, v)
	})
}

func count(v any) int {
	n := 1
	switch v := v.(type) {
	case map[string]any:
		for _, below := range v {
			n += count(below)
		}
	case []any:
		for _, below := range v {
			n += count(below)
		}
	}
	return n
}

// at replaces the n-th value.
func at(v any, n *int, replace func(any) any) any {
	if *n--; *n == -1 {
		return replace(v)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if v[name] = at(v[name], n, replace); v[name] == any(absent) {
				delete(v, name)
			}
			if *n < 0 {
				break
			}
		}
	case []any:
		for i := range v {
			if v[i] = at(v[i], n, replace); v[i] == any(absent) {
				return slices.Delete(v, i, i+1)
			}
			if *n < 0 {
				break
			}
		}
	}
	return v
}

// resize is another value of the same type.
func resize(r *rand.Rand, v any) any {
	switch v := v.(type) {
	case string:
		other := []string{"", strings.Repeat(v+"y", 3000), v + "\x00", "-" + v, v + "\n" + v, "../" + v, v + "\u2028\u00e9", " ", "/", v + "x"}
		return other[r.Intn(len(other))]
	case json.Number:
		other := []json.Number{"0", "1", "-1", "-" + v, "4294967295", "4294967296", "9223372036854775808", "18446744073709551615", "1e400", "0.5",
			"1" + json.Number(strings.Repeat("0", 300))}
		if v[0] == '-' {
			other[3] = v[1:]
		}
		return other[r.Intn(len(other))]
	case bool:
		return !v
	case []any:
		for len(v) > 0 && len(v) < 2000 {
			v = append(v, v...)
		}
		return v
	}
	return map[string]any{}
}
