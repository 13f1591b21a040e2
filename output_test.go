package main

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFullOutput: a script takes what it has read for all there is, if the exit code says
// nothing else.
func TestFullOutput(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	record := `{"version": 2, "name": "a:latest", "driver": "overlay", "layers": ["l"], "depth": 1} {"layers": ["l"]}`
	if err := os.WriteFile(filepath.Join(dir, "images", "a:latest.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	defer func() { os.Stdout = stdout; full.Close() }()
	for _, args := range [][]string{
		{"--version"}, {"--help"}, {"run", "--help"}, {"features"},
		{"list"}, {"list", "--format", "json"},
		{"image", "list", "--quiet"}, {"image", "list", "--format", "json"},
	} {
		args = append([]string{"thinrun", "--root", dir + "/run", "--storage", dir}, args...)
		os.Stdout = stdout
		if code := run(args); code != 0 {
			t.Errorf("%q: %d", args[5:], code)
		}
		os.Stdout = full
		if code := run(args); code != 1 {
			t.Errorf("%q to a full disk: %d", args[5:], code)
		}
	}
}
