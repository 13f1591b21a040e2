// Package jsontext reads JSON text piece by piece and quotes strings for it.
//
// encoding/json learns each type by reflection, which every process would pay anew: 0.2 ms
// for our record, 0.6 for a config of Docker's size, of the 3 ms that a whole container
// takes. Here the caller knows what it wants and asks for it. What no JSON grammar allows
// is refused (RFC 8259); which names, numbers and nulls make sense is the caller's to say.
package jsontext

import (
	"iter"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Scanner reads Text from its beginning. The first error stays, and behind it there is
// only the end of the text: a caller may look for it once, when all is read.
type Scanner struct {
	Text     string
	MaxDepth int // of nesting; bounds the recursion

	// AnyBytes takes strings as they come, for paths: bytes that are no UTF-8 stay, and
	// half of a surrogate pair becomes U+FFFD. Without it both are refused.
	AnyBytes bool

	pos   int
	depth int
	path  []Step
	err   *Error
}

// Step is one part of a path: a name, or an index.
type Step struct {
	Name  string
	Index int // -1: Name counts
}

// Error says what is wrong with the value at Path.
type Error struct {
	Path []Step
	What string
}

func (e *Error) Error() string { return e.What }

// Err is the first error, an *Error.
func (s *Scanner) Err() error {
	if s.err == nil {
		return nil
	}
	return s.err
}

// Fail refuses the value being read.
func (s *Scanner) Fail(what string) {
	if s.err == nil {
		s.err = &Error{slices.Clone(s.path), what}
	}
	s.pos = len(s.Text)
}

// broken text: say where, in the way editors count.
func (s *Scanner) broken(want string) {
	read := s.Text[:min(s.pos, len(s.Text))]
	line := strings.Count(read, "\n") + 1
	column := len(read) - strings.LastIndexByte(read, '\n')
	got := "the file ends"
	if s.pos < len(s.Text) {
		r, _ := utf8.DecodeRuneInString(s.Text[s.pos:])
		got = "got " + strconv.QuoteRune(r)
	}
	s.Fail("line " + strconv.Itoa(line) + ", column " + strconv.Itoa(column) +
		": not JSON: want " + want + ", " + got)
}

// Wrong refuses the next value because it is of another kind than wanted.
func (s *Scanner) Wrong(want string) {
	got := ""
	switch c := s.Peek(); {
	case c == '{':
		got = "an object"
	case c == '[':
		got = "an array"
	case c == '"':
		got = "a string"
	case c == 't', c == 'f':
		s.Skip()
		got = "a truth value"
	case c == 'n':
		s.Word("null")
		got = "null"
	case c == '-', '0' <= c && c <= '9':
		got = "a number"
	default:
		s.broken(want)
	}
	s.Fail("want " + want + ", got " + got)
}

// Peek returns the first byte of what comes next, 0 at the end.
func (s *Scanner) Peek() byte {
	for s.pos < len(s.Text) {
		switch c := s.Text[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

// End refuses text behind the value.
func (s *Scanner) End() {
	if s.Peek(); s.pos != len(s.Text) {
		s.broken("end of the file")
	}
}

func (s *Scanner) expect(c byte) {
	if s.Peek() != c {
		s.broken(strconv.QuoteRune(rune(c)))
		return
	}
	s.pos++
}

// Members walks over an object. The body of the loop must read each member's value.
func (s *Scanner) Members() iter.Seq[string] {
	return func(yield func(string) bool) {
		s.list('{', "',' or '}'", '}', func(int) bool {
			if s.Peek() != '"' {
				s.broken("a name in quotes")
				return false
			}
			name := s.Quoted()
			s.expect(':')
			return s.err == nil && s.step(Step{name, -1}, func() bool { return yield(name) })
		})
	}
}

// Elements walks over an array. The body of the loop must read each element.
func (s *Scanner) Elements() iter.Seq[int] {
	return func(yield func(int) bool) {
		s.list('[', "',' or ']'", ']', func(i int) bool {
			return s.step(Step{"", i}, func() bool { return yield(i) })
		})
	}
}

func (s *Scanner) step(to Step, read func() bool) bool {
	s.path = append(s.path, to)
	ok := read()
	s.path = s.path[:len(s.path)-1]
	return ok
}

func (s *Scanner) list(open byte, behind string, end byte, read func(i int) bool) {
	if s.depth++; s.depth > s.MaxDepth {
		s.Fail("nests deeper than " + strconv.Itoa(s.MaxDepth) + " levels")
	}
	s.expect(open)
	if s.Peek() == end {
		s.pos++
		s.depth--
		return
	}
	for i := 0; s.err == nil && read(i); i++ {
		switch s.Peek() {
		case ',':
			s.pos++
		case end:
			s.pos++
			s.depth--
			return
		default:
			s.broken(behind)
		}
	}
}

// Word reads null, true or false.
func (s *Scanner) Word(w string) {
	s.Peek()
	if !strings.HasPrefix(s.Text[s.pos:], w) {
		s.broken(w)
		return
	}
	s.pos += len(w)
}

// Number reads a number's text. The caller converts it, and strconv's refusal can then
// say what was wanted; here is refused what strconv takes and JSON does not.
func (s *Scanner) Number() string {
	if c := s.Peek(); c != '-' && (c < '0' || c > '9') {
		s.Wrong("a number")
		return ""
	}
	rest := s.Text[s.pos:]
	n := 1
	for n < len(rest) && strings.IndexByte("0123456789.eE+-", rest[n]) >= 0 {
		n++
	}
	digits := strings.TrimPrefix(rest[:n], "-")
	if digits == "" || len(digits) > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9' {
		s.broken("a number")
		return ""
	}
	s.pos += n
	return rest[:n]
}

func isNumber(text string) bool {
	digits := func() bool {
		rest := strings.TrimLeft(text, "0123456789")
		found := len(rest) < len(text)
		text = rest
		return found
	}
	text = strings.TrimPrefix(text, "-")
	if strings.HasPrefix(text, "0") {
		text = text[1:]
	} else if !digits() {
		return false
	}
	if strings.HasPrefix(text, ".") {
		if text = text[1:]; !digits() {
			return false
		}
	}
	if text != "" && text[0]|0x20 == 'e' {
		text = text[1:]
		if text != "" && (text[0] == '+' || text[0] == '-') {
			text = text[1:]
		}
		return digits() && text == ""
	}
	return text == ""
}

// Skip reads a value that nobody wants.
func (s *Scanner) Skip() {
	switch c := s.Peek(); c {
	case '{':
		for range s.Members() {
			s.Skip()
		}
	case '[':
		for range s.Elements() {
			s.Skip()
		}
	case '"':
		s.Quoted()
	case 't':
		s.Word("true")
	case 'f':
		s.Word("false")
	case 'n':
		s.Word("null")
	default:
		if c != '-' && (c < '0' || c > '9') {
			s.broken("a value")
			return
		}
		start := s.pos
		if text := s.Number(); s.err == nil && !isNumber(text) {
			s.pos = start
			s.broken("a number")
		}
	}
}

// Raw reads a value and returns its text; "" after an error.
func (s *Scanner) Raw() string {
	s.Peek()
	start := s.pos
	s.Skip()
	if s.err != nil {
		return ""
	}
	return s.Text[start:s.pos]
}
