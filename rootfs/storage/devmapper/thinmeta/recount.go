package thinmeta

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Recount tells the blocks to write so that there is no metadata snapshot, the space maps
// count exactly what the present trees own, and the kernel's flag that wants it checked is
// clear; none when that is so already. They belong together, and no pool may be on the
// metadata until all of them are written.
//
// The kernel cannot be asked to release a metadata snapshot that it found when it was
// activated. The power may have gone in the middle of the commit that made it: then its
// blocks were never counted, and the release takes them away from the trees that share
// them. In the middle of a release it leaves them counted for ever. Here the snapshot is
// not even read.
//
// Counts only become smaller: a block with more owners than it is counted for is damage.
func Recount(r io.ReaderAt, limit uint64, change func(block uint64, content []byte) error) error {
	s, err := ReadSuperblock(r, 0)
	if err != nil {
		return err
	}
	k, err := newChecker(r, s, limit)
	if err != nil {
		return err
	}
	k.present()
	data, meta := k.readMaps()
	if k.err != nil {
		return k.err
	}
	if !k.c.OK() {
		return fmt.Errorf("%s: %w", k.c.Problems[0], ErrDamaged)
	}
	dataFreed, err := data.recount(r, k.data, s.dataOver, change)
	if err == nil {
		err = recountIndex(r, s.dataIndex, dataFreed.indexes, change)
	}
	if err != nil {
		return because(err, "%s", data.what)
	}
	metaFreed, err := meta.recount(r, k.meta, s.metaOver, change)
	if err == nil {
		err = recountMetaIndex(r, s.metaIndex, metaFreed.indexes, change)
	}
	if err != nil {
		return because(err, "%s", meta.what)
	}
	if s.HeldRoot == 0 && !s.NeedsCheck && dataFreed.blocks+metaFreed.blocks == 0 {
		return nil
	}
	b := make([]byte, BlockSize)
	if err := readBlock(r, 0, b); err != nil {
		return err
	}
	le := binary.LittleEndian
	le.PutUint32(b[4:], le.Uint32(b[4:])&^needsCheck)
	le.PutUint64(b[56:], 0)
	le.PutUint64(b[72:], s.Data.Used-dataFreed.blocks)
	le.PutUint64(b[200:], s.Metadata.Used-metaFreed.blocks)
	seal(b, 0, saltSuperblock)
	return change(0, b)
}

// freed is what a recount found to be nobody's.
type freed struct {
	blocks  uint64
	indexes map[uint64]freedIn // by bitmap
}

type freedIn struct{ n, first uint32 }

// recount lowers the counts of a map to the owners that there are. Of a block that has two
// or fewer now, the tree of the counts over two keeps what it had: the kernel asks it
// only when the two bits say so, and writes over it then.
func (m *SpaceMap) recount(r io.ReaderAt, owners pages[uint32], over uint64, change func(uint64, []byte) error) (f freed, err error) {
	f.indexes = map[uint64]freedIn{}
	lower := map[uint64]uint32{}
	for i := range m.bitmaps {
		counts, err := m.Counts(r, i)
		if err != nil {
			return f, err
		}
		page := owners[uint64(i)]
		if page == nil {
			page = new([PerBitmap]uint32)
		}
		b := make([]byte, BlockSize)
		if err := readBlock(r, m.bitmaps[i], b); err != nil {
			return f, err
		}
		dirty := false
		for j, n := range counts {
			want, block := page[j], uint64(i)*PerBitmap+uint64(j)
			switch {
			case n == want:
				continue
			case n < want:
				return f, fmt.Errorf("block %d is counted %d times, it has %d owners: %w", block, n, want, ErrDamaged)
			case want >= overflowed:
				lower[block] = want
				continue
			case want == 0:
				in, known := f.indexes[uint64(i)]
				if !known {
					in.first = uint32(j)
				}
				in.n++
				f.indexes[uint64(i)] = in
				f.blocks++
			}
			at, shift := bitmapHead+j/4, j%4*2
			b[at] = b[at]&^(3<<shift) | byte(want>>1|want&1<<1)<<shift
			dirty = true
		}
		if dirty {
			seal(b, m.bitmaps[i], saltBitmap)
			if err := change(m.bitmaps[i], b); err != nil {
				return f, err
			}
		}
	}
	if len(lower) == 0 {
		return f, nil
	}
	return f, eachLeaf(r, over, 4, change, func(key uint64, value []byte) bool {
		want, ok := lower[key]
		if ok {
			binary.LittleEndian.PutUint32(value, want)
		}
		return ok
	})
}

// recountIndex adds what was freed to the data's index of bitmaps.
func recountIndex(r io.ReaderAt, root uint64, indexes map[uint64]freedIn, change func(uint64, []byte) error) error {
	return eachLeaf(r, root, indexEntrySize, change, func(key uint64, value []byte) bool {
		f, ok := indexes[key]
		if ok {
			f.add(value)
		}
		return ok
	})
}

// recountMetaIndex is recountIndex for the metadata's, which is one block.
func recountMetaIndex(r io.ReaderAt, block uint64, indexes map[uint64]freedIn, change func(uint64, []byte) error) error {
	if len(indexes) == 0 {
		return nil
	}
	b := make([]byte, BlockSize)
	if err := readBlock(r, block, b); err != nil {
		return err
	}
	for i, f := range indexes {
		f.add(b[16+indexEntrySize*i:])
	}
	seal(b, block, saltIndex)
	return change(block, b)
}

// add changes an index entry: the bitmap's block, how many are free, none free before.
func (f freedIn) add(entry []byte) {
	le := binary.LittleEndian
	le.PutUint32(entry[8:], le.Uint32(entry[8:])+f.n)
	le.PutUint32(entry[12:], min(le.Uint32(entry[12:]), f.first))
}

// eachLeaf tells the leaves of a tree in which edit has changed a value.
func eachLeaf(r io.ReaderAt, root uint64, size int, change func(uint64, []byte) error, edit func(key uint64, value []byte) bool) error {
	var leaves []*node
	w := walker{r: r, seen: map[uint64]bool{}, node: func(n *node) {
		if n.leaf {
			leaves = append(leaves, n)
		}
	}}
	if err := w.tree(root, size, func(uint64, []byte) error { return nil }); err != nil {
		return err
	}
	for _, n := range leaves {
		dirty := false
		for i := range n.entries {
			dirty = edit(n.key(i), n.value(i)) || dirty
		}
		if !dirty {
			continue
		}
		seal(n.b, n.block, saltNode)
		if err := change(n.block, n.b); err != nil {
			return err
		}
	}
	return nil
}
