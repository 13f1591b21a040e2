package devmapper

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Room keeps a layer from filling the pool under the containers that run on it: it stops
// where nothing new would start either, after trying to grow. An image's layers say how
// large they are only when they have been read.
func (l *open) Room() (uint64, error) {
	// What the file system has in memory only has no blocks of the pool yet.
	if err := unix.Syncfs(int(l.root.Fd())); err != nil {
		return 0, fmt.Errorf("layer: syncfs: %w", err)
	}
	p, err := l.d.enter()
	if err != nil {
		return 0, err
	}
	defer p.leave()
	if err := p.admitOrGrow(0, 0); err != nil {
		return 0, err
	}
	// Half of what there is above the reserve: others write, too, and a small file takes
	// more of the pool than its bytes.
	free := min(p.free(), p.hostFree())
	return (free - min(free, p.lowBytes)) / 2, nil
}
