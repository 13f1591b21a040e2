package bundle

import (
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The decoder of config.json.
//
// encoding/json builds a table for each type it meets, which every start would pay
// anew: 0.6 to 0.7 ms for a config of Docker's size in a cold process, 0.3 to 0.4 ms
// with encoding/json/v2, of the 3 ms that a whole container takes. Reading the tags of
// only those fields that occur costs a tenth of that. And a spec that decides about
// isolation wants to be read more strictly than encoding/json can: names match by case,
// nothing is given twice, a string is UTF-8 and holds no NUL, and an error names the
// path down to the index.
//
// Names that the spec does not know are skipped: config.md, Extensibility.

// maxDepth of nesting; runtime-spec needs 7. The limit bounds our recursion.
const maxDepth = 128

type decoder struct {
	data  string
	pos   int
	depth int
	path  []step
}

// step is one part of the path: a name, or an index.
type step struct {
	name  string
	index int // -1: name counts
}

// decode fills *to from JSON text. skip names top-level members that are not looked at.
func decode(text string, to any, skip func(name string) bool) (err *Error) {
	d := &decoder{data: text, path: make([]step, 0, 16)}
	defer func() {
		// The error leaves 20 levels of recursion at once; any other panic is a bug.
		if r := recover(); r != nil {
			e, ours := r.(*Error)
			if !ours {
				panic(r)
			}
			err = e
		}
	}()
	d.space()
	if d.pos == len(d.data) {
		d.fail("is empty")
	}
	d.object(reflect.ValueOf(to).Elem(), skip)
	d.space()
	if d.pos != len(d.data) {
		d.broken("end of the file")
	}
	return nil
}

func (d *decoder) where() string {
	path := ""
	for _, s := range d.path {
		if s.index >= 0 {
			path = Index(path, s.index)
		} else {
			path = Key(path, s.name)
		}
	}
	return path
}

func (d *decoder) fail(what string) {
	panic(&Error{Path: d.where(), What: what})
}

// broken text: say where, in the way editors count.
func (d *decoder) broken(want string) {
	read := d.data[:min(d.pos, len(d.data))]
	line := strings.Count(read, "\n") + 1
	column := len(read) - strings.LastIndexByte(read, '\n')
	got := "the file ends"
	if d.pos < len(d.data) {
		r, _ := utf8.DecodeRuneInString(d.data[d.pos:])
		got = "got " + strconv.QuoteRune(r)
	}
	d.fail("line " + strconv.Itoa(line) + ", column " + strconv.Itoa(column) +
		": not JSON: want " + want + ", " + got)
}

func (d *decoder) space() {
	for d.pos < len(d.data) {
		switch d.data[d.pos] {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return
		}
	}
}

// peek returns the next byte that is no space, 0 at the end.
func (d *decoder) peek() byte {
	d.space()
	if d.pos == len(d.data) {
		return 0
	}
	return d.data[d.pos]
}

func (d *decoder) expect(c byte) {
	if d.peek() != c {
		d.broken(strconv.QuoteRune(rune(c)))
	}
	d.pos++
}

func (d *decoder) enter() {
	if d.depth++; d.depth > maxDepth {
		d.fail("nests deeper than " + strconv.Itoa(maxDepth) + " levels")
	}
}

// members walks over an object.
func (d *decoder) members(each func(name string)) {
	d.enter()
	d.expect('{')
	if d.peek() == '}' {
		d.pos++
		d.depth--
		return
	}
	for {
		if d.peek() != '"' {
			d.broken("a name in quotes")
		}
		name := d.text(false)
		d.expect(':')
		d.path = append(d.path, step{name, -1})
		each(name)
		d.path = d.path[:len(d.path)-1]
		if d.peek() == ',' {
			d.pos++
			continue
		}
		if d.peek() != '}' {
			d.broken("',' or '}'")
		}
		d.pos++
		d.depth--
		return
	}
}

// elements walks over an array.
func (d *decoder) elements(each func()) {
	d.enter()
	d.expect('[')
	if d.peek() == ']' {
		d.pos++
		d.depth--
		return
	}
	for i := 0; ; i++ {
		d.path = append(d.path, step{"", i})
		each()
		d.path = d.path[:len(d.path)-1]
		if d.peek() == ',' {
			d.pos++
			continue
		}
		if d.peek() != ']' {
			d.broken("',' or ']'")
		}
		d.pos++
		d.depth--
		return
	}
}

// value reads what comes next into v. null leaves v as it is: Go writes it for an empty
// slice.
func (d *decoder) value(v reflect.Value) {
	c := d.peek()
	if c == 'n' {
		d.word("null")
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(v.Elem())
	case reflect.Struct:
		if c != '{' {
			d.wrong("an object")
		}
		d.object(v, nil)
	case reflect.Slice:
		d.list(v)
	case reflect.Map:
		d.table(v)
	case reflect.String:
		if c != '"' {
			d.wrong("a string")
		}
		v.SetString(d.text(true))
	case reflect.Bool:
		switch c {
		case 't':
			d.word("true")
			v.SetBool(true)
		case 'f':
			d.word("false")
			v.SetBool(false)
		default:
			d.wrong("true or false")
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		bits := v.Type().Bits()
		text := d.number()
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			d.fail("want a whole number from " + strconv.FormatInt(math.MinInt64>>(64-bits), 10) + " to " +
				strconv.FormatInt(math.MaxInt64>>(64-bits), 10) + ", got " + clip(text))
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		bits := v.Type().Bits()
		text := d.number()
		n, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			d.fail("want a whole number from 0 to " + strconv.FormatUint(math.MaxUint64>>(64-bits), 10) +
				", got " + clip(text))
		}
		v.SetUint(n)
	default: // an interface: nothing on Linux has one
		d.skip()
	}
}

// object reads the members of a struct.
func (d *decoder) object(v reflect.Value, skip func(string) bool) {
	if d.peek() != '{' {
		d.wrong("an object")
	}
	var seen uint64
	next := 0
	d.members(func(name string) {
		if skip != nil && skip(name) {
			d.skip()
			return
		}
		field, n := fieldByName(v, name, next)
		if !field.IsValid() {
			d.skip()
			return
		}
		if seen&(1<<n) != 0 {
			d.fail("is given twice")
		}
		seen |= 1 << n
		next = n + 1
		d.value(field)
	})
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
	if d.peek() != '[' {
		d.wrong(wanted(v.Type()))
	}
	// A list of strings is the bulk of every config: a seccomp profile names 400 calls.
	if list, ok := v.Addr().Interface().(*[]string); ok {
		out := make([]string, 0, 8)
		d.elements(func() {
			if d.peek() != '"' {
				d.wrong("a string")
			}
			out = append(out, d.text(true))
		})
		*list = out
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 4))
	d.elements(func() {
		n := v.Len()
		v.Grow(1)
		v.SetLen(n + 1)
		v.Index(n).SetZero()
		if d.peek() == 'n' {
			d.wrong(wanted(v.Type().Elem()))
		}
		d.value(v.Index(n))
	})
}

