package thinmeta

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// made is metadata that a kernel made (testdata/generate.sh): 29 snapshots that share most
// of their trees; "held" has a metadata snapshot.
func made(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func superblock(t testing.TB, b []byte) *Superblock {
	t.Helper()
	s, err := ReadSuperblock(bytes.NewReader(b), 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// thinCheck tells if thin_check finds fault, and what it says.
func thinCheck(t *testing.T, b []byte) (bool, string) {
	t.Helper()
	need(t, "thin_check")
	path := filepath.Join(t.TempDir(), "meta")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("thin_check", path).CombinedOutput()
	if _, exit := err.(*exec.ExitError); err != nil && !exit {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "Invalid argument") && os.Getenv("LAB") != "1" {
		t.Skipf("thin_check: %s (it wants O_DIRECT, which this file system lacks)", out)
	}
	return err != nil, string(out)
}

func TestCheckOfWhatAKernelMade(t *testing.T) {
	for _, name := range []string{"kernel", "held"} {
		t.Run(name, func(t *testing.T) {
			b := made(t, name)
			c, err := Check(bytes.NewReader(b), 1024)
			if err != nil {
				t.Fatal(err)
			}
			s := superblock(t, b)
			if !c.OK() || c.Leaked != 0 || c.LeakedMeta != 0 || len(c.Thins) != 29 || c.Data != s.Data.Used || c.Meta != s.Metadata.Used {
				t.Errorf("got %+v, want no fault in %+v", c, s)
			}
			if bad, out := thinCheck(t, b); bad {
				t.Errorf("thin_check: %s", out)
			}
			if (s.HeldRoot != 0) != (name == "held") {
				t.Errorf("metadata snapshot at %d", s.HeldRoot)
			}
		})
	}
}

// place is a block of a pool's metadata that a test spoils.
type place struct {
	block uint64
	salt  uint32
	b     []byte
}

func at(b []byte, block uint64, salt uint32) place {
	return place{block, salt, b[block*BlockSize:][:BlockSize]}
}

func (p place) put64(off int, v uint64) { binary.LittleEndian.PutUint64(p.b[off:], v) }
func (p place) put32(off int, v uint32) { binary.LittleEndian.PutUint32(p.b[off:], v) }
func (p place) get64(off int) uint64    { return binary.LittleEndian.Uint64(p.b[off:]) }
func (p place) get32(off int) uint32    { return binary.LittleEndian.Uint32(p.b[off:]) }

// leaf finds the leftmost leaf of a tree.
func leaf(t *testing.T, b []byte, root uint64, size int) place {
	for {
		n, err := readNode(bytes.NewReader(b), root, size, make([]byte, BlockSize))
		if err != nil {
			t.Fatal(err)
		}
		if n.leaf {
			return at(b, root, saltNode)
		}
		root = n.child(0)
	}
}

// TestDamageThatThinCheckFinds: the same images, each with one thing wrong and all
// checksums right, are refused by both.
func TestDamageThatThinCheckFinds(t *testing.T) {
	for _, test := range []struct {
		name, want string
		spoil      func(t *testing.T, b []byte, s *Superblock) place
		ours       bool // thin_check 0.9.0 does not look for it
	}{
		{"a mapped count in the details", "its details say", func(t *testing.T, b []byte, s *Superblock) place {
			p := leaf(t, b, s.details, detailsSize)
			at := headerSize + 8*int(p.get32(20))
			p.put64(at, p.get64(at)+1)
			return p
		}, true},
		{"a device without details", "no details", func(t *testing.T, b []byte, s *Superblock) place {
			p := leaf(t, b, s.details, detailsSize)
			p.put32(16, p.get32(16)-1)
			return p
		}, true},
		{"a device without mappings", "no mappings tree", func(t *testing.T, b []byte, s *Superblock) place {
			p := leaf(t, b, s.mappings, 8)
			p.put32(16, p.get32(16)-1)
			return p
		}, false},
		{"two keys the wrong way round", "after", func(t *testing.T, b []byte, s *Superblock) place {
			p := leaf(t, b, s.mappings, 8)
			a, c := p.get64(headerSize), p.get64(headerSize+8)
			p.put64(headerSize, c)
			p.put64(headerSize+8, a)
			return p
		}, false},
		{"a mapping beyond the end of the data", "data block 99999 of 1024", func(t *testing.T, b []byte, s *Superblock) place {
			p := mapped(t, b, s)
			p.put64(headerSize+8*int(p.get32(20)), 99999<<clockBits)
			return p
		}, true},
		{"a mapping to another's block", "owners", func(t *testing.T, b []byte, s *Superblock) place {
			p := mapped(t, b, s)
			at := headerSize + 8*int(p.get32(20))
			p.put64(at, p.get64(at+8))
			return p
		}, true},
		{"a mapping of the future", "mapping of time", func(t *testing.T, b []byte, s *Superblock) place {
			p := mapped(t, b, s)
			at := headerSize + 8*int(p.get32(20))
			p.put64(at, p.get64(at)|0xffffff)
			return p
		}, true},
		{"a data block that is counted free", "counted 0 times", bits(func(s *Superblock, d, m *SpaceMap) (*SpaceMap, int, uint32) { return d, 0, 0 }), true},
		{"a data block that is counted too often", "counted 2 times", bits(func(s *Superblock, d, m *SpaceMap) (*SpaceMap, int, uint32) { return d, 0, 2 }), true},
		{"a metadata block that is counted free", "metadata space map: block 0 is counted 0 times", bits(func(s *Superblock, d, m *SpaceMap) (*SpaceMap, int, uint32) { return m, 0, 0 }), false},
		{"a metadata block counted too often", "metadata space map: block", bits(func(s *Superblock, d, m *SpaceMap) (*SpaceMap, int, uint32) { return m, int(m.bitmaps[0]), 2 }), false},
		{"a count without a number", "has no count", bits(func(s *Superblock, d, m *SpaceMap) (*SpaceMap, int, uint32) {
			k := 0
			for d.over[uint64(k)] != 0 {
				k++
			}
			return d, k, overflowed
		}), true},
		{"a count in the overflow tree", "owners", func(t *testing.T, b []byte, s *Superblock) place {
			p := leaf(t, b, s.metaOver, 4)
			if p.get32(16) == 0 {
				t.Fatal("no block has more than two owners")
			}
			at := headerSize + 8*int(p.get32(20))
			p.put32(at, p.get32(at)+1)
			return p
		}, false},
		{"a number of used blocks", "the superblock says", func(t *testing.T, b []byte, s *Superblock) place {
			p := at(b, 0, saltSuperblock)
			p.put64(72, p.get64(72)+1)
			return p
		}, true},
		{"a tree in itself", "in one tree twice", func(t *testing.T, b []byte, s *Superblock) place {
			p := at(b, s.details, saltNode)
			p.put32(4, flagInternal)
			p.put32(16, 1)
			p.put32(20, 252)
			p.put32(24, 8)
			p.put64(headerSize, 0)
			p.put64(headerSize+8*252, s.details)
			return p
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := made(t, "kernel")
			p := test.spoil(t, b, superblock(t, b))
			seal(p.b, p.block, p.salt)
			c, err := Check(bytes.NewReader(b), 1024)
			if err != nil {
				t.Fatal(err)
			}
			if c.OK() || !strings.Contains(strings.Join(c.Problems, "\n"), test.want) {
				t.Errorf("got %q, leaked %d; want %q", c.Problems, c.Leaked, test.want)
			}
			if bad, out := thinCheck(t, b); !bad && !test.ours {
				t.Errorf("thin_check finds nothing: %s", out)
			}
		})
	}
}

// mapped is a leaf with mappings.
func mapped(t *testing.T, b []byte, s *Superblock) place {
	roots, err := s.Roots(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return leaf(t, b, roots[0].Block, 8)
}

// bits sets the two bits of a block.
func bits(which func(s *Superblock, data, meta *SpaceMap) (*SpaceMap, int, uint32)) func(*testing.T, []byte, *Superblock) place {
	return func(t *testing.T, b []byte, s *Superblock) place {
		d, err := s.DataMap(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.MetadataMap(bytes.NewReader(b), nil)
		if err != nil {
			t.Fatal(err)
		}
		sm, k, n := which(s, d, m)
		p := at(b, sm.bitmaps[0], saltBitmap)
		two := byte(n>>1 | n&1<<1)
		at := bitmapHead + k/4
		p.b[at] = p.b[at]&^(3<<(k%4*2)) | two<<(k%4*2)
		return p
	}
}

// TestLeakIsNoDamage: a block that is counted and nobody's is lost and not dangerous.
func TestLeakIsNoDamage(t *testing.T) {
	b := made(t, "kernel")
	s := superblock(t, b)
	d, err := s.DataMap(bytes.NewReader(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	runs, err := d.Free(bytes.NewReader(b), 0)
	if err != nil {
		t.Fatal(err)
	}
	p := bits(func(*Superblock, *SpaceMap, *SpaceMap) (*SpaceMap, int, uint32) { return d, int(runs[0].From), 1 })(t, b, s)
	seal(p.b, p.block, p.salt)
	p = at(b, 0, saltSuperblock)
	p.put64(72, s.Data.Used+1)
	seal(p.b, 0, saltSuperblock)
	p = leaf(t, b, s.dataIndex, indexEntrySize)
	at := headerSize + 8*int(p.get32(20)) + 8
	p.put32(at, p.get32(at)-1)
	seal(p.b, p.block, p.salt)
	c, err := Check(bytes.NewReader(b), 1024)
	if err != nil || !c.OK() || c.Leaked != 1 {
		t.Errorf("got %+v, %v; want one leaked block", c, err)
	}
}

// dump is the mappings of all devices, as thin_dump has them.
func dump(t *testing.T, b []byte) map[uint32]map[uint64]uint64 {
	t.Helper()
	need(t, "thin_dump")
	path := filepath.Join(t.TempDir(), "meta")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	all := map[uint32]map[uint64]uint64{}
	var now map[uint64]uint64
	number := func(line, key string) uint64 {
		_, rest, ok := strings.Cut(line, " "+key+`="`)
		text, _, _ := strings.Cut(rest, `"`)
		n, err := strconv.ParseUint(text, 10, 64)
		if !ok || err != nil {
			t.Fatalf("%s of %q: %v", key, line, err)
		}
		return n
	}
	for line := range strings.Lines(run(t, "thin_dump", path)) {
		switch {
		case strings.Contains(line, "<device"):
			now = map[uint64]uint64{}
			all[uint32(number(line, "dev_id"))] = now
		case strings.Contains(line, "<single_mapping"):
			now[number(line, "origin_block")] = number(line, "data_block")
		case strings.Contains(line, "<range_mapping"):
			for i := range number(line, "length") {
				now[number(line, "origin_begin")+i] = number(line, "data_begin") + i
			}
		}
	}
	return all
}

// TestUsageAgreesWithThinDump counts what thin_dump prints, and compares.
func TestUsageAgreesWithThinDump(t *testing.T) {
	b := made(t, "kernel")
	s, r := superblock(t, b), bytes.NewReader(b)
	all := dump(t, b)
	owners := map[uint64]map[uint32]bool{}
	for id, m := range all {
		for v, data := range m {
			if owners[data] == nil {
				owners[data] = map[uint32]bool{}
			}
			owners[data][id] = true
			if got, ok, err := s.Mapping(r, id, v); err != nil || !ok || got != data {
				t.Fatalf("block %d of %d: %d %v %v, want %d", v, id, got, ok, err, data)
			}
		}
		if got, ok, err := s.Mapping(r, id, 1<<40); ok || err != nil {
			t.Fatalf("a block beyond all: %d %v", got, err)
		}
	}
	for a, m := range all {
		for origin, o := range all {
			want := uint64(0)
			for v, data := range m {
				if d, ok := o[v]; !ok || d != data {
					want++
				}
			}
			if got, err := s.Differ(r, a, origin); err != nil || got != want {
				t.Errorf("%d and %d differ in %d blocks, %v; want %d", a, origin, got, err, want)
			}
		}
	}
	rnd := rand.New(rand.NewSource(1))
	for range 40 { // groups at random, that overlap: some devices in none, some in many
		const many = 4
		of := map[uint32][]int{}
		for id := range all {
			for g := range many {
				if rnd.Intn(3) == 0 {
					of[id] = append(of[id], g)
				}
			}
		}
		want := make([]uint64, many)
		for _, ids := range owners {
			for g := range many {
				outside := 0
				for id := range ids {
					if !slices.Contains(of[id], g) {
						outside++
					}
				}
				if outside == 0 {
					want[g]++
				}
			}
		}
		got, err := s.Exclusive(r, many, func(id uint32) []int { return of[id] })
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("groups %v: %v, %v; want %v", of, got, err, want)
		}
	}
	groups, err := s.Exclusive(r, 1, func(uint32) []int { return []int{0} })
	if err != nil || groups[0] != s.Data.Used {
		t.Errorf("all in one group: %v, %v; want %d", groups, err, s.Data.Used)
	}
}

// TestDifferReadsWhatDiffers: of two snapshots that share all but a leaf, only the way to
// that leaf is read, however large they are.
func TestDifferReadsWhatDiffers(t *testing.T) {
	b := made(t, "kernel")
	s := superblock(t, b)
	c := &counting{r: bytes.NewReader(b), blocks: map[int64]bool{}}
	if n, err := s.Differ(c, 3003, 3003); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	same := len(c.blocks)
	if same > 6 {
		t.Errorf("%d blocks read to compare a tree with itself", same)
	}
}

type counting struct {
	r      io.ReaderAt
	blocks map[int64]bool
}

func (c *counting) ReadAt(b []byte, at int64) (int, error) {
	c.blocks[at] = true
	return c.r.ReadAt(b, at)
}

// TestRenewal: at each cut of the writes the metadata is right, and no device may write to
// a block in place that another has; at the end the clock is 1.
func TestRenewal(t *testing.T) {
	b := made(t, "kernel")
	before := dump(t, b)
	s := superblock(t, b)
	if s.Clock < 20 {
		t.Fatalf("clock is %d", s.Clock)
	}
	type write struct {
		block uint64
		b     []byte
	}
	var writes []write
	err := s.Renewal(bytes.NewReader(b), func(block uint64, content []byte) error {
		writes = append(writes, write{block, bytes.Clone(content)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if writes[len(writes)-1].block != 0 {
		t.Errorf("the last of %d writes is to block %d", len(writes), writes[len(writes)-1].block)
	}
	safe(t, b)
	for _, w := range writes {
		copy(b[w.block*BlockSize:], w.b)
		c, err := Check(bytes.NewReader(b), 1024)
		if err != nil || !c.OK() || c.Leaked+c.LeakedMeta != 0 {
			t.Fatalf("after block %d: %+v, %v", w.block, c, err)
		}
		safe(t, b)
	}
	if bad, out := thinCheck(t, b); bad {
		t.Errorf("thin_check: %s", out)
	}
	if after := dump(t, b); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("mappings are not what they were")
	}
	if s := superblock(t, b); s.Clock != 1 {
		t.Errorf("clock is %d, want 1", s.Clock)
	}
	held := made(t, "held")
	if err := superblock(t, held).Renewal(bytes.NewReader(held), nil); err == nil {
		t.Error("renewed with a metadata snapshot")
	}
}

// safe: who shares a block with another is seen to: it was snapshotted after it mapped it.
func safe(t *testing.T, b []byte) {
	t.Helper()
	s, r := superblock(t, b), bytes.NewReader(b)
	roots, err := s.Roots(r)
	if err != nil {
		t.Fatal(err)
	}
	type owner struct {
		id   uint32
		time uint64
	}
	owners := map[uint64][]owner{}
	for _, root := range roots {
		w := walker{r: r, seen: map[uint64]bool{}}
		if err := w.tree(root.Block, 8, func(_ uint64, v []byte) error {
			n := binary.LittleEndian.Uint64(v)
			owners[n>>clockBits] = append(owners[n>>clockBits], owner{root.ID, n & (1<<clockBits - 1)})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for data, list := range owners {
		for _, o := range list {
			thin, ok, err := s.Thin(r, o.id)
			if err != nil || !ok {
				t.Fatal(o.id, err)
			}
			if len(list) > 1 && uint64(thin.Snapshotted) <= o.time {
				t.Fatalf("device %d, last snapshotted at %d, would write in place to block %d of time %d, which %d have", o.id, thin.Snapshotted, data, o.time, len(list))
			}
		}
	}
}

// FuzzMetadata: whatever is in a pool's blocks, an answer or an error, and an end. Three
// bytes say what to spoil where; checksums are put right, so that all is reached.
func FuzzMetadata(f *testing.F) {
	image := made(f, "held")
	s := superblock(f, image)
	kinds := map[uint64]uint32{0: saltSuperblock, s.HeldRoot: saltSuperblock, s.metaIndex: saltIndex}
	used := []uint64{0}
	for block := uint64(1); block < uint64(len(image))/BlockSize; block++ {
		for _, salt := range []uint32{saltSuperblock, saltNode, saltIndex, saltBitmap} {
			if check(image[block*BlockSize:][:BlockSize], block, salt, 8) == nil {
				kinds[block] = salt
				used = append(used, block)
			}
		}
	}
	f.Add([]byte{1, 0, 4, 1})
	rnd := rand.New(rand.NewSource(2))
	for range 200 {
		seed := make([]byte, 12)
		rnd.Read(seed)
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b := bytes.Clone(image)
		for ; len(data) >= 4; data = data[4:] {
			block := used[int(data[0])%len(used)]
			off := int(binary.LittleEndian.Uint16(data[1:])) % BlockSize
			if data[2]&0x80 != 0 { // mostly where headers and roots are
				off %= 64
			}
			b[block*BlockSize+uint64(off)] = data[3]
			seal(b[block*BlockSize:][:BlockSize], block, kinds[block])
		}
		r := bytes.NewReader(b)
		Check(r, 1024)
		s, err := ReadSuperblock(r, 0)
		if err != nil {
			return
		}
		s.Thins(r)
		s.Thin(r, 5005)
		s.Mapping(r, 5005, 3)
		s.Differ(r, 5005, 29029)
		s.Exclusive(r, 3, func(id uint32) []int { return [][]int{{0}, {0, 2}, {1, 2}, nil}[id%4] })
		s.Renewal(r, func(uint64, []byte) error { return nil })
	})
}
