package state

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"thinrun/libcontainer/jsontext"
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
	buf     []byte // being written
	value   string // being read: exactly one
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
	t := &text{value: string(data), reading: true}
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
		list(o, "poststop", &r.Poststop, hook)
		maybe(o, "hasPoststart", &r.HasPoststart, boolean)
		maybe(o, "ephemeral", &r.Ephemeral, boolean)
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
	name, value string
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
		t.buf = append(jsontext.Quote(t.buf, name), ": "...)
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
			for _, key := range slices.Sorted(maps.Keys(*p)) {
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
func read[T any](raw string, p *T, value func(*text, *T)) bool {
	if raw == "null" {
		return true
	}
	t := &text{value: raw, reading: true}
	value(t, p)
	return !t.bad
}

func str[T ~string](t *text, p *T) {
	if !t.reading {
		t.buf = jsontext.Quote(t.buf, string(*p))
		return
	}
	s := t.scanner()
	*p = T(s.Quoted())
	t.bad = s.Err() != nil
}

func boolean(t *text, p *bool) {
	if !t.reading {
		t.buf = strconv.AppendBool(t.buf, *p)
		return
	}
	*p = t.value == "true"
	t.bad = !*p && t.value != "false"
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
	digits, negative := strings.CutPrefix(t.value, "-")
	n, err := strconv.ParseUint(digits, 10, 64)
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

func (t *text) scanner() *jsontext.Scanner {
	return &jsontext.Scanner{Text: t.value, MaxDepth: 16, AnyBytes: true} // a record is three deep
}

// members splits an object.
func (t *text) members() (all []member) {
	s := t.scanner()
	for name := range s.Members() {
		all = append(all, member{name, s.Raw()})
	}
	s.End()
	t.bad = s.Err() != nil
	return all
}

// elements splits an array.
func (t *text) elements() (all []string) {
	s := t.scanner()
	for range s.Elements() {
		all = append(all, s.Raw())
	}
	t.bad = s.Err() != nil
	return all
}
