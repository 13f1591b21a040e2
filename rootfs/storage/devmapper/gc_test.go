package devmapper

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDeadBehindLiving: claims of the dead are found in passing, however many at work come
// before them in the directory.
func TestDeadBehindLiving(t *testing.T) {
	d := fresh(t, Options{})
	if err := d.CreatePool(small()); err != nil {
		t.Fatal(err)
	}
	for id := range uint32(2 * cheapMany) {
		if err := os.WriteFile(d.openPath(id+1000), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	names, err := readNames(d.openDir())
	if err != nil {
		t.Fatal(err)
	}
	living := names[:cheapMany]
	for _, name := range living {
		f, err := os.Open(filepath.Join(d.openDir(), name))
		if err == nil {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	const many = 200
	for range many {
		if err := d.CheapGC(cheapMany); err != nil {
			t.Fatal(err)
		}
		if names, err = readNames(d.openDir()); err != nil {
			t.Fatal(err)
		}
		if len(names) == len(living) {
			break
		}
	}
	slices.Sort(names)
	slices.Sort(living)
	if !slices.Equal(names, living) {
		t.Errorf("after %d looks there are the claims %v, at work are %v", many, names, living)
	}
}
