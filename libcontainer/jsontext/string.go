package jsontext

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Quoted reads a string. It may hold a NUL, written \u0000: whether that can stay is for
// the caller to say.
func (s *Scanner) Quoted() string {
	s.expect('"')
	start := s.pos
	for s.pos < len(s.Text) {
		switch c := s.Text[s.pos]; {
		case c == '"':
			text := s.Text[start:s.pos]
			s.pos++
			if !s.AnyBytes && !utf8.ValidString(text) {
				s.Fail("is not valid UTF-8")
			}
			return text
		case c == '\\':
			return s.escaped(start)
		case c < ' ':
			s.broken("a string without control characters")
		default:
			s.pos++
		}
	}
	s.broken("'\"'")
	return ""
}

// escaped reads the rest of a string that holds a backslash.
func (s *Scanner) escaped(start int) string {
	out := append(make([]byte, 0, s.pos-start+32), s.Text[start:s.pos]...)
	for s.pos < len(s.Text) {
		c := s.Text[s.pos]
		switch {
		case c == '"':
			s.pos++
			if !s.AnyBytes && !utf8.Valid(out) {
				s.Fail("is not valid UTF-8")
			}
			return string(out)
		case c == '\\':
			s.pos++
			out = s.escape(out)
		case c < ' ':
			s.broken("a string without control characters")
		default:
			out = append(out, c)
			s.pos++
		}
	}
	s.broken("'\"'")
	return ""
}

// escape reads what follows a backslash.
func (s *Scanner) escape(out []byte) []byte {
	const letters, meant = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if s.pos == len(s.Text) {
		return out
	}
	c := s.Text[s.pos]
	if i := strings.IndexByte(letters, c); i >= 0 {
		s.pos++
		return append(out, meant[i])
	}
	if c != 'u' {
		s.broken("an escape of JSON")
		return out
	}
	r := s.hex4(s.pos + 1)
	if s.err != nil {
		return out
	}
	s.pos += 5
	if utf16.IsSurrogate(r) {
		low := rune(-1)
		if strings.HasPrefix(s.Text[s.pos:], `\u`) {
			low = s.hex4(s.pos + 2)
		}
		if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
			s.pos += 6
		} else if !s.AnyBytes {
			s.Fail("is not valid UTF-8 (half of a surrogate pair)")
		}
	}
	return utf8.AppendRune(out, r)
}

func (s *Scanner) hex4(at int) rune {
	if at+4 > len(s.Text) {
		s.pos = len(s.Text)
		s.broken("four hex digits")
		return 0
	}
	n, err := strconv.ParseUint(s.Text[at:at+4], 16, 16)
	if err != nil {
		s.pos = at
		s.broken("four hex digits")
	}
	return rune(n)
}

// Quote appends s as a string of JSON. Bytes that are no UTF-8 stay as they are.
func Quote(out []byte, s string) []byte {
	const hex = "0123456789abcdef"
	out = append(out, '"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			out = append(out, '\\', c)
		case c == '\n':
			out = append(out, '\\', 'n')
		case c < ' ':
			out = append(out, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		default:
			out = append(out, c)
		}
	}
	return append(out, '"')
}
