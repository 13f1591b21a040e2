package devmapper

import (
	"io"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/thinmeta"
)

// superblock is the pool's metadata as last committed.
func (p *pool) superblock() (*thinmeta.Superblock, error) {
	r, err := p.metadata()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	sb, err := thinmeta.ReadSuperblock(r, 0)
	if err != nil {
		return nil, p.inMetadata(err)
	}
	return sb, nil
}

// inMetadata says where an error was.
func (p *pool) inMetadata(err error) error {
	if err == nil {
		return nil
	}
	return p.fail("%s: %w", p.meta.path, err)
}

// thin reads the pool's record of a thin device: when it was made, and how many blocks it
// has. Blocks that the last transaction uses are not written again before the next but one,
// so if the superblock is the same before and after, all that was read in between belonged
// to it.
func (p *pool) thin(id uint32) (thinmeta.Thin, error) {
	r, err := p.metadata()
	if err != nil {
		return thinmeta.Thin{}, err
	}
	defer r.Close()
	for range 100 {
		before, err := thinmeta.ReadSuperblock(r, 0)
		if err != nil {
			return thinmeta.Thin{}, p.inMetadata(err)
		}
		thin, ok, err := before.Thin(r, id)
		after, e := thinmeta.ReadSuperblock(r, 0)
		if e != nil {
			return thinmeta.Thin{}, p.inMetadata(e)
		}
		if *before != *after {
			continue // somebody committed
		}
		if err != nil {
			return thinmeta.Thin{}, p.inMetadata(err)
		}
		if !ok {
			return thinmeta.Thin{}, p.fail("thin device %d is not in it: %w", id, fs.ErrNotExist)
		}
		return thin, nil
	}
	return thinmeta.Thin{}, p.fail("its metadata changes too fast to be read")
}

type metadata interface {
	io.ReaderAt
	io.Closer
}

// metadata opens the metadata for reading. Of a file, the page cache is what the loop
// device writes or has just made invalid; a block device's own cache knows nothing of
// dm-thin's writes, so there it is direct I/O.
func (p *pool) metadata() (metadata, error) {
	flags := os.O_RDONLY
	if !p.meta.ours {
		flags |= unix.O_DIRECT
	}
	f, err := os.OpenFile(p.meta.path, flags, 0)
	if err != nil {
		return nil, p.fail("metadata: %w", err)
	}
	if p.meta.ours {
		return f, nil
	}
	return direct{f}, nil
}

// direct reads whole metadata blocks through an aligned buffer.
type direct struct{ *os.File }

func (d direct) ReadAt(b []byte, at int64) (int, error) {
	raw := make([]byte, 2*thinmeta.BlockSize)
	skip := thinmeta.BlockSize - int(uintptr(unsafe.Pointer(&raw[0]))%thinmeta.BlockSize)
	aligned := raw[skip%thinmeta.BlockSize:][:thinmeta.BlockSize]
	n, err := d.File.ReadAt(aligned, at)
	return copy(b, aligned[:n]), err
}
