package tests

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"thinrun/tests/box"
)

// documents are the pages for people. What they name in code has to be there: a page
// that names a file which is gone is worse than none.
func documents() []string {
	return []string{"README.md", "ARCHITECTURE.md", "HACKING.md", "tests/README.md"}
}

// code is a span or a line of code in a document.
type code struct {
	doc, text string
}

// codes takes the spans `...` and the lines of fenced blocks out of a document.
func codes(t *testing.T, doc string) (list []code) {
	t.Helper()
	var prose strings.Builder
	fenced := false
	for line := range strings.Lines(read(t, doc)) {
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
			prose.WriteString("\n")
		case fenced:
			list = append(list, code{doc, strings.TrimSpace(line)})
		default:
			prose.WriteString(line)
		}
	}
	if fenced {
		t.Errorf("%s: a code block does not end", doc)
	}
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(prose.String(), -1) {
		list = append(list, code{doc, strings.Join(strings.Fields(m[1]), " ")}) // a span may go over a line's end
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(prose.String(), -1) {
		list = append(list, code{doc, filepath.Join(filepath.Dir(doc), m[1])})
	}
	return list
}

func TestDocumentsNameWhatIsThere(t *testing.T) {
	var list []code
	for _, doc := range documents() {
		found := codes(t, doc)
		if len(found) < 10 {
			t.Errorf("%s: only %d pieces of code found", doc, len(found))
		}
		list = append(list, found...)
	}
	t.Run("paths", func(t *testing.T) { checkPaths(t, list) })
	t.Run("make", func(t *testing.T) { checkTargets(t, list) })
	t.Run("thinrun", func(t *testing.T) { checkCommands(t, list) })
	t.Run("labexec", func(t *testing.T) { checkLabexec(t, list) })
	t.Run("tests", func(t *testing.T) { checkTestNames(t, list) })
}

// files are all names below the top, with their last parts.
func files(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".build") {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(top, p)
		names[rel], names[d.Name()] = true, true
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// checkPaths: what ends like a source, or begins like a directory of ours, exists.
func checkPaths(t *testing.T, list []code) {
	there := files(t)
	path := regexp.MustCompile(`^[\w.-]+(/[\w.-]+)*$`)
	source := regexp.MustCompile(`\.(go|md|sh)$`)
	checked := 0
	for _, c := range list {
		for word := range strings.FieldsSeq(c.text) {
			word = strings.TrimSuffix(strings.TrimPrefix(strings.Trim(word, `'",;()`), "./"), "/...")
			word = strings.TrimRight(word, "/")
			first, _, below := strings.Cut(word, "/")
			_, err := os.Lstat(filepath.Join(top, first))
			ours := below && err == nil && first != ".build"
			if !path.MatchString(word) || !ours && !source.MatchString(word) {
				continue
			}
			checked++
			if !there[word] && !there[filepath.Join(filepath.Dir(c.doc), word)] {
				t.Errorf("%s: %q: there is no %s", c.doc, c.text, word)
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d paths found", checked)
	}
}

func checkTargets(t *testing.T, list []code) {
	var targets []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z-]+):`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets = append(targets, m[1])
	}
	checked := 0
	for _, c := range list {
		rest, ok := strings.CutPrefix(c.text, "make ")
		if !ok {
			continue
		}
		rest, _, _ = strings.Cut(rest, "  ") // a remark follows
		for word := range strings.FieldsSeq(rest) {
			checked++
			if !slices.Contains(targets, word) {
				t.Errorf("%s: %q: the Makefile has no %s", c.doc, c.text, word)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d targets found", checked)
	}
}

// checkCommands asks the binary itself for what it knows.
func checkCommands(t *testing.T, list []code) {
	binary := box.Binary(t)
	helps := make(map[string]string)
	help := func(words ...string) string {
		key := strings.Join(words, " ")
		if _, asked := helps[key]; !asked {
			out, err := exec.Command(binary, append(words, "--help")...).CombinedOutput()
			if err != nil {
				t.Fatalf("thinrun %s --help: %v\n%s", key, err, out)
			}
			helps[key] = string(out)
		}
		return helps[key]
	}
	has := func(help, flag string) bool {
		return regexp.MustCompile(`(?m)^ +(-\w, )?.*` + regexp.QuoteMeta(flag) + `\b`).MatchString(help)
	}
	// subs are the commands that a help text lists.
	subs := func(help string) (names []string) {
		_, rest, _ := strings.Cut(help, "COMMANDS:\n")
		rest, _, _ = strings.Cut(rest, "\n\n")
		for line := range strings.Lines(rest) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			names = append(names, strings.TrimSuffix(word, ","))
		}
		return names
	}
	commands := subs(help())
	if len(commands) < 10 {
		t.Fatalf("thinrun --help lists %q", commands)
	}
	all := help()
	for _, name := range commands {
		if name == "help" {
			continue
		}
		all += help(name)
		for _, sub := range subs(help(name)) {
			if sub != "help" {
				all += help(name, sub)
			}
		}
	}
	flag := regexp.MustCompile(`^--[a-z][a-z-]*`)
	checked := 0
	for _, c := range list {
		text, called := c.text, false
		for _, name := range []string{"./thinrun ", "thinrun "} {
			if rest, ok := strings.CutPrefix(text, name); ok {
				text, called = rest, true
			}
		}
		words := strings.Fields(text)
		if len(words) == 0 || !called && !slices.Contains(commands, words[0]) && !flag.MatchString(words[0]) {
			continue
		}
		known, path := help(), []string{}
		if !called && flag.MatchString(words[0]) {
			known = all // a flag by itself: somebody's
		}
		for _, w := range words {
			f := flag.FindString(w)
			switch {
			case f != "":
				checked++
				if !has(known, f) && f != "--help" {
					t.Errorf("%s: %q: thinrun %s has no %s", c.doc, c.text, strings.Join(path, " "), f)
				}
			case len(path) == 0 && slices.Contains(commands, w), len(path) == 1 && slices.Contains(subs(known), w):
				checked++
				path = append(path, w)
				known = help(path...)
			case len(path) == 0 && called && !strings.HasPrefix(w, "-"):
				t.Errorf("%s: %q: thinrun has no command %s", c.doc, c.text, w)
			case len(path) == 1 && len(subs(known)) > 0 && !strings.HasPrefix(w, "-"):
				t.Errorf("%s: %q: thinrun %s has no command %s", c.doc, c.text, path[0], w)
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d commands and flags found", checked)
	}
}

// checkLabexec looks the lab's flags up in its source.
func checkLabexec(t *testing.T, list []code) {
	source := read(t, "tests/lab/labexec/flags.go")
	checked := 0
	for _, c := range list {
		_, rest, ok := strings.Cut(c.text, "labexec -")
		if !ok {
			_, rest, ok = strings.Cut(c.text, "$L -")
		}
		if !ok {
			continue
		}
		for word := range strings.FieldsSeq("-" + rest) {
			name, isFlag := strings.CutPrefix(word, "-")
			if !isFlag {
				if regexp.MustCompile(`^(\d+[MG]?|uml|qemu|none|v1|v2|hybrid)["']?$`).MatchString(word) {
					continue // a flag's value
				}
				break // the command
			}
			if name == "run" { // go test's, behind -exec "..."
				break
			}
			checked++
			if !strings.Contains(source, `"`+name+`"`) {
				t.Errorf("%s: %q: labexec has no -%s", c.doc, c.text, name)
			}
		}
	}
	if checked < 10 {
		t.Errorf("only %d flags of labexec found", checked)
	}
}

