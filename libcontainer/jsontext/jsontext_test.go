package jsontext

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// tree reads any value the way callers do.
func tree(s *Scanner) any {
	switch s.Peek() {
	case '{':
		m := make(map[string]any)
		for name := range s.Members() {
			m[name] = tree(s)
		}
		return m
	case '[':
		l := []any{}
		for i := range s.Elements() {
			if i != len(l) {
				panic("elements are counted wrong")
			}
			l = append(l, tree(s))
		}
		return l
	case '"':
		return s.Quoted()
	case 't':
		s.Word("true")
		return true
	case 'f':
		s.Word("false")
		return false
	case 'n':
		s.Word("null")
		return nil
	}
	return json.Number(s.Raw())
}

// FuzzAgainstEncodingJSON: both take the same texts and read the same from them.
func FuzzAgainstEncodingJSON(f *testing.F) {
	for _, seed := range []string{
		` {"a":[1,-0.5e+3,true,false,null,"x"],"":{"b":[]}, "c" : {} } `,
		`"\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00é\ud834\ud834\udd1e\ud800\u0041\udc00"`,
		`"\u12"`, `"\ud800\u12"`, `"\u`, `"\`, `"\x"`, "\"a\nb\"", `"`, ``, ` `, `{`, `[`, `[1`, `[1,`, `[1,]`, `{"a"`, `{"a":`, `{"a":1,}`,
		`01`, `1.`, `-.5`, `-`, `1e`, `1e+`, `1.5e-7`, `0`, `-0`, `00`, `--1`, `1-1`, `nul`, `truex`, `[1}`, `{1:2}`, `{"a" 1}`, "\x00", "\"\xff\"", `1 2`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		depth := strings.Count(text, "[") + strings.Count(text, "{")
		strict := &Scanner{Text: text, MaxDepth: depth}
		strict.Skip()
		strict.End()
		if ok := json.Valid([]byte(text)); !ok && strict.Err() == nil {
			t.Fatalf("%q is taken for JSON", text)
		}
		s := &Scanner{Text: text, MaxDepth: depth, AnyBytes: true}
		got := tree(s)
		s.End()
		if ok := json.Valid([]byte(text)); ok != (s.Err() == nil) {
			t.Fatalf("%q: encoding/json finds it valid: %v; we say %v", text, ok, s.Err())
		}
		if s.Err() != nil || !utf8.ValidString(text) { // encoding/json repairs bytes
			return
		}
		var want any
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, want %#v", text, got, want)
		}
	})
}

func TestErrorNamesPathAndPlace(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"{\"a\":[0,{\"b\":\n tru}]}", `[{a -1} { 1} {b -1}] line 2, column 2: not JSON: want true, got 't'`},
		{`[[[[1]]]]`, `[{ 0} { 0} { 0}] nests deeper than 3 levels`},
		{`{"a":"\ud800"}`, `[{a -1}] is not valid UTF-8 (half of a surrogate pair)`},
		{"[\"\xff\"]", `[{ 0}] is not valid UTF-8`},
		{"[\"\\n\xff\"]", `[{ 0}] is not valid UTF-8`},
		{`[1] ]`, `[] line 1, column 5: not JSON: want end of the file, got ']'`},
		{`[1.]`, `[{ 0}] line 1, column 2: not JSON: want a number, got '1'`},
		{`{"a":1`, `[] line 1, column 7: not JSON: want ',' or '}', the file ends`},
	} {
		s := &Scanner{Text: c.text, MaxDepth: 3}
		s.Skip()
		s.End()
		var e *Error
		if !errors.As(s.Err(), &e) {
			t.Errorf("%s: is taken", c.text)
		} else if got := fmt.Sprint(e.Path, " ", e.What); got != c.want {
			t.Errorf("%s:\n got  %s\n want %s", c.text, got, c.want)
		}
	}
}

// Behind an error there is nothing, and the first one stays: a caller that asks once is
// told what came first.
func TestFirstErrorStays(t *testing.T) {
	s := &Scanner{Text: `[1,2,{"a":"b"}]`, MaxDepth: 3}
	rounds := 0
	for range s.Elements() {
		rounds++
		s.Wrong("a string")
		s.Fail("later")
		if s.Peek() != 0 || s.Quoted() != "" || s.Number() != "" || s.Raw() != "" {
			t.Error("something was read behind the error")
		}
		for range s.Members() {
			t.Error("a member behind the error")
		}
		s.Word("null")
	}
	s.End()
	if rounds != 1 || s.Err() == nil || s.Err().Error() != "want a string, got a number" {
		t.Errorf("%d elements, %v", rounds, s.Err())
	}
}

func TestQuotedIsReadBack(t *testing.T) {
	all := "ü𝄞\u2028\xff\xc3"
	for c := range byte(0x80) {
		all += string(rune(c))
	}
	s := &Scanner{Text: string(Quote([]byte("\t"), all)), AnyBytes: true}
	if got := s.Quoted(); got != all || s.Err() != nil {
		t.Errorf("%v, got %q, want %q", s.Err(), got, all)
	}
	var std string
	valid := strings.ToValidUTF8(all, "")
	if err := json.Unmarshal(Quote(nil, valid), &std); err != nil || std != valid {
		t.Errorf("encoding/json: %v, got %q, want %q", err, std, valid)
	}
}
