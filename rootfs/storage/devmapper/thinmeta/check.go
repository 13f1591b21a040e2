package thinmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Checked is what a check of the whole metadata found.
type Checked struct {
	Problems []string // at most maxProblems, the last then says that there are more
	// Leaked data blocks are counted and nobody's, LeakedMeta the same of metadata. They
	// are lost space and harm nothing: the kernel counts a block before it maps it, and
	// commits whenever it must, so that a power cut in between leaves some.
	Leaked, LeakedMeta uint64

	Thins      []Thin
	Data, Meta uint64 // blocks in use, as counted here
}

const maxProblems = 50

// OK: nothing is wrong, though perhaps something is lost.
func (c *Checked) OK() bool { return len(c.Problems) == 0 }

func (c *Checked) problem(err error) {
	switch {
	case len(c.Problems) < maxProblems-1:
		c.Problems = append(c.Problems, err.Error())
	case len(c.Problems) < maxProblems:
		c.Problems = append(c.Problems, "and more")
	}
}

// Check reads everything there is from the superblock on, counts the owners of every
// block, and compares that with the space maps; and the devices' details with their
// mappings. limit is how many data blocks there can be at most, and r has to stay as it
// is. The error is for what could not be read; what is wrong is in the answer.
func Check(r io.ReaderAt, limit uint64) (*Checked, error) {
	s, err := ReadSuperblock(r, 0)
	if err != nil {
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNone) {
			return &Checked{Problems: []string{err.Error()}}, nil
		}
		return nil, err
	}
	k, err := newChecker(r, s, limit)
	if err != nil {
		return &Checked{Problems: []string{err.Error()}}, nil
	}
	if s.NeedsCheck {
		k.c.problem(errors.New("superblock: the kernel has marked it as in need of a check"))
	}
	k.present()
	if s.HeldRoot != 0 {
		k.owned(s.HeldRoot)
		held, err := ReadSuperblock(r, s.HeldRoot)
		if err != nil {
			k.found(fmt.Errorf("metadata snapshot: %w", err))
		} else {
			k.held = true
			k.trees(held)
			k.detailNodes(held)
		}
	}
	k.maps()
	if k.err != nil {
		return nil, k.err
	}
	return k.c, nil
}

type checker struct {
	r          io.ReaderAt
	s          *Superblock
	c          *Checked
	err        error // of reading
	held       bool  // at the metadata snapshot
	meta, data pages[uint32]
	leaves     map[uint64]uint64 // mapped blocks below each node of a mapping tree
}

func newChecker(r io.ReaderAt, s *Superblock, limit uint64) (*checker, error) {
	if s.Data.Total > limit {
		return nil, fmt.Errorf("superblock: %d data blocks, there are %d: %w", s.Data.Total, limit, ErrDamaged)
	}
	return &checker{r: r, s: s, c: &Checked{}, meta: pages[uint32]{}, data: pages[uint32]{}, leaves: map[uint64]uint64{}}, nil
}

// present counts what the present trees own.
func (k *checker) present() {
	k.owned(0)
	k.details(k.s, k.trees(k.s))
}

func (k *checker) found(err error) {
	if err == nil {
		return
	}
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNone) {
		k.c.problem(err)
	} else if k.err == nil {
		k.err = err
	}
}

// owned counts an owner of a metadata block, and tells if it is the first.
func (k *checker) owned(block uint64) bool {
	if block >= k.s.Metadata.Total {
		return true // reading it says what is wrong
	}
	n := k.meta.at(block)
	*n++
	return *n == 1
}

// trees counts all mappings, and how many each thin device has.
func (k *checker) trees(s *Superblock) map[uint32]uint64 {
	mapped := map[uint32]uint64{}
	k.shared(s.mappings, 0, 1<<24, maxDepth, func(key, root uint64) {
		n, err := k.mappings(root, 0, 1<<63, maxDepth)
		if err != nil {
			k.found(fmt.Errorf("mappings of thin device %d: %w", key, err))
		}
		mapped[uint32(key)] += n
	})
	return mapped
}

// shared visits the upper mapping tree. A metadata snapshot has nodes of the present one,
// and what is below those is owned already.
func (k *checker) shared(block, least, limit uint64, depth int, entry func(key, root uint64)) {
	if !k.owned(block) {
		return
	}
	n, err := k.read(block, least, limit, depth)
	if err != nil {
		k.found(fmt.Errorf("list of mappings: %w", err))
		return
	}
	for i := range n.entries {
		if n.leaf {
			entry(n.key(i), n.child(i))
		} else {
			k.shared(n.child(i), n.key(i), n.limit(i, limit), depth-1, entry)
		}
	}
}

func (k *checker) read(block, least, limit uint64, depth int) (*node, error) {
	if depth == 0 {
		return nil, fmt.Errorf("block %d: tree deeper than %d: %w", block, maxDepth, ErrDamaged)
	}
	if block >= k.s.Metadata.Total {
		return nil, fmt.Errorf("block %d of %d: %w", block, k.s.Metadata.Total, ErrDamaged)
	}
	n, err := readNode(k.r, block, 8, make([]byte, BlockSize))
	if err == nil {
		err = n.within(least, limit)
	}
	return n, err
}

