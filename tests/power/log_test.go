package power

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

// The format of dm-log-writes' log device is in drivers/md/dm-log-writes.c: a super
// block in the first sector, then entries of one sector each, followed by what was
// written. An entry comes when its write is durable: plain writes wait for the flush
// that covers them and stand before it, FUA writes and marks come at once. So every
// beginning of the log is a disk that a power cut may leave.
const (
	logMagic   = 0x6a736677736872
	logSector  = 512
	flagFlush  = 1 << 0
	flagFUA    = 1 << 1
	flagDrop   = 1 << 2 // discard
	flagMark   = 1 << 3
	entryBytes = 32
)

// entry is one write, flush or mark.
type entry struct {
	at, bytes int64 // on the disk
	flags     uint64
	mark      string
	data      int64 // where its bytes are in the log
}

func (e entry) flush() bool { return e.flags&flagFlush != 0 }

// plain is a write that was not durable before the next flush.
func (e entry) plain() bool { return e.flags&(flagFlush|flagFUA|flagMark) == 0 }

// writeLog is a log that was recorded.
type writeLog struct {
	file    *os.File
	entries []entry
}

func readLog(path string) (*writeLog, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &writeLog{file: f}
	head := make([]byte, logSector)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, err
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(head[8*i:]) }
	if word(0) != logMagic || word(1) != 1 {
		return nil, fmt.Errorf("%s: no log of dm-log-writes of version 1", path)
	}
	if n := binary.LittleEndian.Uint32(head[24:]); n != logSector {
		return nil, fmt.Errorf("%s: sectors of %d bytes", path, n)
	}
	at := int64(logSector)
	for range word(2) {
		if _, err := f.ReadAt(head, at); err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", path, len(l.entries), err)
		}
		at += logSector
		e := entry{at: int64(word(0)) * logSector, bytes: int64(word(1)) * logSector, flags: word(2), data: at}
		switch {
		case e.flags&flagMark != 0:
			e.mark, e.bytes = string(head[entryBytes:][:word(3)]), 0
		case e.flags&flagDrop == 0:
			at += e.bytes
		}
		l.entries = append(l.entries, e)
	}
	return l, nil
}

// find is the index after a mark.
func (l *writeLog) find(mark string) (int, error) {
	for i, e := range l.entries {
		if e.mark == mark {
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("no mark %q in a log of %d entries", mark, len(l.entries))
}

// replay writes entries from one index to another onto a disk.
func (l *writeLog) replay(disk *os.File, from, to int) error {
	for i, e := range l.entries[from:to] {
		if err := l.apply(disk, e, 0, e.bytes); err != nil {
			return fmt.Errorf("entry %d: %w", from+i, err)
		}
	}
	return nil
}

func (l *writeLog) apply(disk *os.File, e entry, from, to int64) error {
	if from == to {
		return nil
	}
	if e.flags&flagDrop != 0 {
		err := unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.at+from, to-from)
		return err
	}
	_, err := io.Copy(io.NewOffsetWriter(disk, e.at+from), io.NewSectionReader(l.file, e.data+from, to-from))
	return err
}

// page is what a disk writes whole or not at all: dm-thin and jbd2 count on no less
// of a page in one request.
const page = 4096

// marks are those before an index.
func (l *writeLog) marks(before int) (list []string) {
	for _, e := range l.entries[:before] {
		if e.mark != "" {
			list = append(list, e.mark)
		}
	}
	return list
}

// cut is a moment at which the power goes.
type cut struct {
	at      int     // all entries before this one have happened
	scatter bool    // at is a flush that has not ended: of the writes that it covers some are kept
	keep    float64 // so many of them
	seed    uint64
}

// whole is how many entries are on the disk without a doubt and in this order.
func (c cut) whole(l *writeLog) int {
	i := c.at
	for c.scatter && i > 0 && !l.entries[i-1].flush() {
		i--
	}
	return i
}

// finish turns a disk with the whole entries into the one after the cut.
func (c cut) finish(disk *os.File, l *writeLog) error {
	rnd := rand.New(rand.NewPCG(c.seed, 2))
	for _, e := range l.entries[c.whole(l):c.at] {
		step := e.bytes
		if e.plain() {
			step = page
		}
		for at := int64(0); at < e.bytes; at += step {
			if e.plain() && rnd.Float64() >= c.keep {
				continue
			}
			if err := l.apply(disk, e, at, min(at+step, e.bytes)); err != nil {
				return err
			}
		}
	}
	return nil
}

// copySparse copies a file with its holes, so that a disk costs what is on it.
func copySparse(to, from string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			return nil
		}
		if err != nil {
			return err
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, data), io.NewSectionReader(src, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
}
