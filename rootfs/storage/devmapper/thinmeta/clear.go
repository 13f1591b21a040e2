package thinmeta

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Cleared is the superblock without the flag that has the kernel refuse to write. Who
// writes it back has checked the metadata before, while no pool is on it.
func Cleared(r io.ReaderAt) ([]byte, error) {
	b := make([]byte, BlockSize)
	if err := readBlock(r, 0, b); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if le.Uint64(b[32:]) != magic {
		return nil, fmt.Errorf("superblock: %w", ErrNone)
	}
	if err := check(b, 0, saltSuperblock, 8); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	le.PutUint32(b[4:], le.Uint32(b[4:])&^needsCheck)
	seal(b, 0, saltSuperblock)
	return b, nil
}
