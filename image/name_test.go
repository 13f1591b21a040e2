package image

import (
	"strings"
	"testing"
)

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{
		"debian":                       "debian:latest",
		"debian:12":                    "debian:12",
		"a":                            "a:latest",
		"library/debian:Bookworm_1.2-": "library/debian:Bookworm_1.2-",
		"localhost/x":                  "localhost/x:latest",
		"localhost:5000/x/y:1":         "localhost:5000/x/y:1",
		"Reg.Example.com:443/x":        "Reg.Example.com:443/x:latest",
		"a__b/c--d/e.f":                "a__b/c--d/e.f:latest",
		"x:_":                          "x:_",
		strings.Repeat("a", 243):       strings.Repeat("a", 243) + ":latest",
	} {
		got, err := ParseName(in)
		if err != nil || got != want {
			t.Errorf("ParseName(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{
		"", ".", "..", "/", "//", "a/", "/a", "a//b", "../a", "a/..", "a/../b", "a..b", "a/./b", ".a", "a.", "-a", "a-", "_a", "a___b", "a._b",
		"A", "Debian", "a:", ":", ":tag", "a:.x", "a:-x", "a:x/y:", "a b", "a\nb", "a\x00b", "a+b", "a%2fb", "a\\b", "a:b c", "ä", "a:ä",
		"a:b:c", "a@sha256:1", "host:port/x", "localhost:/x", "a.b-/x.", strings.Repeat("a", 244), strings.Repeat("a", 4000), "a:" + strings.Repeat("b", 129),
		"a.json\n", "*", "a*", "~", "$HOME", "-",
	} {
		got, err := ParseName(in)
		if err == nil {
			t.Errorf("ParseName(%q) = %q; want an error", in, got)
			continue
		}
		if msg := err.Error(); strings.Contains(msg, "\n") || len(msg) > 400 || !strings.HasPrefix(msg, "image name ") {
			t.Errorf("ParseName(%q): %q; want one short line", in, msg)
		}
	}
}

// Whatever passes is a file of its own in the directory of records.
func FuzzParseName(f *testing.F) {
	for _, s := range []string{"debian:12", "localhost:5000/a/b", "a/../b", "x__y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ParseName(s)
		if err != nil {
			return
		}
		file := fileName(name)
		if strings.ContainsAny(file, "/\x00\n") || len(file) > 255 || file[0] == '.' || file[0] == '-' {
			t.Errorf("%q is in file %q", s, file)
		}
		if back := strings.ReplaceAll(strings.TrimSuffix(file, ".json"), "+", "/"); back != name {
			t.Errorf("%q: file %q leads back to %q", name, file, back)
		}
		if again, err := ParseName(name); err != nil || again != name {
			t.Errorf("%q is not its own name: %q, %v", name, again, err)
		}
	})
}
