package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"
)

// hostile are ids that are no names of files. crun 1.8 removes the host's files on
// "delete --force /".
var hostile = map[string]string{
	"root": "/", "dot": ".", "dots": "..", "up": "../canary", "deep": "a/../../canary", "slash": "a/b", "absolute": "/tmp", "trailing": "a/",
	"long": strings.Repeat("a", 2048), "just too long": strings.Repeat("a", 256), "newline": "a\nb", "empty": "", "space": "a b", "hidden": ".lock",
	"escape": "\x1b[2J", "not utf-8": "\xff\xfe", "quote": `a"b`, "glob": "*", "flag": "-x", "percent": "%s%n",
}

// skipInLab keeps a few of them where each process start costs so much: the kernel sees
// no difference between the others.
func skipInLab(name string) bool {
	return box.InLab() && !slices.Contains([]string{"root", "dots", "up", "newline"}, name)
}

// Each verb with each of them: an error, one line, and nothing touched beside or above
// the state directory.
func TestHostileIDs(t *testing.T) {
	box.Require(t)
	th := newThinrun(t)
	// root is .../canary/state, full of things that must stay.
	top := t.TempDir()
	th.root = filepath.Join(top, "canary", "state")
	for _, name := range []string{"file", "canary/file", "canary/state/file", "canary/state/sub/file", "canary/b/record.json"} {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("canary"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bundle := testbundle.New(t).Path()
	before := tree(t, top)
	for name, id := range hostile {
		if skipInLab(name) {
			continue
		}
		for _, verb := range [][]string{
			{"create", "--bundle", bundle, id}, {"run", "--bundle", bundle, id}, {"run", "--image", "none", id, "true"},
			{"create", "--dry-run", "--bundle", bundle, id},
			{"start", id}, {"state", id}, {"kill", id, "KILL"}, {"kill", "--all", id, "9"}, {"delete", id}, {"delete", "--force", id}, {"exec", id, "true"},
		} {
			got := th.run(verb...)
			if got.Code == 0 || strings.Count(got.Stderr, "\n") != 1 || got.Stdout != "" {
				t.Errorf("%s: want a failure in one line; %v", name, got)
			}
			if len(got.Stderr) > 1024 || strings.Contains(got.Stderr, "\x1b") || !utf8.ValidString(got.Stderr) {
				t.Errorf("%s: the error is not fit for a terminal; %.300v", name, got)
			}
		}
	}
	after := tree(t, top)
	for path, was := range before {
		if after[path] != was {
			t.Errorf("%s: was %q, is %q", path, was, after[path])
		}
	}
	for path := range after {
		if before[path] == "" {
			t.Errorf("%s is new", path)
		}
	}
}

// The same for the names of images.
func TestHostileImageNames(t *testing.T) {
	box.Require(t)
	th := newThinrun(t)
	source := t.TempDir()
	for name, word := range hostile {
		if name == "slash" || name == "flag" || skipInLab(name) {
			continue // "a/b" is a name as registries have them; a flag is nothing to import
		}
		for _, args := range [][]string{{"image", "import", "--", word, source}, {"image", "rm", "--", word}, {"run", "--image", word, "x", "true"}} {
			if args[0] == "run" && name == "empty" {
				continue // no image, so the working directory's bundle, which is not there
			}
			got := th.run(args...)
			if got.Code == 0 || strings.Count(got.Stderr, "\n") != 1 {
				t.Errorf("%s: want a failure in one line; %v", name, got)
			}
			if len(got.Stderr) > 2048 || strings.Contains(got.Stderr, "\x1b") || !utf8.ValidString(got.Stderr) {
				t.Errorf("%s: the error is not fit for a terminal; %.300v", name, got)
			}
		}
	}
	made := tree(t, filepath.Dir(th.root))
	delete(made, filepath.Dir(th.root))
	delete(made, th.root) // run had claimed its id, and has given it back
	if len(made) != 0 {
		t.Errorf("made: %q", made)
	}
}
