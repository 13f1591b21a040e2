package thinmeta

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// Renewal tells the blocks to write to set the pool's clock back to 1, in the order in
// which they must reach the disk: whatever is cut off at any block is metadata that the
// kernel works with.
//
// A write to a block is preceded by a copy of it when the device was snapshotted after the
// block was mapped (__snapshotted_since: snapshotted > time of the mapping). So first all
// mappings get time 0, by which the kernel may copy once more than it needs, and no less.
// Then all devices were snapshotted at 1, which is later than all of these and not later
// than what is mapped from then on. The superblock's clock is last: with the old one still
// there, the two before are right as well.
//
// Times of creation stay, the kernel only stores them: the caller knows devices by them.
func (s *Superblock) Renewal(r io.ReaderAt, change func(block uint64, content []byte) error) error {
	if s.HeldRoot != 0 {
		return fmt.Errorf("there is a metadata snapshot: %w", ErrDamaged)
	}
	if s.Data.Total >= 1<<40 {
		return fmt.Errorf("superblock: %d data blocks: %w", s.Data.Total, ErrDamaged)
	}
	roots, err := s.Roots(r)
	if err != nil {
		return err
	}
	seen := map[uint64]bool{}
	for _, root := range roots {
		if err := timeless(r, root.Block, seen, maxDepth, change); err != nil {
			return fmt.Errorf("mappings of thin device %d: %w", root.ID, err)
		}
	}
	var leaves []*node
	w := walker{r: r, seen: map[uint64]bool{}, node: func(n *node) {
		if n.leaf {
			leaves = append(leaves, n)
		}
	}}
	if err := w.tree(s.details, detailsSize, func(uint64, []byte) error { return nil }); err != nil {
		return fmt.Errorf("list of thin devices: %w", err)
	}
	for _, n := range leaves {
		for i := range n.entries {
			binary.LittleEndian.PutUint32(n.value(i)[20:], 1)
		}
		seal(n.b, n.block, saltNode)
		if err := change(n.block, n.b); err != nil {
			return err
		}
	}
	b := make([]byte, BlockSize)
	if err := readBlock(r, 0, b); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(b[44:], 1)
	seal(b, 0, saltSuperblock)
	return change(0, b)
}

// timeless sets the time of each mapping of a tree to 0; nodes of more than one tree once.
func timeless(r io.ReaderAt, block uint64, seen map[uint64]bool, depth int, change func(uint64, []byte) error) error {
	if seen[block] {
		return nil
	}
	seen[block] = true
	if depth == 0 {
		return fmt.Errorf("block %d: tree deeper than %d: %w", block, maxDepth, ErrDamaged)
	}
	n, err := readNode(r, block, 8, make([]byte, BlockSize))
	if err != nil {
		return err
	}
	dirty := false
	for i := range n.entries {
		if !n.leaf {
			if err := timeless(r, n.child(i), seen, depth-1, change); err != nil {
				return err
			}
			continue
		}
		value := binary.LittleEndian.Uint64(n.value(i))
		dirty = dirty || value&(1<<clockBits-1) != 0
		binary.LittleEndian.PutUint64(n.value(i), value>>clockBits<<clockBits)
	}
	if !dirty {
		return nil
	}
	seal(n.b, block, saltNode)
	return change(block, n.b)
}

// seal gives a block its address and checksum.
func seal(b []byte, block uint64, salt uint32) {
	binary.LittleEndian.PutUint64(b[8:], block)
	binary.LittleEndian.PutUint32(b, sum(b, salt))
}

// sum is CRC-32C without the final inversion, xor the salt, over all but itself.
func sum(b []byte, salt uint32) uint32 {
	return ^crc32.Checksum(b[4:], crc32.MakeTable(crc32.Castagnoli)) ^ salt
}
