package state

import (
	"bytes"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"thinrun/rootfs/storage"
)

// text is the record as JSON, coded as wire codes the plan: one walk names each field
// once and serves both directions. encoding/json does the same and pays 0.2 ms in every
// process for learning the type by reflection; each command reads the record, most of
// them nothing else. A test holds the two against each other.
//
// One thing differs: bytes of a string that are no UTF-8 stay as they are. A path may
// hold them, and delete must find the same path.
type text struct {
	buf     []byte // reading: exactly one value
	reading bool
	bad     bool
	depth   int
}

// encode returns the record, indented for the stranger.
func encode(r *Record) []byte {
	t := &text{buf: make([]byte, 0, 2048)}
	t.record(r)
	return append(t.buf, '\n')
}

// decode fills r and tells whether all of data was one object whose known members have
// the right types. Members that it does not know are passed over.
func decode(data []byte, r *Record) bool {
	data = space(data)
	rest, ok := skip(data, 0)
	if !ok || len(space(rest)) > 0 {
		return false
	}
	t := &text{buf: data[:len(data)-len(rest)], reading: true}
	t.record(r)
	return !t.bad
}

func (t *text) record(r *Record) {
	t.object(func(o *object) {
		always(o, "version", &r.Version, number)
		always(o, "id", &r.ID, str)
		always(o, "ociVersion", &r.OCIVersion, str)
		always(o, "phase", &r.Phase, str)
		always(o, "bundle", &r.Bundle, str)
		always(o, "rootfs", &r.Rootfs, str)
		always(o, "created", &r.Created, instant)
		always(o, "owner", &r.Owner, number)
		strMap(o, "annotations", &r.Annotations)
		always(o, "runtime", &r.Runtime, process)
		always(o, "init", &r.Init, process)
		always(o, "cgroup", &r.Cgroup, cgroup)
		always(o, "storage", &r.Storage, claim)
		list(o, "namespaces", &r.Namespaces, str)
		maybe(o, "intelRdt", &r.IntelRdt, str)
		list(o, "poststop", &r.Poststop, hook)
		maybe(o, "hasPoststart", &r.HasPoststart, boolean)
	})
}

func process(t *text, p *Process) {
	t.object(func(o *object) {
		always(o, "pid", &p.PID, number)
		always(o, "startTime", &p.StartTime, number)
		always(o, "bootId", &p.BootID, str)
		maybe(o, "inode", &p.Inode, number)
	})
}

func cgroup(t *text, c *Cgroup) {
	t.object(func(o *object) {
		maybe(o, "manager", &c.Manager, str)
		maybe(o, "path", &c.Path, str)
		strMap(o, "paths", &c.Paths)
		maybe(o, "existed", &c.Existed, boolean)
		maybe(o, "made", &c.Made, boolean)
	})
}

func claim(t *text, c *storage.Claim) {
	t.object(func(o *object) {
		always(o, "driver", &c.Driver, str)
		maybe(o, "storage", &c.Storage, str)
		maybe(o, "image", &c.Image, str)
		maybe(o, "layer", &c.Layer, str)
		maybe(o, "pool", &c.Pool, str)
		maybe(o, "thinId", &c.ThinID, number)
		maybe(o, "device", &c.Device, str)
		maybe(o, "dir", &c.Dir, str)
		maybe(o, "key", &c.Key, str)
		maybe(o, "key", &c.Key, str)
	})
}

func hook(t *text, h *Hook) {
	t.object(func(o *object) {
		always(o, "path", &h.Path, str)
		list(o, "args", &h.Args, str)
		list(o, "env", &h.Env, str)
		maybe(o, "timeout", &h.Timeout, number)
	})
}

// object is the members of one JSON object: written as they come, or split for reading.
type object struct {
	t       *text
	members []member
	written int
}

type member struct {
	name  string
	value []byte
}

