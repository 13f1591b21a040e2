package devmapper

import (
	"os"
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
	ids, err := claimIDs(d.openDir())
	if err != nil {
		t.Fatal(err)
	}
	living := ids[:cheapMany]
	for _, id := range living {
		f, err := os.Open(d.openPath(id))
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
		if ids, err = claimIDs(d.openDir()); err != nil {
			t.Fatal(err)
		}
		if len(ids) == len(living) {
			break
		}
	}
	slices.Sort(ids)
	slices.Sort(living)
	if !slices.Equal(ids, living) {
		t.Errorf("after %d looks there are the claims %06x, at work are %06x", many, ids, living)
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