func (d *decoder) table(v reflect.Value) {
	if d.peek() != '{' {
		d.wrong("an object")
	}
	v.Set(reflect.MakeMap(v.Type()))
	d.members(func(name string) {
		if strings.IndexByte(name, 0) >= 0 {
			d.fail("name contains a NUL byte")
		}
		key := reflect.ValueOf(name)
		if v.MapIndex(key).IsValid() {
			d.fail("is given twice")
		}
		if d.peek() == 'n' {
			d.wrong(wanted(v.Type().Elem()))
		}
		val := reflect.New(v.Type().Elem()).Elem()
		d.value(val)
		v.SetMapIndex(key, val)
	})
}

// text reads a string. Of a value, NUL is refused here once for all fields: none of them
// reaches the kernel whole with one (CVE-2021-43784 was such a string).
func (d *decoder) text(value bool) string {
	d.pos++
	start := d.pos
	for d.pos < len(d.data) {
		switch c := d.data[d.pos]; {
		case c == '"':
			s := d.data[start:d.pos]
			d.pos++
			if !utf8.ValidString(s) {
				d.fail("is not valid UTF-8")
			}
			return s
		case c == '\\':
			return d.escaped(start, value)
		case c < ' ':
			d.broken("a string without control characters")
		default:
			d.pos++
		}
	}
	d.broken("'\"'")
	return ""
}

