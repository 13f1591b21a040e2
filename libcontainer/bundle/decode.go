package bundle

import (
	"errors"
	"math"
	"reflect"
	"strconv"
	"strings"

	"thinrun/libcontainer/jsontext"
)

// The decoder of config.json.
//
// encoding/json builds a table for each type it meets, which every start would pay
// anew: 0.6 to 0.7 ms for a config of Docker's size in a cold process, 0.3 to 0.4 ms
// with encoding/json/v2. Reading the tags of only those fields that occur costs a tenth
// of that. And a spec that decides about isolation wants to be read more strictly than
// encoding/json can: names match by case, nothing is given twice, a string is UTF-8 and
// holds no NUL, and an error names the path down to the index.
//
// Names that the spec does not know are skipped: config.md, Extensibility.

// maxDepth of nesting; runtime-spec needs 7. The limit bounds our recursion.
const maxDepth = 128

type decoder struct{ jsontext.Scanner }

// decode fills *to from JSON text. skip names top-level members that are not looked at.
func decode(text string, to any, skip func(name string) bool) *Error {
	if strings.TrimLeft(text, " \t\n\r") == "" {
		return &Error{What: "is empty"}
	}
	d := &decoder{jsontext.Scanner{Text: text, MaxDepth: maxDepth}}
	d.object(reflect.ValueOf(to).Elem(), skip)
	d.End()
	var e *jsontext.Error
	if !errors.As(d.Err(), &e) {
		return nil
	}
	path := ""
	for _, s := range e.Path {
		if s.Index >= 0 {
			path = Index(path, s.Index)
		} else {
			path = Key(path, s.Name)
		}
	}
	return &Error{Path: path, What: e.What}
}

// value reads what comes next into v. null leaves v as it is: Go writes it for an empty
// slice.
func (d *decoder) value(v reflect.Value) {
	c := d.Peek()
	if c == 'n' {
		d.Word("null")
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(v.Elem())
	case reflect.Struct:
		if c != '{' {
			d.Wrong("an object")
		}
		d.object(v, nil)
	case reflect.Slice:
		d.list(v)
	case reflect.Map:
		d.table(v)
	case reflect.String:
		if c != '"' {
			d.Wrong("a string")
		}
		v.SetString(d.text())
	case reflect.Bool:
		switch c {
		case 't':
			d.Word("true")
			v.SetBool(true)
		case 'f':
			d.Word("false")
			v.SetBool(false)
		default:
			d.Wrong("true or false")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		bits := v.Type().Bits()
		text := d.Number()
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			d.Fail("want a whole number from " + strconv.FormatInt(math.MinInt64>>(64-bits), 10) + " to " +
				strconv.FormatInt(math.MaxInt64>>(64-bits), 10) + ", got " + clip(text))
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		bits := v.Type().Bits()
		text := d.Number()
		n, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			d.Fail("want a whole number from 0 to " + strconv.FormatUint(math.MaxUint64>>(64-bits), 10) +
				", got " + clip(text))
		}
		v.SetUint(n)
	default: // an interface: nothing on Linux has one
		d.Skip()
	}
}

// object reads the members of a struct.
func (d *decoder) object(v reflect.Value, skip func(string) bool) {
	if d.Peek() != '{' {
		d.Wrong("an object")
	}
	var seen uint64
	next := 0
	for name := range d.Members() {
		if skip != nil && skip(name) {
			d.Skip()
			continue
		}
		field, n := fieldByName(v, name, next)
		if !field.IsValid() {
			d.Skip()
			continue
		}
		if seen&(1<<n) != 0 {
			d.Fail("is given twice")
		}
		seen |= 1 << n
		next = n + 1
		d.value(field)
	}
}

// fieldByName finds the field with that JSON name, first looking where the writer, if it
// was Go, has put it: behind the one before. It also returns a number for the field.
func fieldByName(v reflect.Value, name string, from int) (reflect.Value, int) {
	t := v.Type()
	count := t.NumField()
	for i := range count {
		n := (from + i) % count
		f := t.Field(n)
		if f.Anonymous {
			if inner, k := fieldByName(v.Field(n), name, 0); inner.IsValid() {
				return inner, count + k
			}
			continue
		}
		tag := f.Tag.Get("json")
		if comma := strings.IndexByte(tag, ','); comma >= 0 {
			tag = tag[:comma]
		}
		if tag == name {
			return v.Field(n), n
		}
	}
	return reflect.Value{}, 0
}

func (d *decoder) list(v reflect.Value) {
	if d.Peek() != '[' {
		d.Wrong(wanted(v.Type()))
	}
	// A list of strings is the bulk of every config: a seccomp profile names 400 calls.
	if list, ok := v.Addr().Interface().(*[]string); ok {
		out := make([]string, 0, 8)
		for range d.Elements() {
			if d.Peek() != '"' {
				d.Wrong("a string")
			}
			out = append(out, d.text())
		}
		*list = out
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 4))
	for n := range d.Elements() {
		v.Grow(1)
		v.SetLen(n + 1)
		v.Index(n).SetZero()
		if d.Peek() == 'n' {
			d.Wrong(wanted(v.Type().Elem()))
		}
		d.value(v.Index(n))
	}
}

func (d *decoder) table(v reflect.Value) {
	if d.Peek() != '{' {
		d.Wrong("an object")
	}
	v.Set(reflect.MakeMap(v.Type()))
	for name := range d.Members() {
		if strings.IndexByte(name, 0) >= 0 {
			d.Fail("name contains a NUL byte")
		}
		key := reflect.ValueOf(name)
		if v.MapIndex(key).IsValid() {
			d.Fail("is given twice")
		}
		if d.Peek() == 'n' {
			d.Wrong(wanted(v.Type().Elem()))
		}
		val := reflect.New(v.Type().Elem()).Elem()
		d.value(val)
		v.SetMapIndex(key, val)
	}
}

// text reads a string. NUL is refused here once for all fields: none of them reaches the
// kernel whole with one (CVE-2021-43784 was such a string).
func (d *decoder) text() string {
	s := d.Quoted()
	if strings.IndexByte(s, 0) >= 0 {
		d.Fail("contains a NUL byte")
	}
	return s
}

// wanted is a type in the reader's words.
func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return wanted(t.Elem())
	case reflect.Slice:
		return "an array of " + strings.TrimPrefix(strings.TrimPrefix(wanted(t.Elem()), "an "), "a ") + "s"
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Struct, reflect.Map:
		return "an object"
	}
	return "a number"
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