func (t *text) object(walk func(*object)) {
	o := &object{t: t}
	if t.reading {
		o.members = t.members()
		walk(o)
		return
	}
	t.buf = append(t.buf, '{')
	t.depth++
	walk(o)
	t.depth--
	if o.written > 0 {
		t.line()
	}
	t.buf = append(t.buf, '}')
}

func (t *text) line() {
	t.buf = append(t.buf, '\n')
	for range t.depth {
		t.buf = append(t.buf, "  "...)
	}
}

// always codes a member. In reading, one that is missing leaves the value alone.
func always[T any](o *object, name string, p *T, value func(*text, *T)) {
	t := o.t
	if !t.reading {
		t.next(o.written)
		o.written++
		t.buf = append(quote(t.buf, name), ": "...)
		value(t, p)
		return
	}
	for _, m := range slices.Backward(o.members) { // the last one counts, as in encoding/json
		if m.name == name {
			t.bad = t.bad || !read(m.value, p, value)
			return
		}
	}
}

// maybe leaves a zero value out.
func maybe[T comparable](o *object, name string, p *T, value func(*text, *T)) {
	var zero T
	if o.t.reading || *p != zero {
		always(o, name, p, value)
	}
}

// list codes an array, and leaves out one that is empty.
func list[T any](o *object, name string, p *[]T, value func(*text, *T)) {
	if !o.t.reading && len(*p) == 0 {
		return
	}
	always(o, name, p, func(t *text, p *[]T) {
		if t.reading {
			for _, e := range t.elements() {
				var v T
				t.bad = t.bad || !read(e, &v, value)
				*p = append(*p, v)
			}
			return
		}
		t.buf = append(t.buf, '[')
		t.depth++
		for i := range *p {
			t.next(i)
			value(t, &(*p)[i])
		}
		t.depth--
		t.line()
		t.buf = append(t.buf, ']')
	})
}

// strMap codes an object with any names, sorted; leaves out one that is empty.
func strMap(o *object, name string, p *map[string]string) {
	if !o.t.reading && len(*p) == 0 {
		return
	}
	always(o, name, p, func(t *text, p *map[string]string) {
		t.object(func(o *object) {
			if t.reading {
				*p = make(map[string]string, len(o.members))
				for _, m := range o.members {
					var v string
					t.bad = t.bad || !read(m.value, &v, str)
					(*p)[m.name] = v
				}
				return
			}
			keys := make([]string, 0, len(*p))
			for key := range *p {
				keys = append(keys, key)
			}
			slices.Sort(keys)
			for _, key := range keys {
				v := (*p)[key]
				always(o, key, &v, str)
			}
		})
	})
}

func (t *text) next(written int) {
	if written > 0 {
		t.buf = append(t.buf, ',')
	}
	t.line()
}

// read decodes one value; null leaves p alone.
func read[T any](raw []byte, p *T, value func(*text, *T)) bool {
	if string(raw) == "null" {
		return true
	}
	t := &text{buf: raw, reading: true}
	value(t, p)
	return !t.bad
}

func str[T ~string](t *text, p *T) {
	if !t.reading {
		t.buf = quote(t.buf, string(*p))
		return
	}
	s, ok := unquote(t.buf)
	*p, t.bad = T(s), !ok
}

func boolean(t *text, p *bool) {
	if !t.reading {
		t.buf = strconv.AppendBool(t.buf, *p)
		return
	}
	*p = string(t.buf) == "true"
	t.bad = !*p && string(t.buf) != "false"
}

func number[T int | uint32 | uint64](t *text, p *T) {
	if !t.reading {
		if *p < 0 {
			t.buf = strconv.AppendInt(t.buf, int64(*p), 10)
			return
		}
		t.buf = strconv.AppendUint(t.buf, uint64(*p), 10)
		return
	}
	digits, negative := bytes.CutPrefix(t.buf, []byte("-"))
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if negative {
		n = -n
	}
	*p = T(n)
	// What was cut off or changed its sign did not fit.
	t.bad = err != nil || uint64(*p) != n || n != 0 && (*p < 0) != negative
}

