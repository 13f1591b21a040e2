package wire

import (
	"errors"
	"math"
	"testing"
)

type sample struct {
	n    int64
	u    uint64
	yes  bool
	text string
	raw  []byte
	list []string
	ptr  *sample
}

func (s *sample) code(c *Coder) {
	Int(c, &s.n)
	Int(c, &s.u)
	Bool(c, &s.yes)
	String(c, &s.text)
	Bytes(c, &s.raw)
	Strings(c, &s.list)
	Ptr(c, &s.ptr, func(c *Coder, p *sample) { p.code(c) })
}

func TestExtremesSurvive(t *testing.T) {
	want := sample{
		n: math.MinInt64, u: math.MaxUint64, yes: true, text: "a\x00é", raw: []byte{0, 255},
		list: []string{"", "b"}, ptr: &sample{n: -1},
	}
	var got sample
	if err := Decode(Encode(want.code), got.code); err != nil {
		t.Fatal(err)
	}
	if got.n != want.n || got.u != want.u || !got.yes || got.text != want.text || string(got.raw) != string(want.raw) ||
		len(got.list) != 2 || got.list[1] != "b" || got.ptr == nil || got.ptr.n != -1 || got.ptr.ptr != nil {
		t.Errorf("got %+v", got)
	}
}

// TestLengthsAreNotBelieved: a length beyond the buffer neither allocates nor panics.
func TestLengthsAreNotBelieved(t *testing.T) {
	huge := Encode(func(c *Coder) { n := uint64(math.MaxUint64); c.Uint64(&n) })
	for name, walk := range map[string]func(*Coder){
		"string": func(c *Coder) { var s string; String(c, &s) },
		"bytes":  func(c *Coder) { var b []byte; Bytes(c, &b) },
		"list":   func(c *Coder) { var l []string; Strings(c, &l) },
	} {
		if err := Decode(huge, walk); !errors.Is(err, ErrShort) {
			t.Errorf("%s: got %v, want %v", name, err, ErrShort)
		}
	}
	if err := Decode([]byte{0x80}, func(c *Coder) { var n int; Int(c, &n) }); !errors.Is(err, ErrShort) {
		t.Errorf("half a number: %v", err)
	}
}