// mappings counts what a mapping tree maps. A node that others have too is read once.
func (k *checker) mappings(block, least, limit uint64, depth int) (uint64, error) {
	if !k.owned(block) {
		return k.leaves[block], nil
	}
	n, err := k.read(block, least, limit, depth)
	if err != nil {
		return 0, err
	}
	count := uint64(0)
	for i := range n.entries {
		if !n.leaf {
			m, err := k.mappings(n.child(i), n.key(i), n.limit(i, limit), depth-1)
			if err != nil {
				return count, err
			}
			count += m
			continue
		}
		value := binary.LittleEndian.Uint64(n.value(i))
		if data := value >> clockBits; data >= k.s.Data.Total {
			k.found(fmt.Errorf("block %d: data block %d of %d: %w", block, data, k.s.Data.Total, ErrDamaged))
		} else {
			*k.data.at(data)++
		}
		if clock := uint32(value & (1<<clockBits - 1)); clock > k.s.Clock {
			k.found(fmt.Errorf("block %d: mapping of time %d, it is %d now: %w", block, clock, k.s.Clock, ErrDamaged))
		}
		count++
	}
	k.leaves[block] = count
	return count, nil
}

// details compares the list of devices with the mappings.
func (k *checker) details(s *Superblock, mapped map[uint32]uint64) {
	list, err := s.Thins(k.r)
	k.found(err)
	k.detailNodes(s)
	k.c.Thins = list
	if err != nil {
		return
	}
	for _, t := range list {
		n, ok := mapped[t.ID]
		switch {
		case !ok:
			k.c.problem(fmt.Errorf("thin device %d has no mappings tree", t.ID))
		case n != t.Mapped:
			k.c.problem(fmt.Errorf("thin device %d has %d blocks mapped, its details say %d", t.ID, n, t.Mapped))
		}
		delete(mapped, t.ID)
	}
	for id := range mapped {
		k.c.problem(fmt.Errorf("thin device %d has mappings and no details", id))
	}
}

// detailNodes counts the owners of the details tree's nodes.
func (k *checker) detailNodes(s *Superblock) {
	var visit func(block uint64, depth int)
	visit = func(block uint64, depth int) {
		if !k.owned(block) || depth == 0 {
			return
		}
		n, err := readNode(k.r, block, detailsSize, make([]byte, BlockSize))
		if err != nil {
			if k.held {
				k.found(fmt.Errorf("metadata snapshot: %w", err))
			}
			return // of the present tree, Thins has said so
		}
		for i := 0; !n.leaf && i < n.entries; i++ {
			visit(n.child(i), depth-1)
		}
	}
	visit(s.details, maxDepth)
}

// readMaps reads the space maps, whose own blocks count too; nil when it found damage.
func (k *checker) readMaps() (data, meta *SpaceMap) {
	data, err := k.s.DataMap(k.r, func(block uint64) { k.owned(block) })
	k.found(err)
	meta, metaErr := k.s.MetadataMap(k.r, func(block uint64) { k.owned(block) })
	k.found(metaErr)
	if err != nil || metaErr != nil || k.err != nil {
		return nil, nil
	}
	for _, m := range []*SpaceMap{data, meta} {
		for _, block := range m.bitmaps {
			if !k.owned(block) {
				k.found(fmt.Errorf("%s: bitmap at block %d is something else, too: %w", m.what, block, ErrDamaged))
			}
		}
	}
	return data, meta
}

// maps compares what was counted with the space maps.
func (k *checker) maps() {
	data, meta := k.readMaps()
	if data == nil {
		return
	}
	// If something was not to be read, all below it was not counted.
	whole := k.c.OK() || k.s.NeedsCheck && len(k.c.Problems) == 1
	k.c.Data, k.c.Leaked = k.compare(data, k.data, whole)
	k.c.Meta, k.c.LeakedMeta = k.compare(meta, k.meta, whole)
}

func (k *checker) compare(m *SpaceMap, owners pages[uint32], whole bool) (used, leaked uint64) {
	none := new([PerBitmap]uint32)
	// How many blocks of a bitmap are free its index says too. The kernel takes that for a
	// hint where to look, and thin_restore has it wrong by a few.
	for i := range m.bitmaps {
		counts, err := m.Counts(k.r, i)
		if err != nil {
			k.found(err)
			return used, leaked
		}
		page := owners[uint64(i)]
		if page == nil {
			page = none
		}
		for j, n := range counts {
			if n > 0 {
				used++
			}
			switch want, block := page[j], uint64(i)*PerBitmap+uint64(j); {
			case n == want:
			case want == 0 && whole:
				leaked++
			case whole || n < want: // fewer than there are: it would be given to another
				k.c.problem(fmt.Errorf("%s: block %d is counted %d times, it has %d owners", m.what, block, n, want))
			}
		}
	}
	// Of metadata thin_restore counts one too many in the superblock.
	if used != m.Used && !(m.what == metadataMap && used+1 == m.Used) {
		k.c.problem(fmt.Errorf("%s: %d blocks are in use, the superblock says %d", m.what, used, m.Used))
	}
	return used, leaked
}
