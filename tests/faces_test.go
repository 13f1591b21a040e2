package tests

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// split is the binary of make build.
func split(t *testing.T) string {
	t.Helper()
	path := os.Getenv("THINRUN")
	if path == "" {
		t.Skip("needs the binary of make build in $THINRUN: make test")
	}
	return path
}

// TestThinrunStartsWithoutTheLibraries that image/transfer needs: their package
// initialisation is 2 ms of each start. The table of functions stays in a stripped
// binary, and that of the carried program is not in this section.
func TestThinrunStartsWithoutTheLibraries(t *testing.T) {
	f, err := elf.Open(split(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	section := f.Section(".gopclntab")
	if section == nil {
		t.Fatal("no .gopclntab")
	}
	table, err := section.Data()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(table, []byte("thinrun/libcontainer.(*Runtime)")) {
		t.Fatal("the table does not name our own functions")
	}
	for _, pkg := range []string{"net/http.", "crypto/tls.", "encoding/gob.", "github.com/google/", "github.com/klauspost/", "github.com/docker/", "thinrun/image/transfer."} {
		if i := bytes.Index(table, []byte(pkg)); i >= 0 {
			name, _, _ := bytes.Cut(table[i:min(i+100, len(table))], []byte{0})
			t.Errorf("%s is linked into what every start runs", name)
		}
	}
}

// TestCarriedProgramIsThinrun: the commands that transfer images run in the program that
// thinrun carries, with the same flags, words and exit code as any other.
func TestCarriedProgramIsThinrun(t *testing.T) {
	path := split(t)
	for _, row := range []struct {
		args []string
		want string
	}{
		{[]string{"image", "pull", "127.0.0.1:1/x"}, `thinrun: image pull "127.0.0.1:1/x": 127.0.0.1:1: dial tcp 127.0.0.1:1: connect: connection refused`},
		{[]string{"image", "export", "x", ""}, `thinrun: image export "x": the file's name is empty; - is standard output`},
		{[]string{"image", "pull", "Debian"}, `thinrun: image pull "Debian": reference "Debian": `},
		{[]string{"image", "pull", "[::1]:1/x"}, `for example debian:12, as the second argument`},
		{[]string{"image", "pull", "[::1]:1/x", "x"}, `[::1]:1: dial tcp [::1]:1: connect: `},
		{[]string{"image", "import", "x", "/nonexistent"}, `thinrun: image import "x": open /nonexistent: no such file or directory`},
		{[]string{"image", "import", "x"}, `thinrun: image import "x": wants a name and`},
		{[]string{"image", "pull", "--no-such-flag", "x"}, "flag provided but not defined"},
	} {
		cmd := exec.Command(path, append([]string{"--storage", t.TempDir()}, row.args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), row.want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: %v: %q, want %q", row.args, err, stderr.String(), row.want)
		}
	}
}
