package overlay

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// reserveBytes is what a layer leaves on the file system for those who are running: a
// twentieth, or this.
const reserveBytes = 1 << 30

// Room keeps a layer from filling the host's file system.
func (l *layer) Room() (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(l.dir.Fd()), &fs); err != nil {
		return 0, fmt.Errorf("%s: statfs: %w", l.dir.Name(), err)
	}
	block := uint64(fs.Bsize)
	free, keep := fs.Bavail*block, min(fs.Blocks*block/20, reserveBytes)
	if free <= keep {
		return 0, fmt.Errorf("%s: %d MiB are free on its file system and %d MiB are kept for containers: %w; remove images or containers, or put --storage on a larger one",
			l.d.Storage, free>>20, keep>>20, unix.ENOSPC)
	}
	return (free - keep) / 2, nil
}
