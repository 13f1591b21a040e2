package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// decompress looks at the first bytes; a name tells nothing about standard input.
func decompress(r *bufio.Reader) (io.Reader, error) {
	head, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, other := range []struct{ magic, name, tool string }{
		{"\xfd7zXZ\x00", "xz", "xz -dc"},
		{"BZh", "bzip2", "bzip2 -dc"},
		{"\x04\x22\x4d\x18", "lz4", "lz4 -dc"},
		{"PK\x03\x04", "zip", "a tar made from"},
	} {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return nil, fmt.Errorf("compressed with %s; thinrun takes plain, gzip and zstd: pipe the output of %s in, with - as the source", other.name, other.tool)
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return z, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18": // a skippable frame first
		if w := zstdWindow(r); w > maxWindow {
			return nil, fmt.Errorf("zstd with a window of %d MiB (--ultra or --long); thinrun takes 8: pipe the output of zstd -dc --long=31 in, with - as the source", w>>20)
		}
		return unzstd(r)
	}
	return r, nil
}

const maxWindow = 8 << 20

// zstdWindow is how far back the first frame may refer, from its header (RFC 8878,
// 3.1.1.1); 0 where that cannot be told.
func zstdWindow(r *bufio.Reader) uint64 {
	head, _ := r.Peek(18) // the longest header
	if len(head) < 6 || head[0] != 0x28 {
		return 0
	}
	flags := head[4]
	if single := flags&0x20 != 0; !single {
		base := uint64(1) << (10 + head[5]>>3)
		return base + base/8*uint64(head[5]&7)
	}
	at := 5 + []int{0, 1, 2, 4}[flags&3] // after the dictionary's id
	switch size := flags >> 6; {
	case size == 2 && len(head) >= at+4:
		return uint64(binary.LittleEndian.Uint32(head[at:]))
	case size == 3 && len(head) >= at+8:
		return binary.LittleEndian.Uint64(head[at:])
	}
	return 0
}

// unzstd decompresses zstd. The standard library has a decoder (internal/zstd, windows
// up to 8 MiB: everything but zstd --ultra and --long) and shows it only through
// compressed ELF sections, so the stream is dressed as one. The other decoder for Go,
// klauspost/compress, costs 0.24 ms of package initialisation, and this package is in
// the binary that starts five times in a container's life.
func unzstd(r io.Reader) (io.Reader, error) {
	const (
		header  = 64            // Header64, then three Section64 of 64 bytes
		names   = header + 3*64 // an empty string table
		content = names + 8     // Chdr64, then the stream
		endless = 1 << 62
	)
	var b bytes.Buffer
	put := func(fields ...any) {
		for _, f := range fields {
			binary.Write(&b, binary.LittleEndian, f) // into a Buffer: cannot fail
		}
	}
	put(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_REL), Version: uint32(elf.EV_CURRENT),
		Ehsize: header, Shoff: header, Shentsize: 64, Shnum: 3, Shstrndx: 1,
	})
	put(elf.Section64{})
	put(elf.Section64{Type: uint32(elf.SHT_STRTAB), Off: names, Size: 8})
	put(elf.Section64{Type: uint32(elf.SHT_PROGBITS), Flags: uint64(elf.SHF_COMPRESSED), Off: content, Size: endless})
	put([8]byte{})
	put(elf.Chdr64{Type: uint32(elf.COMPRESS_ZSTD), Size: endless})

	f, err := elf.NewFile(&inOrder{head: b.Bytes(), r: r})
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return f.Sections[2].Open(), nil
}

// inOrder is head, readable anywhere, and then a stream that is read once.
type inOrder struct {
	head []byte
	r    io.Reader
	off  int64 // of the stream
}

func (o *inOrder) ReadAt(p []byte, at int64) (int, error) {
	if at < int64(len(o.head)) {
		n := copy(p, o.head[at:])
		if n < len(p) {
			return n, io.EOF // debug/elf reads its headers exactly
		}
		return n, nil
	}
	if at != int64(len(o.head))+o.off {
		return 0, fmt.Errorf("read at %d of a stream that stands at %d", at, int64(len(o.head))+o.off)
	}
	n, err := io.ReadFull(o.r, p)
	o.off += int64(n)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF // what ReaderAt says at the end
	}
	return n, err
}
