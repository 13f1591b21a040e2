package thinmeta

import (
	"bytes"
	"errors"
	"maps"
	"reflect"
	"testing"
)

// recounted is metadata after Recount, and how many blocks that wrote.
func recounted(t *testing.T, b []byte) ([]byte, int) {
	t.Helper()
	out, n := bytes.Clone(b), 0
	err := Recount(bytes.NewReader(b), 1024, func(block uint64, content []byte) error {
		n++
		copy(out[block*BlockSize:], content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, n
}

func TestRecountDropsMetadataSnapshot(t *testing.T) {
	held := made(t, "held")
	s := superblock(t, held)
	gone := bytes.Clone(held) // the power went in the middle of a release
	p := at(gone, 0, saltSuperblock)
	p.put64(56, 0)
	seal(p.b, 0, saltSuperblock)
	good, _ := recounted(t, held)
	never := bytes.Clone(good) // or of the reserve
	p = at(never, 0, saltSuperblock)
	p.put64(56, s.HeldRoot)
	seal(p.b, 0, saltSuperblock)
	flagged := bytes.Clone(held)
	p = at(flagged, 0, saltSuperblock)
	p.put32(4, needsCheck)
	seal(p.b, 0, saltSuperblock)
	for _, tc := range []struct {
		name string
		b    []byte
		bad  bool // before
	}{{"whole", held, false}, {"flagged", flagged, true}, {"half released", gone, true}, {"half reserved", never, true}} {
		t.Run(tc.name, func(t *testing.T) {
			if before, err := Check(bytes.NewReader(tc.b), 1024); err != nil || before.OK() == tc.bad {
				t.Fatalf("before: %v, %v; want fault: %v", before, err, tc.bad)
			}
			b, n := recounted(t, tc.b)
			c, err := Check(bytes.NewReader(b), 1024)
			if err != nil {
				t.Fatal(err)
			}
			after := superblock(t, b)
			if !c.OK() || c.Leaked+c.LeakedMeta != 0 || after.HeldRoot != 0 || after.NeedsCheck || c.Data != after.Data.Used || c.Meta != after.Metadata.Used {
				t.Errorf("after %d blocks: %+v in %+v", n, c, after)
			}
			if after.Metadata.Used >= s.Metadata.Used {
				t.Errorf("%d blocks of metadata in use, with the snapshot %d", after.Metadata.Used, s.Metadata.Used)
			}
			if was, is := mappingsOf(t, held), mappingsOf(t, b); !maps.EqualFunc(was, is, func(a, b []uint64) bool { return reflect.DeepEqual(a, b) }) {
				t.Error("the mappings are not what they were")
			}
			if _, n := recounted(t, b); n != 0 {
				t.Errorf("once more, and %d blocks change", n)
			}
			if bad, out := thinCheck(t, b); bad {
				t.Errorf("thin_check: %s", out)
			}
		})
	}
}

// mappingsOf is all mappings by thin id.
func mappingsOf(t *testing.T, b []byte) map[uint32][]uint64 {
	t.Helper()
	r := bytes.NewReader(b)
	roots, err := superblock(t, b).Roots(r)
	if err != nil {
		t.Fatal(err)
	}
	all := map[uint32][]uint64{}
	for _, root := range roots {
		err := (level{root.Block: {}}).each(r, func(key, value uint64) { all[root.ID] = append(all[root.ID], key, value) })
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// each visits the leaves below.
func (l level) each(r *bytes.Reader, entry func(key, value uint64)) error {
	for block := range l {
		h, err := height(r, block)
		if err != nil {
			return err
		}
		for here := l; ; h-- {
			if h == 0 {
				return here.leaves(r, entry)
			}
			if here, err = here.down(r); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestRecountLeavesGoodMetadataAlone(t *testing.T) {
	if _, n := recounted(t, made(t, "kernel")); n != 0 {
		t.Errorf("%d blocks of good metadata change", n)
	}
}

// A block with more owners than are counted was given to two, or will be: a recount would
// hide it.
func TestRecountRefusesDamage(t *testing.T) {
	b := made(t, "kernel")
	m, err := superblock(t, b).DataMap(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	counts, err := m.Counts(bytes.NewReader(b), 0)
	if err != nil {
		t.Fatal(err)
	}
	p := at(b, m.bitmaps[0], saltBitmap)
	for j, n := range counts {
		if n == 1 {
			p.b[bitmapHead+j/4] &^= 3 << (j % 4 * 2)
			break
		}
	}
	seal(p.b, m.bitmaps[0], saltBitmap)
	err = Recount(bytes.NewReader(b), 1024, func(uint64, []byte) error { return nil })
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, want %v", err, ErrDamaged)
	}
}
