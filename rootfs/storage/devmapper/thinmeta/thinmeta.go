// Package thinmeta reads the metadata of a thin pool, as drivers/md/dm-thin-metadata.c
// and drivers/md/persistent-data lay it out: the superblock, and the list of thin devices.
// Every block is checked against its checksum and its own address. It writes nothing and
// does not look into the mappings; thin_check and thin_repair are for that.
package thinmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// BlockSize is that of metadata blocks.
const BlockSize = 4096

const (
	magic          = 27022010
	saltSuperblock = 160774
	saltNode       = 121107
	headerSize     = 32
	detailsSize    = 24
	flagInternal   = 1
	flagLeaf       = 2
	needsCheck     = 1 // superblock flag
	maxDepth       = 32
)

// Errors of content; a failed read is the reader's own error.
var (
	ErrNone    = errors.New("no thin pool metadata")      // the magic number is not there
	ErrDamaged = errors.New("thin pool metadata damaged") // a checksum, an address or a count is wrong
)

// Superblock is block 0, or its copy that a metadata snapshot holds.
type Superblock struct {
	NeedsCheck  bool
	Version     uint32
	Clock       uint32 // snapshots ever made; mappings keep 24 bits of it
	Transaction uint64 // 64 bits for user space
	HeldRoot    uint64 // block of the metadata snapshot's superblock; 0: none
	Data        Space
	Metadata    Space
	BlockSector uint32 // data block size in sectors

	mappings, details uint64
}

// Space counts blocks; metadata blocks include the kernel's own.
type Space struct{ Total, Used uint64 }

// ReadSuperblock reads the superblock at a block, 0 but for a metadata snapshot.
func ReadSuperblock(r io.ReaderAt, block uint64) (*Superblock, error) {
	b := make([]byte, BlockSize)
	if err := readBlock(r, block, b); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint64(b[32:]) != magic {
		return nil, fmt.Errorf("superblock at block %d: %w", block, ErrNone)
	}
	if err := check(b, block, saltSuperblock, 8); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	return &Superblock{
		NeedsCheck:  le.Uint32(b[4:])&needsCheck != 0,
		Version:     le.Uint32(b[40:]),
		Clock:       le.Uint32(b[44:]),
		Transaction: le.Uint64(b[48:]),
		HeldRoot:    le.Uint64(b[56:]),
		Data:        Space{le.Uint64(b[64:]), le.Uint64(b[72:])},
		Metadata:    Space{le.Uint64(b[192:]), le.Uint64(b[200:])},
		mappings:    le.Uint64(b[320:]),
		details:     le.Uint64(b[328:]),
		BlockSector: le.Uint32(b[336:]),
	}, nil
}

// Thin is one thin device, as the pool knows it.
type Thin struct {
	ID          uint32
	Mapped      uint64 // data blocks
	Transaction uint64 // the pool's when it was made
	Created     uint32 // the clock then; (ID, Created) is never used twice for snapshots
	Snapshotted uint32 // the clock when it last was the origin of a snapshot
}

