package thinmeta

import (
	"encoding/binary"
	"fmt"
	"io"
)

const (
	headerSize   = 32 // struct node_header
	flagInternal = 1
	flagLeaf     = 2
	maxDepth     = 32 // 2^32 blocks of at least two children each
)

// node is a block of a B-tree (persistent-data/dm-btree-internal.h): keys, then values. In
// an internal node the values are blocks of children whose first key is the key.
type node struct {
	block              uint64
	leaf               bool
	entries, max, size int
	b                  []byte
}

func (n *node) key(i int) uint64 { return binary.LittleEndian.Uint64(n.b[headerSize+8*i:]) }

func (n *node) value(i int) []byte {
	at := headerSize + 8*n.max + n.size*i
	return n.b[at : at+n.size]
}

func (n *node) child(i int) uint64 { return binary.LittleEndian.Uint64(n.value(i)) }

// readNode reads a node of a tree whose leaves hold values of leafSize bytes, into b.
func readNode(r io.ReaderAt, block uint64, leafSize int, b []byte) (*node, error) {
	if err := readBlock(r, block, b); err != nil {
		return nil, err
	}
	if err := check(b, block, saltNode, 8); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	flags, entries, most, size := le.Uint32(b[4:]), le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:])
	want := 8
	if flags == flagLeaf {
		want = leafSize
	}
	// Only a leaf may be empty: an internal node without children leads nowhere.
	if flags != flagLeaf && (flags != flagInternal || entries == 0) || entries > most || size != uint32(want) ||
		headerSize+uint64(most)*(8+uint64(size)) > BlockSize {
		return nil, fmt.Errorf("block %d: node with flags %d, %d of %d entries of %d bytes: %w", block, flags, entries, most, size, ErrDamaged)
	}
	n := &node{block, flags == flagLeaf, int(entries), int(most), int(size), b}
	for i := 1; i < n.entries; i++ {
		if n.key(i-1) >= n.key(i) {
			return nil, fmt.Errorf("block %d: key %d after %d: %w", block, n.key(i), n.key(i-1), ErrDamaged)
		}
	}
	return n, nil
}

// lookup finds the value of a key; nil: it is not there.
func lookup(r io.ReaderAt, root uint64, leafSize int, key uint64) ([]byte, error) {
	b := make([]byte, BlockSize)
	for range maxDepth {
		n, err := readNode(r, root, leafSize, b)
		if err != nil {
			return nil, err
		}
		i := n.entries - 1
		for i >= 0 && n.key(i) > key {
			i--
		}
		if i < 0 || n.leaf && n.key(i) != key {
			return nil, nil
		}
		if n.leaf {
			return n.value(i), nil
		}
		root = n.child(i)
	}
	return nil, fmt.Errorf("block %d: tree deeper than %d: %w", root, maxDepth, ErrDamaged)
}

// walker visits the leaves of trees from left to right.
type walker struct {
	r    io.ReaderAt
	seen map[uint64]bool // nodes: within one tree none is there twice
	node func(*node)     // of every node, if wanted
}

func (w *walker) tree(root uint64, leafSize int, entry func(key uint64, value []byte) error) error {
	return w.walk(root, leafSize, 0, 1<<63, maxDepth, entry)
}

// walk: all keys of the subtree are from least to less than limit.
func (w *walker) walk(block uint64, leafSize int, least, limit uint64, depth int, entry func(uint64, []byte) error) error {
	if depth == 0 {
		return fmt.Errorf("block %d: tree deeper than %d: %w", block, maxDepth, ErrDamaged)
	}
	if w.seen[block] {
		return fmt.Errorf("block %d is in one tree twice: %w", block, ErrDamaged)
	}
	w.seen[block] = true
	n, err := readNode(w.r, block, leafSize, make([]byte, BlockSize))
	if err != nil {
		return err
	}
	if w.node != nil {
		w.node(n)
	}
	if err := n.within(least, limit); err != nil {
		return err
	}
	for i := range n.entries {
		if n.leaf {
			err = entry(n.key(i), n.value(i))
		} else {
			err = w.walk(n.child(i), leafSize, n.key(i), n.limit(i, limit), depth-1, entry)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// within: the keys of a node lie between those of its parent. The kernel may have taken
// the least away since, so the first key may be larger than the parent's.
func (n *node) within(least, limit uint64) error {
	if n.entries > 0 && (n.key(0) < least || n.key(n.entries-1) >= limit) {
		return fmt.Errorf("block %d: keys %d to %d, its parent has it for %d to %d: %w", n.block, n.key(0), n.key(n.entries-1), least, limit, ErrDamaged)
	}
	return nil
}

// limit is what the keys of child i stay below.
func (n *node) limit(i int, limit uint64) uint64 {
	if i+1 < n.entries {
		return n.key(i + 1)
	}
	return limit
}
