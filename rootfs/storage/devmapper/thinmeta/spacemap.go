package thinmeta

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A space map counts the owners of each block (persistent-data/dm-space-map-common.h): two
// bits per block in bitmap blocks, where 3 means that a B-tree has the count. The index
// of the bitmaps is a B-tree for data, and one block for metadata.
const (
	saltIndex      = 160478
	saltBitmap     = 240779
	bitmapHead     = 16
	indexEntrySize = 16
	// PerBitmap is how many blocks one bitmap counts.
	PerBitmap  = (BlockSize - bitmapHead) * 4
	maxIndexes = 255 // MAX_METADATA_BITMAPS
	overflowed = 3
)

const metadataMap = "metadata space map"

// SpaceMap is one of a pool's two.
type SpaceMap struct {
	Space
	what    string
	bitmaps []uint64
	over    map[uint64]uint32
}

// DataMap reads the index of the data's space map, MetadataMap that of the metadata's.
// found, if not nil, is told of each metadata block that the map itself is made of, but for
// the bitmaps.
func (s *Superblock) DataMap(r io.ReaderAt, found func(block uint64)) (*SpaceMap, error) {
	m, err := s.dataMap(r, found)
	if err == nil {
		err = because(m.counts(r, s.dataOver, found), "%s", m.what)
	}
	return m, err
}

// FreeMap is the data's space map without the counts of those blocks that have more than
// two owners, of which there may be many: enough for Free.
func (s *Superblock) FreeMap(r io.ReaderAt) (*SpaceMap, error) { return s.dataMap(r, nil) }

func (s *Superblock) dataMap(r io.ReaderAt, found func(block uint64)) (*SpaceMap, error) {
	m := &SpaceMap{Space: s.Data, what: "data space map", over: map[uint64]uint32{}}
	// Each bitmap is a metadata block of its own, so there cannot be more than those.
	if bitmaps(s.Data.Total) > s.Metadata.Total {
		return nil, fmt.Errorf("%s: %d blocks: %w", m.what, s.Data.Total, ErrDamaged)
	}
	err := treeOf(r, found).tree(s.dataIndex, indexEntrySize, func(key uint64, v []byte) error {
		if key != uint64(len(m.bitmaps)) || key >= bitmaps(s.Data.Total) {
			return fmt.Errorf("bitmap %d where %d of %d should be: %w", key, len(m.bitmaps), bitmaps(s.Data.Total), ErrDamaged)
		}
		m.add(v)
		return nil
	})
	if err == nil && uint64(len(m.bitmaps)) != bitmaps(s.Data.Total) {
		err = fmt.Errorf("%d bitmaps for %d blocks: %w", len(m.bitmaps), s.Data.Total, ErrDamaged)
	}
	return m, because(err, "%s", m.what)
}

// MetadataMap: see DataMap.
func (s *Superblock) MetadataMap(r io.ReaderAt, found func(block uint64)) (*SpaceMap, error) {
	m := &SpaceMap{Space: s.Metadata, what: metadataMap, over: map[uint64]uint32{}}
	if bitmaps(s.Metadata.Total) > maxIndexes {
		return nil, fmt.Errorf("%s: %d blocks: %w", m.what, s.Metadata.Total, ErrDamaged)
	}
	b := make([]byte, BlockSize)
	err := readBlock(r, s.metaIndex, b)
	if err == nil {
		err = check(b, s.metaIndex, saltIndex, 8)
	}
	if err != nil {
		return nil, because(err, "%s", m.what)
	}
	for i := range bitmaps(s.Metadata.Total) {
		m.add(b[16+indexEntrySize*i:])
	}
	if found != nil {
		found(s.metaIndex)
	}
	return m, because(m.counts(r, s.metaOver, found), "%s", m.what)
}

func bitmaps(blocks uint64) uint64 { return blocks/PerBitmap + min(1, blocks%PerBitmap) }

func (m *SpaceMap) add(entry []byte) {
	m.bitmaps = append(m.bitmaps, binary.LittleEndian.Uint64(entry))
}

func treeOf(r io.ReaderAt, found func(block uint64)) *walker {
	w := &walker{r: r, seen: map[uint64]bool{}}
	if found != nil {
		w.node = func(n *node) { found(n.block) }
	}
	return w
}

func (m *SpaceMap) counts(r io.ReaderAt, root uint64, found func(block uint64)) error {
	return treeOf(r, found).tree(root, 4, func(key uint64, v []byte) error {
		if key >= m.Total {
			return fmt.Errorf("a count for block %d of %d: %w", key, m.Total, ErrDamaged)
		}
		m.over[key] = binary.LittleEndian.Uint32(v)
		return nil
	})
}

// Bitmaps is how many there are.
func (m *SpaceMap) Bitmaps() int { return len(m.bitmaps) }

// bits reads the two bits of the blocks from i*PerBitmap on, as many as bitmap i has.
func (m *SpaceMap) bits(r io.ReaderAt, i int) ([]uint32, error) {
	b := make([]byte, BlockSize)
	err := readBlock(r, m.bitmaps[i], b)
	if err == nil {
		err = check(b, m.bitmaps[i], saltBitmap, 8)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: bitmap %d: %w", m.what, i, err)
	}
	counts := make([]uint32, min(PerBitmap, m.Total-uint64(i)*PerBitmap))
	for k := range counts {
		two := b[bitmapHead+k/4] >> (k % 4 * 2) & 3
		// The lower bit of the two is the higher one of the number (sm_lookup_bitmap).
		counts[k] = uint32(two>>1 | two&1<<1)
	}
	return counts, nil
}

// Counts reads the counts of the blocks from i*PerBitmap on, as many as bitmap i has.
func (m *SpaceMap) Counts(r io.ReaderAt, i int) ([]uint32, error) {
	counts, err := m.bits(r, i)
	for k, two := range counts {
		if two != overflowed {
			continue
		}
		block := uint64(i)*PerBitmap + uint64(k)
		n, ok := m.over[block]
		if !ok || n < overflowed {
			return nil, fmt.Errorf("%s: block %d has no count: %w", m.what, block, ErrDamaged)
		}
		counts[k] = n
	}
	return counts, err
}

// Run is blocks that follow each other: From is one of them, To is not.
type Run struct{ From, To uint64 }

// Free lists the free blocks of bitmap i.
func (m *SpaceMap) Free(r io.ReaderAt, i int) ([]Run, error) {
	counts, err := m.bits(r, i)
	if err != nil {
		return nil, err
	}
	var runs []Run
	for k, n := range counts {
		at := uint64(i)*PerBitmap + uint64(k)
		switch last := len(runs) - 1; {
		case n != 0:
		case last >= 0 && runs[last].To == at:
			runs[last].To++
		default:
			runs = append(runs, Run{at, at + 1})
		}
	}
	return runs, nil
}
