// Package thinmeta reads the metadata of a thin pool, as drivers/md/dm-thin-metadata.c
// and drivers/md/persistent-data lay it out: the superblock, the list of thin devices, the
// mappings of each, and the space maps. Every block is checked against its checksum and
// its own address, every count against its bounds, and no tree is followed in a circle, so
// that any content at all ends in an answer or an error. It writes nothing: what Renewal
// and Recount make of the metadata is the caller's to store.
package thinmeta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// BlockSize is that of metadata blocks.
const BlockSize = 4096

const (
	magic          = 27022010
	saltSuperblock = 160774
	saltNode       = 121107
	detailsSize    = 24
	needsCheck     = 1 // superblock flag
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

	mappings, details    uint64 // roots
	dataIndex, metaIndex uint64 // roots of the space maps: where the bitmaps are
	dataOver, metaOver   uint64 // and the counts that two bits do not hold
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
		dataIndex:   le.Uint64(b[80:]),
		dataOver:    le.Uint64(b[88:]),
		metaIndex:   le.Uint64(b[208:]),
		metaOver:    le.Uint64(b[216:]),
	}, nil
}

// Thin is one thin device, as the pool knows it.
type Thin struct {
	ID          uint32
	Mapped      uint64 // data blocks
	Transaction uint64 // the pool's when it was made
	Created     uint32 // the clock then; (ID, Created) is not used twice for snapshots until a renewal
	Snapshotted uint32 // the clock when it last was the origin of a snapshot
}

// Thins lists all thin devices in the order of their ids.
//
// On a live pool the blocks of an old transaction are used again by the next but one: read
// the superblock again afterwards and compare.
func (s *Superblock) Thins(r io.ReaderAt) ([]Thin, error) {
	var list []Thin
	w := walker{r: r, seen: map[uint64]bool{}}
	err := w.tree(s.details, detailsSize, func(key uint64, v []byte) error {
		if key >= 1<<24 {
			return fmt.Errorf("thin id %d: %w", key, ErrDamaged)
		}
		list = append(list, thin(uint32(key), v))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list of thin devices: %w", err)
	}
	return list, nil
}

// Thin looks one thin device up; ok is false when there is none of that id.
func (s *Superblock) Thin(r io.ReaderAt, id uint32) (t Thin, ok bool, err error) {
	v, err := lookup(r, s.details, detailsSize, uint64(id))
	if err != nil || v == nil {
		return Thin{}, false, because(err, "thin device %d", id)
	}
	return thin(id, v), true, nil
}

func thin(id uint32, v []byte) Thin {
	le := binary.LittleEndian
	return Thin{id, le.Uint64(v), le.Uint64(v[8:]), le.Uint32(v[16:]), le.Uint32(v[20:])}
}

func because(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
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

// check compares the checksum and the address that a block carries.
func check(b []byte, block uint64, salt uint32, addressAt int) error {
	if got, want := binary.LittleEndian.Uint32(b), sum(b, salt); got != want {
		return fmt.Errorf("block %d: checksum %08x, want %08x: %w", block, got, want, ErrDamaged)
	}
	if got := binary.LittleEndian.Uint64(b[addressAt:]); got != block {
		return fmt.Errorf("block %d says it is block %d: %w", block, got, ErrDamaged)
	}
	return nil
}
