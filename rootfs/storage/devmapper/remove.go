package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/flock"
)

// Remove gives a container's snapshot back. The claim file goes last, so that a killed
// Remove can be repeated; its key tells a repeated one that the id has a new owner.
func (d *Driver) Remove(c storage.Claim) error {
	if c.Driver != Name {
		return fmt.Errorf("claim of driver %q is not for %s", c.Driver, Name)
	}
	if !exists(d.claimPath(c.ThinID)) && !exists(d.openPath(c.ThinID)) {
		return nil // given back already: not worth activating a pool for
	}
	p, err := d.enter()
	if errors.Is(err, ErrNoPool) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.leave()
	// Under the pool's lock, because activation may have collected it. The flock keeps a
	// second Remove from deleting the id after this one has let it go.
	held, r, err := d.hold(c)
	if err != nil {
		return err
	}
	if held == nil {
		// Perhaps a claim that was cut short by a kill, before it had its key.
		return p.finish(c.ThinID)
	}
	defer held.Close()
	if c.Pool != p.name() || c.Device != p.thinName(c.ThinID) {
		return p.fail("the claim is for %s in pool %s: %w", c.Device, c.Pool, ErrForeign)
	}
	if err := p.giveBack(c.ThinID, r, true); err != nil {
		return err
	}
	d.step("drop claim")
	if err := os.Remove(held.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return p.fail("%w", err)
	}
	_ = d.cheapGC(p, cheapMany) // the next command tries again
	return nil
}

// hold locks the claim file of c; no file: there is none, or it is another's. While it
// waits for one who is still making the snapshot, the file moves from open/ to claims/.
func (d *Driver) hold(c storage.Claim) (*os.File, record, error) {
	for _, path := range []string{d.claimPath(c.ThinID), d.openPath(c.ThinID), d.claimPath(c.ThinID)} {
		f, r, err := d.lockClaim(path, unix.LOCK_EX|unix.LOCK_NB)
		if f == nil && err == nil && exists(path) {
			// Somebody is at work on it: for this container, or, when the record names an id
			// that it never got, on a layer, which may take as long as a download.
			if r, e := readRecord(path); e == nil && r.str("key") != c.Key {
				continue
			}
			f, r, err = d.lockClaim(path, unix.LOCK_EX)
		}
		if err != nil {
			return nil, nil, err
		}
		if f == nil {
			continue
		}
		if c.Key != "" && r.str("key") == c.Key {
			return f, r, nil
		}
		f.Close()
	}
	return nil, nil, nil
}

// lockClaim opens and locks a claim file and reads it; a cut one reads as empty. No file:
// it is not there, went away meanwhile, or (LOCK_NB) somebody is at work on it.
func (d *Driver) lockClaim(path string, how int) (*os.File, record, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("claim: %w", err)
	}
	err = flock.Take(f, how)
	if err == unix.EWOULDBLOCK {
		f.Close()
		return nil, nil, nil
	}
	var st, now unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &st)
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("claim %s: %w", path, err)
	}
	if unix.Lstat(path, &now) != nil || now.Ino != st.Ino {
		f.Close()
		return nil, nil, nil
	}
	r, err := readRecord(path)
	if errors.Is(err, errCut) || errors.Is(err, fs.ErrNotExist) {
		r, err = record{}, nil
	}
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("claim: %w", err)
	}
	return f, r, nil
}

// eachClaim looks at all claims, the kept and then the open ones. The file is as lockClaim
// has it with LOCK_NB, and is do's to close.
func (p *pool) eachClaim(do func(id uint32, path string, f *os.File, r record) error) error {
	for _, dir := range []string{p.claimsDir(), p.openDir()} {
		ids, err := claimIDs(dir)
		if err != nil {
			return p.fail("%w", err)
		}
		for _, id := range ids {
			path := claimIn(dir, id)
			f, r, err := p.lockClaim(path, unix.LOCK_EX|unix.LOCK_NB)
			if err == nil {
				err = do(id, path, f, r)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// giveBack takes a thin id away, with its device; r is its claim, as far as there is one.
// wait: give the last user of the device a little time to let go.
func (p *pool) giveBack(id uint32, r record, wait bool) error {
	p.step("remove device")
	var err error
	if wait {
		err = p.removeDevice(p.thinName(id))
	} else {
		err = p.removeIdle(p.thinName(id))
	}
	if number := r.str("device"); err == nil && number != "" {
		// Armed removal may have begun just now, when the container's last process went.
		if err = p.waitTornDown(number); err != nil {
			err = p.fail("%w", err)
		}
	}
	if err != nil {
		return err
	}
	if bytes := r.num("bytes"); p.returnSpace && bytes > 0 {
		p.trim(id, bytes)
	}
	p.step("delete")
	return p.drop(id)
}

// trim hands the blocks that only this thin device has back to the file below: deleting
// the id frees them in the pool alone. In steps, which let others in between. When it does
// not work only the host's space is not back, so nothing is said.
func (p *pool) trim(id uint32, bytes uint64) {
	dev, err := p.raise(id, bytes)
	if err != nil {
		return
	}
	if f, err := p.openThin(dev); err == nil {
		for at := uint64(0); at < bytes && err == nil; at += 256 * mib {
			err = discard(f, at, min(256*mib, bytes-at))
		}
		f.Close()
	}
	p.removeDevice(dev.Name)
}
