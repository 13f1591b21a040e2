// Package base holds empty ext4 file systems, as their blocks that are not zero: a new
// pool gets its first thin device from here, and no mkfs is needed on the host. They are
// made by generate.sh. They rely on reading zeros where nothing was written, so a pool
// must not be told to skip zeroing.
package base

//go:generate ./generate.sh

import (
	"bufio"
	"compress/gzip"
	"embed"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

//go:embed ext4-1G.gz ext4-10G.gz ext4-100G.gz
var files embed.FS

const blockSize = 4096

// Sizes are the sizes there are, in bytes.
func Sizes() []uint64 { return []uint64{1 << 30, 10 << 30, 100 << 30} }

// Write writes the file system of a size to a device that reads as zeros.
func Write(w io.WriterAt, size uint64) error {
	if !slices.Contains(Sizes(), size) {
		return fmt.Errorf("base file system of %d bytes: there are only those of %d bytes", size, Sizes())
	}
	f, err := files.Open(fmt.Sprintf("ext4-%dG.gz", size>>30))
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	r := bufio.NewReader(z)
	if n, err := binary.ReadUvarint(r); err != nil || n != size {
		return fmt.Errorf("base file system: BUG: it says %d bytes, want %d (%v)", n, size, err)
	}
	buf := make([]byte, 256*blockSize)
	for block := uint64(0); ; {
		skip, err := binary.ReadUvarint(r)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		count, err := binary.ReadUvarint(r)
		if err != nil {
			return err
		}
		for block += skip; count > 0; {
			n := min(count, uint64(len(buf)/blockSize))
			b := buf[:n*blockSize]
			if _, err := io.ReadFull(r, b); err != nil {
				return err
			}
			if _, err := w.WriteAt(b, int64(block)*blockSize); err != nil {
				return err
			}
			block, count = block+n, count-n
		}
	}
}
