package thinmeta

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
)

// A mapping's value is data block << 24 | clock (pack_block_time).
const clockBits = 24

// Root is a thin device's tree of mappings.
type Root struct {
	ID    uint32
	Block uint64
}

// Roots lists the trees of all thin devices in the order of their ids.
func (s *Superblock) Roots(r io.ReaderAt) ([]Root, error) {
	var list []Root
	w := walker{r: r, seen: map[uint64]bool{}}
	err := w.tree(s.mappings, 8, func(key uint64, v []byte) error {
		if key >= 1<<24 {
			return fmt.Errorf("thin id %d: %w", key, ErrDamaged)
		}
		list = append(list, Root{uint32(key), binary.LittleEndian.Uint64(v)})
		return nil
	})
	return list, because(err, "list of mappings")
}

// Mapping finds the data block behind a block of a thin device.
func (s *Superblock) Mapping(r io.ReaderAt, id uint32, block uint64) (data uint64, ok bool, err error) {
	root, err := lookup(r, s.mappings, 8, uint64(id))
	if err == nil && root != nil {
		root, err = lookup(r, binary.LittleEndian.Uint64(root), 8, block)
	}
	if err != nil || root == nil {
		return 0, false, because(err, "mapping of block %d of thin device %d", block, id)
	}
	return binary.LittleEndian.Uint64(root) >> clockBits, true, nil
}

// Differ counts the blocks of a thin device that are mapped otherwise than in its origin.
// What the two trees share is not read, so the cost is in what was written since.
func (s *Superblock) Differ(r io.ReaderAt, id, origin uint32) (uint64, error) {
	var roots [2]uint64
	for i, id := range []uint32{id, origin} {
		v, err := lookup(r, s.mappings, 8, uint64(id))
		if err == nil && v == nil {
			err = fmt.Errorf("not there: %w", ErrDamaged)
		}
		if err != nil {
			return 0, fmt.Errorf("mappings of thin device %d: %w", id, err)
		}
		roots[i] = binary.LittleEndian.Uint64(v)
	}
	n, err := differ(r, roots[0], roots[1])
	return n, because(err, "mappings of thin devices %d and %d", id, origin)
}

// level is the nodes of a tree at one height, but for those that both trees have.
type level map[uint64]struct{}

func differ(r io.ReaderAt, a, b uint64) (uint64, error) {
	x, y := level{a: {}}, level{b: {}}
	hx, err := height(r, a)
	if err != nil {
		return 0, err
	}
	hy, err := height(r, b)
	if err != nil {
		return 0, err
	}
	// Trees are balanced, so a node of both is at the same height in both.
	for {
		if hx == hy {
			for block := range x {
				if _, both := y[block]; both {
					delete(x, block)
					delete(y, block)
				}
			}
		}
		if len(x) == 0 {
			return 0, nil
		}
		if hx == 0 && hy == 0 {
			break
		}
		down := max(hx, hy)
		if hx == down {
			if x, err = x.down(r); err != nil {
				return 0, err
			}
			hx--
		}
		if hy == down {
			if y, err = y.down(r); err != nil {
				return 0, err
			}
			hy--
		}
	}
	old := map[uint64]uint64{}
	err = y.leaves(r, func(key, value uint64) { old[key] = value >> clockBits })
	if err != nil {
		return 0, err
	}
	count := uint64(0)
	err = x.leaves(r, func(key, value uint64) {
		if data, ok := old[key]; !ok || data != value>>clockBits {
			count++
		}
	})
	return count, err
}

// height is 0 for a leaf.
func height(r io.ReaderAt, block uint64) (int, error) {
	b := make([]byte, BlockSize)
	for h := range maxDepth {
		n, err := readNode(r, block, 8, b)
		if err != nil {
			return 0, err
		}
		if n.leaf {
			return h, nil
		}
		block = n.child(0)
	}
	return 0, fmt.Errorf("block %d: tree deeper than %d: %w", block, maxDepth, ErrDamaged)
}

// down is the children of a level. As a set, it cannot grow beyond the metadata however
// often hostile nodes name one child; and height bounds how often there is a next.
func (l level) down(r io.ReaderAt) (level, error) {
	next := level{}
	b := make([]byte, BlockSize)
	for _, block := range slices.Sorted(maps.Keys(l)) { // in the order of the disk
		n, err := readNode(r, block, 8, b)
		if err != nil {
			return nil, err
		}
		if n.leaf {
			return nil, fmt.Errorf("block %d: a leaf above the others: %w", block, ErrDamaged)
		}
		for i := range n.entries {
			next[n.child(i)] = struct{}{}
		}
	}
	return next, nil
}

func (l level) leaves(r io.ReaderAt, entry func(key, value uint64)) error {
	b := make([]byte, BlockSize)
	for _, block := range slices.Sorted(maps.Keys(l)) {
		n, err := readNode(r, block, 8, b)
		if err != nil {
			return err
		}
		if !n.leaf {
			return fmt.Errorf("block %d: no leaf, where the others are: %w", block, ErrDamaged)
		}
		for i := range n.entries {
			entry(n.key(i), binary.LittleEndian.Uint64(n.value(i)))
		}
	}
	return nil
}
