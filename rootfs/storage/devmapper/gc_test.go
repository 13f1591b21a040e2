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

// TestHalfOfALayersRecord: killed between the content and the name of a layer's record,
// its maker leaves a file that the next command takes with the claim.
func TestHalfOfALayersRecord(t *testing.T) {
	d := fresh(t, Options{})
	if err := d.CreatePool(small()); err != nil {
		t.Fatal(err)
	}
	c, err := d.claim(owner{what: "layer"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	half := d.layerPath(c.thin) + ".tmp"
	if err := os.WriteFile(half, []byte("version"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.CheapGC(cheapMany); err != nil || !exists(half) {
		t.Errorf("while its maker lives it is not garbage: %v", err)
	}
	c.file.Close() // as when it dies
	if err := d.CheapGC(cheapMany); err != nil || exists(half) || exists(d.openPath(c.thin)) {
		t.Errorf("left when its maker is dead: record %v, claim %v: %v", exists(half), exists(d.openPath(c.thin)), err)
	}
}
