package state

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"thinrun/libcontainer/jsontext"
)

// encoding/json reads what we write, and we read what it writes, for a record with
// every field filled and for an empty one.
func TestRecordIsTheJSONOfItsTags(t *testing.T) {
	empty := &Record{Version: Version}
	negative := &Record{Version: Version, Owner: -1 << 63, Created: time.Date(1, 1, 1, 0, 0, 0, 1, time.FixedZone("x", -3600))}
	for name, want := range map[string]*Record{"full": full(t), "empty": empty, "negative": negative} {
		theirs, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got := new(Record)
		if !decode(theirs, got) || !equal(got, want) {
			t.Errorf("%s: decode %s: got %+v", name, theirs, got)
		}
		ours := encode(want)
		got = new(Record)
		if err := json.Unmarshal(ours, got); err != nil || !equal(got, want) {
			t.Errorf("%s: encoding/json of %s: %v, got %+v", name, ours, err, got)
		}
		if member := twice(&jsontext.Scanner{Text: string(ours), MaxDepth: 16}); member != "" {
			t.Errorf("%s: %s is written twice", name, member)
		}
		var mine, other map[string]any // the same members are left out
		if err := json.Unmarshal(ours, &mine); err != nil {
			t.Error(err)
		}
		if err := json.Unmarshal(theirs, &other); err != nil {
			t.Error(err)
		}
		delete(mine, "created") // the same instant in another zone
		delete(other, "created")
		if !reflect.DeepEqual(mine, other) {
			t.Errorf("%s: got\n%v\nwant\n%v", name, mine, other)
		}
	}
}

// twice finds a name that its object has more than once; encoding/json would not mind.
func twice(s *jsontext.Scanner) (found string) {
	if s.Peek() != '{' {
		s.Skip()
		return ""
	}
	seen := make(map[string]bool)
	for name := range s.Members() {
		if seen[name] {
			found = name
		}
		seen[name] = true
		if below := twice(s); below != "" {
			found = below
		}
	}
	return found
}

func equal(a, b *Record) bool {
	x, y := *a, *b
	same := x.Created.Equal(y.Created)
	x.Created, y.Created = time.Time{}, time.Time{}
	return same && reflect.DeepEqual(x, y)
}

func TestPathThatIsNoUTF8Survives(t *testing.T) {
	want := &Record{Version: 1, Bundle: "/run/\xff\xfe\x80/\x01\x7f"}
	got := new(Record)
	if !decode(encode(want), got) || got.Bundle != want.Bundle {
		t.Errorf("got %q, want %q", got.Bundle, want.Bundle)
	}
}

func TestStrangeRecords(t *testing.T) {
	for _, test := range []struct {
		in     string
		ok     bool
		bundle string
	}{
		{` {"bundle" : "a" , "new": {"x":[1,{"y":"}]"}]}, "bundle":"b"} ` + "\n", true, "b"},
		{`{"bundle":null}`, true, ""},
		{`{"bundle":"\u00fc\ud834\udd1e\ud834\n\/"}`, true, "ü𝄞\ufffd\n/"},
		{`{"bundle":"a"}x`, false, ""},
		{`{"bundle":7}`, false, ""},
		{`{"bundle":"a}`, false, ""},
		{`{"bundle":"\u12"}`, false, ""},
		{`{"bundle":"\x"}`, false, ""},
		{`{"bundle" "a"}`, false, ""},
		{`{bundle:"a"}`, false, ""},
		{`{"bundle":"a",}`, false, ""},
		{`{"owner":"7"}`, false, ""},
		{`{"owner":7.5}`, false, ""},
		{`{"owner":9223372036854775808}`, false, ""},
		{`{"storage":{"thinId":4294967296}}`, false, ""},
		{`{"storage":{"thinId":-1}}`, false, ""},
		{`{"cgroup":{"existed":1}}`, false, ""},
		{`{"namespaces":{}}`, false, ""},
		{`{"annotations":["a"]}`, false, ""},
		{`{"created":"yesterday"}`, false, ""},
	} {
		rec := new(Record)
		if ok := decode([]byte(test.in), rec); ok != test.ok || ok && rec.Bundle != test.bundle {
			t.Errorf("%s: %v, %q; want %v, %q", test.in, ok, rec.Bundle, test.ok, test.bundle)
		}
	}
}

// What we accept and write again means the same to us; nothing makes us panic.
func FuzzRecord(f *testing.F) {
	f.Add(encode(&Record{Version: 1, ID: "a\"b\\", Namespaces: []string{"pid"}, Poststop: []Hook{{Path: "/x"}}}))
	f.Add([]byte(`{"annotations":{"a":"\u0041\ud834"},"init":{"startTime":18446744073709551615}}`))
	f.Add([]byte(`{"a":[[[[[[[[[[[[[[[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		rec := new(Record)
		if !decode(data, rec) || rec.Created.Year() < 1 || rec.Created.Year() > 9999 {
			return
		}
		again := new(Record)
		if text := encode(rec); !decode(text, again) {
			t.Fatalf("%q became %q, which is not read", data, text)
		}
		if string(encode(again)) != string(encode(rec)) {
			t.Fatalf("%q: %+v became %+v", data, rec, again)
		}
	})
}