// escaped reads the rest of a string that holds a backslash.
func (d *decoder) escaped(start int, value bool) string {
	out := append(make([]byte, 0, d.pos-start+32), d.data[start:d.pos]...)
	for d.pos < len(d.data) {
		c := d.data[d.pos]
		switch {
		case c == '"':
			d.pos++
			if !utf8.Valid(out) {
				d.fail("is not valid UTF-8")
			}
			return string(out)
		case c < ' ':
			d.broken("a string without control characters")
		case c != '\\':
			out = append(out, c)
			d.pos++
			continue
		}
		d.pos++
		if d.pos == len(d.data) {
			break
		}
		c = d.data[d.pos]
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
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
			r := d.hex4(d.pos + 1)
			d.pos += 4
			if utf16.IsSurrogate(r) {
				low := rune(-1)
				if strings.HasPrefix(d.data[d.pos+1:], `\u`) {
					low = d.hex4(d.pos + 3)
				}
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
					d.fail("is not valid UTF-8 (half of a surrogate pair)")
				}
				d.pos += 6
			}
			if r == 0 && value {
				d.fail("contains a NUL byte")
			}
			out = utf8.AppendRune(out, r)
		default:
			d.broken("an escape of JSON")
		}
		d.pos++
	}
	d.broken("'\"'")
	return ""
}

func (d *decoder) hex4(at int) rune {
	if at+4 > len(d.data) {
		d.pos = len(d.data)
		d.broken("four hex digits")
	}
	n, err := strconv.ParseUint(d.data[at:at+4], 16, 16)
	if err != nil {
		d.pos = at
		d.broken("four hex digits")
	}
	return rune(n)
}

// number reads a number's text; its form is checked by the caller's conversion, except
// for what strconv takes and JSON does not.
func (d *decoder) number() string {
	c := d.peek()
	if c != '-' && (c < '0' || c > '9') {
		d.wrong("a number")
	}
	start := d.pos
	d.pos++
	for d.pos < len(d.data) && strings.IndexByte("0123456789.eE+-", d.data[d.pos]) >= 0 {
		d.pos++
	}
	text := d.data[start:d.pos]
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		d.pos = start
		d.broken("a number")
	}
	return text
}

func (d *decoder) word(w string) {
	if !strings.HasPrefix(d.data[d.pos:], w) {
		d.broken(w)
	}
	d.pos += len(w)
}

// skip reads a value that nobody wants.
func (d *decoder) skip() {
	switch c := d.peek(); c {
	case '{':
		d.members(func(string) { d.skip() })
	case '[':
		d.elements(d.skip)
	case '"':
		d.text(false)
	case 't':
		d.word("true")
	case 'f':
		d.word("false")
	case 'n':
		d.word("null")
	default:
		if c != '-' && (c < '0' || c > '9') {
			d.broken("a value")
		}
		text := d.number()
		if _, err := strconv.ParseFloat(text, 64); err != nil && !isRange(err) {
			d.pos -= len(text)
			d.broken("a number")
		}
	}
}

func isRange(err error) bool {
	e, ok := err.(*strconv.NumError)
	return ok && e.Err == strconv.ErrRange
}

// wrong says that the next value is of another kind.
func (d *decoder) wrong(want string) {
	got := ""
	switch c := d.peek(); {
	case c == '{':
		got = "an object"
	case c == '[':
		got = "an array"
	case c == '"':
		got = "a string"
	case c == 't', c == 'f':
		d.skip()
		got = "a truth value"
	case c == 'n':
		d.word("null")
		got = "null"
	case c == '-', '0' <= c && c <= '9':
		got = "a number"
	default:
		d.broken(want)
	}
	d.fail("want " + want + ", got " + got)
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
