package thinmeta

import (
	"encoding/binary"
	"hash/crc32"
)

// seal gives a block its address and checksum.
func seal(b []byte, block uint64, salt uint32) {
	binary.LittleEndian.PutUint64(b[8:], block)
	binary.LittleEndian.PutUint32(b, ^crc32.Checksum(b[4:], crc32.MakeTable(crc32.Castagnoli))^salt)
}