// Thins lists all thin devices in the order of their ids.
//
// On a live pool the blocks of an old transaction are used again by the next but one:
// read through the superblock of a metadata snapshot, or read the superblock again
// afterwards and compare.
func (s *Superblock) Thins(r io.ReaderAt) ([]Thin, error) {
	var list []Thin
	err := walk(r, s.details, 0, maxDepth, func(key uint64, v []byte) error {
		le := binary.LittleEndian
		if key >= 1<<24 {
			return fmt.Errorf("thin id %d: %w", key, ErrDamaged)
		}
		if n := len(list); n > 0 && uint64(list[n-1].ID) >= key {
			return fmt.Errorf("thin id %d after %d: %w", key, list[n-1].ID, ErrDamaged)
		}
		list = append(list, Thin{uint32(key), le.Uint64(v), le.Uint64(v[8:]), le.Uint32(v[16:]), le.Uint32(v[20:])})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list of thin devices: %w", err)
	}
	return list, nil
}

// Thin looks one thin device up; ok is false when there is none of that id.
func (s *Superblock) Thin(r io.ReaderAt, id uint32) (t Thin, ok bool, err error) {
	block := s.details
	b := make([]byte, BlockSize)
	for range maxDepth {
		n, leaf, err := readNode(r, block, b)
		if err != nil {
			return Thin{}, false, fmt.Errorf("thin device %d: %w", id, err)
		}
		le := binary.LittleEndian
		i := n.entries - 1
		for i >= 0 && n.key(b, i) > uint64(id) {
			i--
		}
		if i < 0 || leaf && n.key(b, i) != uint64(id) {
			return Thin{}, false, nil
		}
		v := n.value(b, i)
		if leaf {
			return Thin{id, le.Uint64(v), le.Uint64(v[8:]), le.Uint32(v[16:]), le.Uint32(v[20:])}, true, nil
		}
		block = le.Uint64(v)
	}
	return Thin{}, false, fmt.Errorf("thin device %d: tree deeper than %d: %w", id, maxDepth, ErrDamaged)
}

// walk visits the leaves of the B-tree at block from left to right.
func walk(r io.ReaderAt, block, least uint64, depth int, leafEntry func(key uint64, value []byte) error) error {
	if depth == 0 {
		return fmt.Errorf("block %d: tree deeper than %d: %w", block, maxDepth, ErrDamaged)
	}
	b := make([]byte, BlockSize)
	n, leaf, err := readNode(r, block, b)
	if err != nil {
		return err
	}
	for i := range n.entries {
		key := n.key(b, i)
		if key < least {
			return fmt.Errorf("block %d: key %d below its parent's %d: %w", block, key, least, ErrDamaged)
		}
		if leaf {
			err = leafEntry(key, n.value(b, i))
		} else {
			err = walk(r, binary.LittleEndian.Uint64(n.value(b, i)), key, depth-1, leafEntry)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type node struct{ entries, max, size int }

func (n node) key(b []byte, i int) uint64 {
	return binary.LittleEndian.Uint64(b[headerSize+8*i:])
}

func (n node) value(b []byte, i int) []byte {
	at := headerSize + 8*n.max + n.size*i
	return b[at : at+n.size]
}

func readNode(r io.ReaderAt, block uint64, b []byte) (n node, leaf bool, err error) {
	if err := readBlock(r, block, b); err != nil {
		return n, false, err
	}
	if err := check(b, block, saltNode, 8); err != nil {
		return n, false, err
	}
	le := binary.LittleEndian
	flags := le.Uint32(b[4:])
	leaf = flags == flagLeaf
	entries, most, size := le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:])
	want := uint32(8)
	if leaf {
		want = detailsSize
	}
	if !leaf && flags != flagInternal || entries > most || size != want ||
		headerSize+uint64(most)*(8+uint64(size)) > BlockSize {
		return n, false, fmt.Errorf("block %d: node with flags %d, %d of %d entries of %d bytes: %w", block, flags, entries, most, size, ErrDamaged)
	}
	return node{int(entries), int(most), int(size)}, leaf, nil
}

func readBlock(r io.ReaderAt, block uint64, b []byte) error {
	if block >= 1<<32 { // 15.875 GiB is the most that dm-thin takes
		return fmt.Errorf("block %d: %w", block, ErrDamaged)
	}
	if _, err := r.ReadAt(b, int64(block)*BlockSize); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("block %d: %w", block, err)
	}
	return nil
}

// check compares the checksum (CRC-32C without the final inversion, xor the salt, over
// all but itself) and the address that a block carries.
func check(b []byte, block uint64, salt uint32, addressAt int) error {
	sum := ^crc32.Checksum(b[4:], crc32.MakeTable(crc32.Castagnoli)) ^ salt
	if got := binary.LittleEndian.Uint32(b); got != sum {
		return fmt.Errorf("block %d: checksum %08x, want %08x: %w", block, got, sum, ErrDamaged)
	}
	if got := binary.LittleEndian.Uint64(b[addressAt:]); got != block {
		return fmt.Errorf("block %d says it is block %d: %w", block, got, ErrDamaged)
	}
	return nil
}
