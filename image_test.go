package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// fullDisk takes nothing.
type fullDisk struct{ err error }

func (d fullDisk) Write([]byte) (int, error) { return 0, d.err }

// TestListNobodyCouldRead: a script takes the names for all there are, if nothing says more.
func TestListNobodyCouldRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	record := `{"version": 2, "name": "a:latest", "driver": "overlay", "layers": ["l"], "depth": 1} {"layers": ["l"]}`
	if err := os.WriteFile(filepath.Join(dir, "images", "a:latest.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--quiet"}, {"--format", "json"}} {
		full := fullDisk{errors.New("no space")}
		app := newApp()
		app.Writer = full
		if err := app.Run(append([]string{"thinrun", "--root", dir + "/run", "--storage", dir, "image", "list"}, args...)); !errors.Is(err, full.err) {
			t.Errorf("image list %q: got %v, want %v", args, err, full.err)
		}
	}
}
