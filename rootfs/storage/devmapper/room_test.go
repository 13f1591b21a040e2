package devmapper

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLayerLeavesRoom: an image that would fill the pool ends before it takes what running
// containers may need, and gives back what it has taken.
func TestLayerLeavesRoom(t *testing.T) {
	const low = 64 * mib
	d := fresh(t, Options{Pool: PoolOptions{DataBytes: 384 * mib, MaxBytes: 384 * mib, MetaBytes: 8 * mib, BaseBytes: gib, LowWater: low}})
	src, c := start(t, d, "c1", image(t, d))
	defer src.Mount.Close()
	before := used(t, d)

	l, err := d.NewLayer("")
	if err != nil {
		t.Fatal(err)
	}
	bomb, err := openIn(l.Root(), "bomb", unix.O_WRONLY|unix.O_CREAT)
	if err != nil {
		t.Fatal(err)
	}
	written := uint64(0)
	for chunk := make([]byte, mib); ; {
		room, err := l.Room()
		if errors.Is(err, ErrFull) {
			break
		}
		if err != nil || written > 384*mib {
			t.Fatalf("%d MiB written to the layer, room for %d more: %v", written/mib, room, err)
		}
		for range max(room/mib, 1) {
			chunk[0]++
			if _, err := bomb.Write(chunk); err != nil {
				t.Fatalf("%d MiB written to the layer: %v", written/mib, err)
			}
			written += mib
		}
	}
	if written < 128*mib {
		t.Errorf("the layer got %d MiB of 384", written/mib)
	}
	if err := scatter(src.Mount, int64(low-16*mib), 64<<10); err != nil {
		t.Errorf("the container, while the pool is as full as a layer may make it: %v", err)
	}
	if err := errors.Join(bomb.Close(), l.Abort()); err != nil {
		t.Fatal(err)
	}
	src.Mount.Close()
	if err := d.Remove(c); err != nil {
		t.Fatal(err)
	}
	if after := used(t, d); after > before {
		t.Errorf("%d bytes of the pool are used after it all, %d before", after, before)
	}
}

func used(t *testing.T, d *Driver) uint64 {
	t.Helper()
	s, err := d.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s.Data.UsedBytes
}
