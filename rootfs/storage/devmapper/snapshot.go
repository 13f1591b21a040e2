package devmapper

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// Name is what a claim of this driver says in Claim.Driver.
const Name = "devmapper"

// Prepare makes a container's root: claim, create_snap, device, mount. What a kill leaves
// at any point the record's claim is enough to remove.
func (d *Driver) Prepare(req storage.Request, save func(storage.Claim) error) (src storage.Source, err error) {
	p, err := d.enter()
	if err != nil {
		return src, err
	}
	defer p.leave()
	origin, err := p.layer(req.Layer)
	if err != nil {
		return src, fmt.Errorf("image %q: %w", req.Image, err)
	}
	bytes := origin.bytes
	if req.SizeBytes != 0 {
		if bytes = req.SizeBytes / 4096 * 4096; bytes < origin.bytes {
			return src, fmt.Errorf("a root of %s is smaller than image %q, whose disk has %s", size(req.SizeBytes), req.Image, size(origin.bytes))
		}
	}
	if err := p.admitOrGrow(bytes, enlarging(bytes-origin.bytes)); err != nil {
		return src, err
	}
	c, err := p.snapshot(origin, owner{what: "container", container: req.ContainerID, bytes: bytes}, func(c *claim) error {
		return save(storage.Claim{Driver: Name, Storage: d.storage, Image: req.Image, Layer: req.Layer,
			Pool: p.name(), ThinID: c.thin, Device: p.thinName(c.thin), Key: c.key})
	})
	if err != nil {
		return src, fmt.Errorf("snapshot of %q: %w", req.Image, err)
	}
	defer c.file.Close() // on failure the claim stays below open/, and Remove or GC has it
	dev, err := p.raise(c.thin, bytes)
	if err != nil {
		return src, err
	}
	d.step("mount")
	mnt, err := p.mount(dev, true)
	if err != nil {
		return src, err
	}
	d.step("arm removal")
	// From here the kernel takes the device away with the last user of the mount, whoever
	// of us is dead by then. Not before the mount: of an idle device it would mean now.
	if _, err := p.ctl.Remove(dev.Name, true); err != nil {
		return src, errors.Join(p.fail("%w", err), mnt.Close())
	}
	if bytes > origin.bytes {
		if err := enlarge(mnt, bytes); err != nil {
			return src, errors.Join(err, mnt.Close())
		}
	}
	d.step("keep claim")
	if err := c.keep(dev.Number()); err != nil {
		return src, errors.Join(err, mnt.Close())
	}
	d.step("prepared")
	return storage.Source{Mount: mnt, Device: dev.Node()}, nil
}

// snapshot lets the caller write a random id down, claims it, and makes the id a snapshot
// of origin. The kernel's EEXIST is the allocator: an id that is in the pool without a
// holder is somebody's garbage, and the next one is tried.
func (p *pool) snapshot(origin layer, o owner, save func(*claim) error) (*claim, error) {
	for range 1000 {
		p.step("claim")
		if o.shared = origin.mapped; o.shared == 0 { // not known: it may be all
			o.shared = p.blocks(origin.bytes)
		}
		c, err := p.claim(o, save)
		if err != nil {
			return nil, err
		}
		p.step("create_snap")
		err = p.message("create_snap %d %d", c.thin, origin.thin)
		p.step("created snap")
		switch {
		case errors.Is(err, unix.EEXIST):
			if err := c.discard(); err != nil {
				return nil, err
			}
		case errors.Is(err, unix.ENODATA):
			return nil, errors.Join(p.fail("layer %s has a record but its thin id %d is not in the pool; remove the image and import it again", origin.id(), origin.thin), c.discard())
		case err != nil:
			return nil, errors.Join(err, p.unmake(c))
		default:
			p.settled()
			return c, nil
		}
	}
	return nil, p.fail("1000 random ids are all taken: %w", unix.EEXIST)
}

// unmake follows a create_snap of which it is not known whether it was kept.
func (p *pool) unmake(c *claim) error {
	if p.drop(c.thin) != nil {
		return c.file.Close() // the claim stays: GC has it when the pool is well again
	}
	return c.discard()
}
