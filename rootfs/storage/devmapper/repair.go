package devmapper

import (
	"errors"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
)

// Repair brings a pool back that the kernel has made read-only because a metadata write
// failed: when nothing of it is in use any more, it takes the pool down, checks all of its
// metadata, clears the kernel's flag, gives back what nobody has, and activates it. What
// the kernel rolled back is lost, which is what had not been committed. Metadata that is
// damaged it leaves alone: that is thin_repair's.
//
// Killed anywhere it can be repeated, or is finished by the next command.
//
// A pool that the kernel takes for well may still count wrong; that is put right, too.
func (d *Driver) Repair() error {
	checked, err := d.checkBeside()
	if err != nil {
		return err
	}
	p, err := d.open(unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer p.leave()
	if err := p.settle(); err != nil {
		return err
	}
	switch err := p.look(dm.NoFlush); {
	case err == nil && p.usable() == nil:
		cure := false
		if checked == nil {
			_, cure, err = p.checkStill()
		}
		if err != nil || !cure {
			return err // what is damaged Check tells
		}
	case err == nil && p.kernel.mode == "ro" && !p.kernel.needsCheck:
		return p.usable() // out of metadata: to grow it is the cure
	case err != nil && !errors.Is(err, errInactive):
		return err
	}
	if err := p.idle(); err != nil {
		return err
	}
	if err := p.takeDown(); err != nil {
		return err
	}
	if err := p.checkFiles(); err != nil {
		return err
	}
	if _, err := p.offline(); err != nil {
		return err
	}
	if err := p.recount(); err != nil {
		return err
	}
	return p.activate()
}

// revive takes a pool down that the kernel has shut down, when nothing of it is in use, so
// that it is activated anew: its device may be well again, and what is on that is the
// truth. Otherwise all stays as it is.
func (p *pool) revive() error {
	switch err := p.noneOpen(); {
	case errors.Is(err, ErrInUse):
		return nil
	case err != nil:
		return err
	}
	return p.takeDown()
}

// dead: the kernel has shut the pool down, and answers all I/O with an error.
func (k kernelStatus) dead() bool { return k.mode == "Fail" || k.mode == "Error" }
