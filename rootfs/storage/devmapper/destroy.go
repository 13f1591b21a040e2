package devmapper

import (
	"os"

	"golang.org/x/sys/unix"
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
		if err := writeDurable(p.recordPath(), p.encode()); err != nil {
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

func (p *pool) unused() error {
	devices, err := p.ctl.List()
	if err != nil {
		return p.fail("%w", err)
	}
	for _, dev := range devices {
		if !p.isThin(dev.Name) {
			continue
		}
		if info, err := p.ctl.Info(dev.Name); err == nil && info.Opened > 0 {
			return p.fail("%w: %s (%s) is open", ErrInUse, dev.Name, info.Node())
		}
	}
	for _, dir := range []string{p.claimsDir(), p.openDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return p.fail("%w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			f, r, err := p.lockClaim(dir+"/"+e.Name(), unix.LOCK_EX|unix.LOCK_NB)
			if err != nil {
				return err
			}
			if f == nil {
				return p.fail("%w: a layer is being written", ErrInUse)
			}
			f.Close()
			if r.str("what") == "container" && alive(r) {
				return p.fail("%w: by container %q", ErrInUse, r.str("container"))
			}
		}
	}
	return nil
}