func checkTestNames(t *testing.T, list []code) {
	var sources strings.Builder
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, "_test.go") {
			var data []byte
			data, err = os.ReadFile(p)
			sources.Write(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		for _, name := range regexp.MustCompile(`\bTest[A-Z]\w*`).FindAllString(c.text, -1) {
			if !strings.Contains(sources.String(), "func "+name) {
				t.Errorf("%s: %q: there is no %s", c.doc, c.text, name)
			}
		}
	}
}

// The chart of the conversation is in handshake.go, and people look for it in
// ARCHITECTURE.md: the two say the same.
func TestChartIsTheSameInCodeAndPage(t *testing.T) {
	var chart []string
	for line := range strings.Lines(read(t, "libcontainer/handshake.go")) {
		if line, ok := strings.CutPrefix(line, "//\t"); ok {
			chart = append(chart, " "+strings.TrimRight(line, "\n"))
		}
	}
	if len(chart) < 8 {
		t.Fatalf("no chart in handshake.go: %q", chart)
	}
	if want := strings.Join(chart, "\n"); !strings.Contains(read(t, "ARCHITECTURE.md"), want) {
		t.Errorf("ARCHITECTURE.md lacks the chart of handshake.go:\n%s", want)
	}
}

// A stranger who finds a record.json looks its fields up.
func TestRecordIsDescribedByField(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "ARCHITECTURE.md"), "\n## The record\n")
	section, _, _ = strings.Cut(section, "\n## ")
	checked := 0
	for _, file := range []string{"libcontainer/state/record.go", "rootfs/storage/storage.go"} {
		for _, m := range regexp.MustCompile("`json:\"(\\w+)").FindAllStringSubmatch(read(t, file), -1) {
			switch m[1] {
			case "args", "env", "timeout": // of a hook, as in config.json
				continue
			}
			checked++
			if !strings.Contains(section, "`"+m[1]+"`") {
				t.Errorf("ARCHITECTURE.md, The record: %s of %s is missing", m[1], file)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d fields found", checked)
	}
}

// The README quotes rows of the last published benches, good ones and bad ones, as they are.
func TestReadmeQuotesTheBench(t *testing.T) {
	_, section, _ := strings.Cut(read(t, "README.md"), "\n## Speed\n")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, bench := range []struct {
		file   string
		ratios int // of a row
	}{{"docs/bench/README.md", 2}, {"docs/bench/storage.md", 1}} {
		lines := strings.Split(read(t, bench.file), "\n")
		row := regexp.MustCompile(`(?m)^\| ([^|]+?)(?: \(more is better\))? ((?:\| \*\*[\d.]+\*\* ){` + strconv.Itoa(bench.ratios) + `}\|)$`)
		rows := row.FindAllStringSubmatch(section, -1)
		if len(rows) < 4 {
			t.Errorf("only %d rows of %s found", len(rows), bench.file)
		}
		for _, row := range rows {
			if !slices.ContainsFunc(lines, func(line string) bool {
				return strings.HasPrefix(line, "| "+row[1]+" |") && strings.HasSuffix(line, row[2])
			}) {
				t.Errorf("README.md: %s has no row %q that ends in %q: copy the ratios of its last run", bench.file, row[1], row[2])
			}
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(top, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
