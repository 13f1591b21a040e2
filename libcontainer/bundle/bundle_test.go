package bundle

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// minimal is the smallest config that is accepted.
const minimal = `{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"],"user":{"uid":0,"gid":0}},
 "root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"mount"}]}}`

func TestMinimalConfigIsAccepted(t *testing.T) {
	b, err := Parse([]byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	if b.Spec.Process.Args[0] != "true" || b.Spec.Root.Path != "rootfs" {
		t.Fatalf("read as %+v", b.Spec)
	}
}

func TestLoadRefusesWhatIsNoConfigFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("empty.json", "")
	write("space.json", " \n")
	write("good.json", minimal)
	write("bad.json", `{"ociVersion":"1.3.0","process":{"cwd":"srv"}}`)
	if err := unix.Mkfifo(filepath.Join(dir, "fifo.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ file, want string }{
		{"none.json", dir + "/none.json: no such file or directory"},
		{"dir.json", dir + "/dir.json: is a directory, not a file"},
		{"fifo.json", dir + "/fifo.json: is not a regular file"},
		{"/dev/zero", "/dev/zero: is not a regular file"},
		{"empty.json", "empty.json: is empty"},
		{"space.json", "space.json: is empty"},
		{"bad.json", "bad.json: process.args: is missing or empty"},
	} {
		_, err := Load(dir, c.file)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.file, err, c.want)
		}
	}
	if _, err := Load(dir, "none.json"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file is not os.ErrNotExist: %v", err)
	}
	b, err := Load(dir, "good.json")
	if err != nil || b.Dir != dir || string(b.Raw) != minimal {
		t.Errorf("good.json: %+v, %v", b, err)
	}
}

// TestHugeConfigIsRefusedCheaply is containerd's CVE-2026-47262: 64 MB of config.json.
func TestHugeConfigIsRefusedCheaply(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	text := strings.Replace(minimal, `"cwd"`, `"env":["A=`+strings.Repeat("x", 64<<20)+`"],"cwd"`, 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	text = ""
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Load(filepath.Dir(file), "")
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "bytes long; 16777216 is the most") {
		t.Fatalf("got %v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("refusing it took %d bytes of memory", used)
	}
}

func TestLargeEnvironmentAndManyMountsAreAccepted(t *testing.T) {
	var text bytes.Buffer
	text.WriteString(`{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"],"env":["A=` + strings.Repeat("x", 1500000) + `"]},"root":{"path":"r"},"mounts":[`)
	for i := range 1000 {
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString(`{"destination":"/m","type":"tmpfs"}`)
	}
	text.WriteString(`],"linux":{"namespaces":[{"type":"mount"}]}}`)
	b, err := Parse(text.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Spec.Process.Env[0]) != 1500002 || len(b.Spec.Mounts) != 1000 {
		t.Fatalf("read %d bytes of env, %d mounts", len(b.Spec.Process.Env[0]), len(b.Spec.Mounts))
	}
}

func TestDeepNestingIsRefused(t *testing.T) {
	for _, c := range []struct{ open, close string }{{"[", "]"}, {`{"a":`, "}"}} {
		deep := strings.Repeat(c.open, 20000) + "1" + strings.Repeat(c.close, 20000)
		_, err := Parse([]byte(strings.Replace(minimal, `"root"`, `"x":`+deep+`,"root"`, 1)))
		if err == nil || !strings.Contains(err.Error(), "nests deeper than 128 levels") {
			t.Errorf("%s: got %.200v", c.open, err)
		}
	}
}

func TestUnknownNamesAreIgnored(t *testing.T) {
	text := strings.Replace(minimal, `"root"`, `"future":{"a":[1,-2.5e3,true,null,"\u0000",{"b":{}}]},"Hostname":"x","root"`, 1)
	b, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if b.Spec.Hostname != "" {
		t.Errorf("Hostname was taken for hostname; JSON names have a case")
	}
}

func TestOtherPlatformsSectionsAreIgnored(t *testing.T) {
	for _, section := range []string{"windows", "solaris", "zos", "freebsd"} {
		if _, err := Parse([]byte(strings.Replace(minimal, `"root"`, `"`+section+`":{"devices":7},"root"`, 1))); err != nil {
			t.Errorf("%s: %v", section, err)
		}
	}
}

// TestBrokenJSON: one line, with the place in the file.
func TestBrokenJSON(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"array", `[]`, "config.json: want an object, got an array"},
		{"end in object", "{\n\"process\":{", "config.json: process: line 2, column 12: not JSON: want a name in quotes, the file ends"},
		{"end in string", `{"ociVersion":"1`, `config.json: ociVersion: line 1, column 17: not JSON: want '"', the file ends`},
		{"rest", minimal + "x", "config.json: line 2, column 69: not JSON: want end of the file, got 'x'"},
		{"comma", `{"ociVersion":"1.0.0",}`, "config.json: line 1, column 23: not JSON: want a name in quotes, got '}'"},
		{"word", `{"process":{"terminal":tru}}`, "config.json: process.terminal: line 1, column 24: not JSON: want true, got 't'"},
		{"number", `{"process":{"user":{"uid":01}}}`, "config.json: process.user.uid: line 1, column 27: not JSON: want a number, got '0'"},
		{"newline in string", "{\"hostname\":\"a\nb\"}", `config.json: hostname: line 1, column 15: not JSON: want a string without control characters, got '\n'`},
		{"escape", `{"hostname":"\q"}`, `config.json: hostname: line 1, column 15: not JSON: want an escape of JSON, got 'q'`},
		{"surrogate", `{"hostname":"\ud800"}`, "config.json: hostname: is not valid UTF-8 (half of a surrogate pair)"},
		{"latin1", "{\"hostname\":\"\xe4\"}", "config.json: hostname: is not valid UTF-8"},
		{"unknown value", `{"x":nul}`, "config.json: x: line 1, column 6: not JSON: want null, got 'n'"},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got  %v\n want %s", c.name, err, c.want)
		}
	}
}