func instant(t *text, p *time.Time) {
	s := p.UTC().Format(time.RFC3339Nano) // a local zone would be looked up in /etc
	str(t, &s)
	if t.reading && !t.bad {
		var err error
		*p, err = time.Parse(time.RFC3339Nano, s)
		t.bad = err != nil
	}
}

// members splits an object that skip has seen whole.
func (t *text) members() (all []member) {
	if len(t.buf) == 0 || t.buf[0] != '{' {
		t.bad = true
		return nil
	}
	for b := space(t.buf[1:]); b[0] != '}'; {
		rest, _ := skip(b, 0)
		name, ok := unquote(b[:len(b)-len(rest)])
		t.bad = t.bad || !ok
		b = space(space(rest)[1:]) // over the colon
		rest, _ = skip(b, 0)
		all = append(all, member{name, b[:len(b)-len(rest)]})
		if b = space(rest); b[0] == ',' {
			b = space(b[1:])
		}
	}
	return all
}

// elements splits an array that skip has seen whole.
func (t *text) elements() (all [][]byte) {
	if len(t.buf) == 0 || t.buf[0] != '[' {
		t.bad = true
		return nil
	}
	for b := space(t.buf[1:]); b[0] != ']'; {
		rest, _ := skip(b, 0)
		all = append(all, b[:len(b)-len(rest)])
		if b = space(rest); b[0] == ',' {
			b = space(b[1:])
		}
	}
	return all
}

func space(b []byte) []byte { return bytes.TrimLeft(b, " \t\r\n") }

// skip returns what follows the value at the start of b, and whether that value is
// whole. Scalars are checked when they are read.
func skip(b []byte, depth int) (rest []byte, ok bool) {
	if len(b) == 0 || depth > 16 { // a record is three deep
		return nil, false
	}
	switch b[0] {
	case '"':
		for i := 1; i < len(b); i++ {
			switch b[i] {
			case '\\':
				i++
			case '"':
				return b[i+1:], true
			}
		}
		return nil, false
	case '{':
		return skipAll(b, '}', depth, true)
	case '[':
		return skipAll(b, ']', depth, false)
	default:
		n := bytes.IndexAny(b, " \t\r\n,]}:")
		if n < 0 {
			n = len(b)
		}
		return b[n:], n > 0
	}
}

func skipAll(b []byte, end byte, depth int, named bool) (rest []byte, ok bool) {
	b = space(b[1:])
	if len(b) > 0 && b[0] == end {
		return b[1:], true
	}
	for {
		if named {
			if b, ok = skip(b, depth+1); !ok {
				return nil, false
			}
			if b = space(b); len(b) == 0 || b[0] != ':' {
				return nil, false
			}
			b = space(b[1:])
		}
		if b, ok = skip(b, depth+1); !ok {
			return nil, false
		}
		b = space(b)
		switch {
		case len(b) > 0 && b[0] == end:
			return b[1:], true
		case len(b) > 0 && b[0] == ',':
			b = space(b[1:])
		default:
			return nil, false
		}
	}
}

func quote(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c == '\n':
			b = append(b, '\\', 'n')
		case c < ' ':
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

func unquote(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	raw = raw[1 : len(raw)-1]
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw), true
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			continue
		}
		if i++; i == len(raw) {
			return "", false
		}
		switch raw[i] {
		case '"', '\\', '/':
			out = append(out, raw[i])
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := hex4(raw[i+1:])
			if !ok {
				return "", false
			}
			i += 4
			if utf16.IsSurrogate(r) {
				low, ok := rune(0), false
				if bytes.HasPrefix(raw[i+1:], []byte(`\u`)) {
					low, ok = hex4(raw[i+3:])
				}
				if r = utf16.DecodeRune(r, low); ok && r != utf8.RuneError {
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", false
		}
	}
	return string(out), true
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	return rune(n), err == nil
}
