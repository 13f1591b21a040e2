package thinmeta

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// Exclusive counts, per group of thin devices, the data blocks that nobody outside of the
// group maps. of tells the groups of an id, by number and in order: none, one or, where
// groups overlap, several.
//
// A node or block belongs to those groups that all devices who reach it are in. Each
// device brings its groups to its root, and what that leaves of the root's groups goes
// down the tree, as far as it still takes any away. So a node is visited once by the
// first who reaches it, and once more each time it loses groups: where groups do not
// overlap twice, however many devices share it.
func (s *Superblock) Exclusive(r io.ReaderAt, groups int, of func(id uint32) []int) ([]uint64, error) {
	roots, err := s.Roots(r)
	if err != nil {
		return nil, err
	}
	o := owners{r: r, data: s.Data.Total, nodes: map[uint64]int32{}, blocks: pages[int32]{}, own: map[int32]int64{},
		sets: [][]int{nobody: nil}, known: map[string]int32{}, met: map[[2]int32]int32{}}
	// Those in few groups first: what they have been to hardly anybody comes to again.
	slices.SortStableFunc(roots, func(a, b Root) int { return cmp.Compare(len(of(a.ID)), len(of(b.ID))) })
	for _, root := range roots {
		if err := o.reach(root.Block, o.set(of(root.ID)), maxDepth); err != nil {
			return nil, fmt.Errorf("mappings of thin device %d: %w", root.ID, err)
		}
	}
	counts := make([]uint64, groups)
	for set, n := range o.own {
		for _, g := range o.sets[set] {
			counts[g] += uint64(n)
		}
	}
	return counts, nil
}

// nobody has been to a node yet. It is no set; that of no groups has a number of its own.
const nobody = 0

type owners struct {
	r      io.ReaderAt
	data   uint64
	nodes  map[uint64]int32 // number of the set of groups
	blocks pages[int32]
	own    map[int32]int64 // data blocks, by set

	sets  [][]int
	known map[string]int32
	met   map[[2]int32]int32
}

// set numbers a set of groups.
func (o *owners) set(groups []int) int32 {
	key := fmt.Sprint(groups)
	n, ok := o.known[key]
	if !ok {
		n = int32(len(o.sets))
		o.sets = append(o.sets, groups)
		o.known[key] = n
	}
	return n
}

// meet is what is in both of two sets.
func (o *owners) meet(a, b int32) int32 {
	if a == b || a == nobody {
		return b
	}
	n, ok := o.met[[2]int32{a, b}]
	if !ok {
		var both []int
		for _, g := range o.sets[a] {
			if _, in := slices.BinarySearch(o.sets[b], g); in {
				both = append(both, g)
			}
		}
		n = o.set(both)
		o.met[[2]int32{a, b}] = n
	}
	return n
}

func (o *owners) reach(block uint64, set int32, depth int) error {
	was := o.nodes[block]
	if set = o.meet(was, set); set == was {
		return nil
	}
	if depth == 0 {
		return fmt.Errorf("block %d: tree deeper than %d: %w", block, maxDepth, ErrDamaged)
	}
	o.nodes[block] = set
	n, err := readNode(o.r, block, 8, make([]byte, BlockSize))
	if err != nil {
		return err
	}
	for i := range n.entries {
		if !n.leaf {
			if err := o.reach(n.child(i), set, depth-1); err != nil {
				return err
			}
			continue
		}
		data := binary.LittleEndian.Uint64(n.value(i)) >> clockBits
		if data >= o.data {
			return fmt.Errorf("block %d: data block %d of %d: %w", block, data, o.data, ErrDamaged)
		}
		at := o.blocks.at(data)
		if now := o.meet(*at, set); now != *at {
			o.own[*at]--
			o.own[now]++
			*at = now
		}
	}
	return nil
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
