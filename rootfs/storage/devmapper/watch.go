package devmapper

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
)

// Watch grows the pool when it fills while containers run; starts do it as well, but a
// pool on which only old containers work has none. It is for a process that waits anyway
// (a foreground run), returns when ctx ends, and takes no lock while it waits. Any number
// may watch; the first one grows.
//
// The kernel raises an event when free data falls below the table's low water mark, which
// is where earlyBytes is, when metadata runs low, and when either is out.
func (d *Driver) Watch(ctx context.Context) error {
	// A control descriptor of its own: the kernel counts the events that one has seen.
	ctl, err := dm.Open(&d.nodes)
	if err != nil {
		return err
	}
	defer ctl.Close()
	ended, end, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ended.Close()
	stop := context.AfterFunc(ctx, func() { end.Close() })
	defer stop()
	seen, again := uint32(0), true
	for {
		if err := ctl.ArmPoll(); err != nil { // before the look, so that nothing falls in between
			return err
		}
		seen, again = d.watched(seen, again)
		over, err := ctl.Poll(ended)
		if err != nil || over {
			return err
		}
		// Each device that comes or goes is an event too: of any burst one look is enough.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// watched looks at the pool if something has happened to it since event seen, or again was
// said, and lets it grow. It says which event it saw, and if it wants to look at the next
// occasion again because all is not well.
func (d *Driver) watched(seen uint32, again bool) (uint32, bool) {
	p, err := d.open(unix.LOCK_SH)
	if err != nil {
		return seen, true
	}
	defer func() { p.leave() }()
	info, err := p.ctl.Info(p.name())
	if err != nil {
		return seen, true
	}
	if info.Event == seen && !again {
		return seen, false
	}
	if err = p.look(dm.NoFlush); err != nil {
		return info.Event, true
	}
	w, err := p.admit(0, 0)
	w.data, w.meta = p.room(w.data, p.data), p.room(w.meta, p.meta)
	if w.data+w.meta == 0 {
		if err != nil {
			d.warn(err)
		}
		return info.Event, err != nil
	}
	grown, err := p.growLocked(w)
	if grown != nil {
		d.warn(grown)
	}
	return info.Event, grown != nil || err != nil
}
