package thinmeta

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Owners of nodes and data blocks: nobody yet, more than one, or a group's number.
const (
	nobody = 0
	shared = -1
)

// Exclusive counts, per group of thin devices, the data blocks that nobody else maps;
// group tells the group of an id, from 0 to groups-1, or -1 for one that stands for itself.
// Each node is visited at most twice: by the first who comes to it, and by the second,
// after whom it is shared with all that is below, whoever comes next. So the cost is in
// the size of the metadata, not in how many devices share it.
func (s *Superblock) Exclusive(r io.ReaderAt, groups int, group func(id uint32) int) ([]uint64, error) {
	roots, err := s.Roots(r)
	if err != nil {
		return nil, err
	}
	o := owners{r: r, data: s.Data.Total, nodes: map[uint64]int32{}, blocks: pages[int32]{}, own: make([]int64, groups+1)}
	other := int32(groups)
	for _, root := range roots {
		g := int32(group(root.ID))
		if g < 0 || int(g) >= groups {
			other++
			g = other - 1
		}
		if err := o.reach(root.Block, g+1, maxDepth); err != nil {
			return nil, fmt.Errorf("mappings of thin device %d: %w", root.ID, err)
		}
	}
	counts := make([]uint64, groups)
	for g := range counts {
		counts[g] = uint64(o.own[g])
	}
	return counts, nil
}

type owners struct {
	r      io.ReaderAt
	data   uint64
	nodes  map[uint64]int32
	blocks pages[int32]
	own    []int64 // by group; the last is all others
}

// next is what somebody becomes by g's coming, and false when nothing changes.
func next(now, g int32) (int32, bool) {
	switch now {
	case nobody:
		return g, true
	case g, shared:
		return now, false
	}
	return shared, true
}

func (o *owners) reach(block uint64, g int32, depth int) error {
	now, changed := next(o.nodes[block], g)
	if !changed {
		return nil
	}
	if depth == 0 {
		return fmt.Errorf("block %d: tree deeper than %d: %w", block, maxDepth, ErrDamaged)
	}
	o.nodes[block] = now
	n, err := readNode(o.r, block, 8, make([]byte, BlockSize))
	if err != nil {
		return err
	}
	for i := range n.entries {
		if !n.leaf {
			if err := o.reach(n.child(i), now, depth-1); err != nil {
				return err
			}
			continue
		}
		data := binary.LittleEndian.Uint64(n.value(i)) >> clockBits
		if data >= o.data {
			return fmt.Errorf("block %d: data block %d of %d: %w", block, data, o.data, ErrDamaged)
		}
		was := o.blocks.at(data)
		is, changed := next(*was, now)
		if changed {
			o.add(*was, -1)
			o.add(is, 1)
			*was = is
		}
	}
	return nil
}

func (o *owners) add(g int32, n int64) {
	if g > 0 {
		o.own[min(int(g)-1, len(o.own)-1)] += n
	}
}

// pages is a sparse array.
type pages[T any] map[uint64]*[PerBitmap]T

func (p pages[T]) at(i uint64) *T {
	page := p[i/PerBitmap]
	if page == nil {
		page = new([PerBitmap]T)
		p[i/PerBitmap] = page
	}
	return &page[i%PerBitmap]
}
