package wiretest

import (
	"fmt"
	"strings"
	"testing"

	"thinrun/libcontainer/wire"
)

type config struct {
	A, B bool
	N    int64
	List []string
}

// errors keeps what a test would have said.
type errors struct {
	testing.TB
	said string
}

func (e *errors) Helper()                   {}
func (e *errors) Error(a ...any)            { e.said += fmt.Sprintln(a...) }
func (e *errors) Errorf(f string, a ...any) { e.said += fmt.Sprintf(f+"\n", a...) }

// TestMistakesAreSeen: each is one that a Code function can have.
func TestMistakesAreSeen(t *testing.T) {
	last := func(x *config, c *wire.Coder) { wire.Strings(c, &x.List) }
	for _, test := range []struct {
		name, want string
		code       func(*config, *wire.Coder)
	}{
		{"none", "", func(x *config, c *wire.Coder) { wire.Bool(c, &x.A); wire.Bool(c, &x.B); wire.Int(c, &x.N); last(x, c) }},
		{"forgotten", "every field filled", func(x *config, c *wire.Coder) { wire.Bool(c, &x.A); wire.Bool(c, &x.B); last(x, c) }},
		{"cut", "every field filled", func(x *config, c *wire.Coder) {
			wire.Bool(c, &x.A)
			wire.Bool(c, &x.B)
			n := int32(x.N)
			wire.Int(c, &n)
			x.N = int64(n)
			last(x, c)
		}},
		{"one flag for two", "only B", func(x *config, c *wire.Coder) {
			both := x.A
			wire.Bool(c, &both)
			x.A, x.B = both, both
			wire.Int(c, &x.N)
			last(x, c)
		}},
	} {
		e := &errors{TB: t}
		RoundTrip(e, test.code)
		if test.want == "" && e.said != "" || !strings.Contains(e.said, test.want) {
			t.Errorf("%s: want %q, got %s", test.name, test.want, e.said)
		}
	}
}
