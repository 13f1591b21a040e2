package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/loop"
	"thinrun/rootfs/storage/durable"
)

// Destroy takes the pool away, with all layers in it: devices, loop devices, and the
// files that we made. It refuses while a container's root or a layer at work is in it;
// that nobody needs the layers any more is for the caller to know.
func (d *Driver) Destroy() error {
	p, err := d.openAny(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer p.leave()
	if p.ready {
		if err := p.unused(); err != nil {
			return err
		}
		// From here on it is a half-made pool, for whoever finds it if we are killed.
		p.ready = false
		p.step("record end")
		if err := durable.Write(p.recordPath(), p.encode()); err != nil {
			return p.fail("%w", err)
		}
	}
	if err := p.settle(); err != nil {
		return err
	}
	if err := p.takeDown(); err != nil {
		return err
	}
	p.step("forget pool")
	if err := p.forget(); err != nil {
		return err
	}
	// The lock's file stays: one who waits for it would else hold the lock of a pool that
	// is not there, beside one who makes the next.
	return nil
}

// Unused refuses as Destroy does, and destroys nothing.
func (d *Driver) Unused() error {
	p, err := d.open(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer p.leave()
	return p.unused()
}

func (p *pool) unused() error {
	err := p.eachClaim(func(_ uint32, _ string, f *os.File, r record) error { // which tell a name
		if f == nil {
			return p.fail("%w: a layer is being written", ErrInUse)
		}
		f.Close()
		if r.str("what") == "container" && alive(r) {
			return p.fail("%w: by container %q; delete it first", ErrInUse, r.str("container"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.noneOpen()
}

// undo takes a half-made pool away. Its record names what it was to be made of.
func (d *Driver) undo(m made) error {
	ctl, err := d.dm()
	if err != nil {
		return err
	}
	p := &pool{Driver: d, made: m, ctl: ctl}
	if err := p.takeDown(); err != nil {
		return err
	}
	return p.forget()
}

// takeDown removes all dm devices of the pool; its loop devices go with it.
func (p *pool) takeDown() error {
	devices, err := p.ctl.List()
	if err != nil {
		return p.fail("%w", err)
	}
	for _, dev := range devices {
		if p.isThin(dev.Name) {
			if err := p.removeDevice(dev.Name); err != nil {
				return err
			}
		}
	}
	p.step("remove pool")
	if err := p.removeDevice(p.name()); err != nil {
		return err
	}
	p.step("wait for release")
	for _, b := range []backing{p.meta, p.data} {
		if err := p.waitReleased(b); err != nil {
			return err
		}
	}
	return nil
}

// waitReleased waits until nothing is on a file or device of the pool: the removal of the
// last user begins its release, it does not wait for it.
func (p *pool) waitReleased(b backing) error {
	f, err := os.Open(b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return p.fail("%w", err)
	}
	defer f.Close()
	events, err := uevents()
	if err == nil {
		defer unix.Close(events)
	}
	for deadline := p.removeBy(); ; {
		held, err := p.heldBy(b, f)
		if err != nil {
			return p.fail("%w", err)
		}
		if held == "" {
			return nil
		}
		if !time.Now().Before(deadline) {
			return p.fail("%w: %s is held by %s", ErrInUse, b.path, held)
		}
		waitEvent(events, time.Now().Add(5*time.Millisecond)) // of a device there is no event
	}
}

// heldBy says what is on a file or device; "": nothing.
func (p *pool) heldBy(b backing, f *os.File) (string, error) {
	if b.ours {
		loops, err := loop.Find(&p.nodes, f)
		if err != nil || len(loops) == 0 {
			return "", err
		}
		return fmt.Sprintf("/dev/loop%d", loops[0]), nil
	}
	x, err := os.OpenFile(b.path, os.O_RDONLY|os.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		return "another device, or mounted", nil
	}
	if err != nil {
		return "", err
	}
	return "", x.Close()
}

// forget removes the pool's files, those that it made. Devices get their first MiB wiped:
// without its superblock the metadata is no pool, and both are blank for the next.
func (p *pool) forget() error {
	for _, b := range []backing{p.data, p.meta} {
		if b.ours {
			p.step("remove file")
			if err := os.Remove(b.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return p.fail("%w", err)
			}
		}
	}
	for _, b := range []backing{p.data, p.meta} {
		if b.ours {
			continue
		}
		p.step("wipe device")
		f, _, err := openDevice(b.path)
		if err != nil {
			return p.fail("%w", err)
		}
		_, err = f.WriteAt(make([]byte, mib), 0)
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return p.fail("wipe %s: %w", b.path, err)
		}
	}
	for _, dir := range []string{p.layersDir(), p.claimsDir()} {
		if err := os.RemoveAll(dir); err != nil {
			return p.fail("%w", err)
		}
	}
	for _, path := range []string{p.renewalPath(), p.renewalPath() + ".tmp"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p.fail("%w", err)
		}
	}
	p.step("remove record")
	if err := durable.Remove(p.recordPath()); err != nil {
		return p.fail("%w", err)
	}
	return nil
}