// TestTypeErrorsNameThePath down to the index.
func TestTypeErrorsNameThePath(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{`{"process":{"args":7}}`, "process.args: want an array of strings, got a number"},
		{`{"process":{"args":["a",7]}}`, "process.args[1]: want a string, got a number"},
		{`{"process":{"args":["a",null]}}`, "process.args[1]: want a string, got null"},
		{`{"process":{"args":["a\u0000b"]}}`, "process.args[0]: contains a NUL byte"},
		{`{"process":{"user":{"uid":-1}}}`, "process.user.uid: want a whole number from 0 to 4294967295, got -1"},
		{`{"process":{"user":{"uid":4294967296}}}`, "process.user.uid: want a whole number from 0 to 4294967295, got 4294967296"},
		{`{"process":{"user":{"uid":1.5}}}`, "process.user.uid: want a whole number from 0 to 4294967295, got 1.5"},
		{`{"process":{"user":{"uid":"0"}}}`, "process.user.uid: want a number, got a string"},
		{`{"process":{"terminal":"yes"}}`, "process.terminal: want true or false, got a string"},
		{`{"process":{"capabilities":[]}}`, "process.capabilities: want an object, got an array"},
		{`{"mounts":{}}`, "mounts: want an array of objects, got an object"},
		{`{"mounts":[{"options":"ro"}]}`, "mounts[0].options: want an array of strings, got a string"},
		{`{"mounts":[null]}`, "mounts[0]: want an object, got null"},
		{`{"linux":{"sysctl":{"net.ipv4.ip_forward":1}}}`, `linux.sysctl["net.ipv4.ip_forward"]: want a string, got a number`},
		{`{"linux":{"resources":{"blockIO":{"weightDevice":[{"major":8},{"major":"8"}]}}}}`, "linux.resources.blockIO.weightDevice[1].major: want a number, got a string"},
		{`{"linux":{"resources":{"unified":{"a":null}}}}`, "linux.resources.unified.a: want a string, got null"},
		{`{"hostname":"a","hostname":"b"}`, "hostname: is given twice"},
		{`{"annotations":{"a":"b","a":"c"}}`, "annotations.a: is given twice"},
		{`{"linux":{"resources":{"memory":{"limit":9223372036854775808}}}}`, "linux.resources.memory.limit: want a whole number from -9223372036854775808 to 9223372036854775807, got 9223372036854775808"},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || err.Error() != "config.json: "+c.want {
			t.Errorf("%s:\n got  %v\n want config.json: %s", c.text, err, c.want)
		}
	}
}

func TestStringsAreUnescaped(t *testing.T) {
	text := `{"ociVersion":"1.3.0","process":{"cwd":"/","args":["\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00é"]},"linux":{"namespaces":[{"type":"mount"}]}}`
	b, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := b.Spec.Process.Args[0], "\"\\/\b\f\n\r\tä😀é"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestEncodeDecode: what Encode writes, Parse reads as the same spec.
func TestEncodeDecode(t *testing.T) {
	for _, rootless := range []bool{false, true} {
		want := Default(rootless)
		want.Annotations = map[string]string{"a\"b": "ä\n\x01\\", "b": ""}
		b, err := Parse(Encode(want))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(b.Spec, want) {
			t.Errorf("rootless %v: got\n%s\nwant\n%s", rootless, Encode(b.Spec), Encode(want))
		}
	}
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
