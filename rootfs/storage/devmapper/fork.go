package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper/dm"
)

// Fork makes a layer of what a container's root holds now. Of a running container the file
// system is frozen for the time of one create_snap (1 to 2 ms), so the copy needs no
// replay of its journal; of a stopped one nothing is active.
//
// The layer's disk is as large as the container's: after --rootfs-size a larger one than
// its image had, and the containers of the committed image get at least that.
//
// Whoever resumes a container's device holds the container's claim, or the pool's lock
// alone, or is the guardian: so no one thaws it under a fork that is at work.
func (d *Driver) Fork(c storage.Claim) (storage.Layer, error) {
	if c.Driver != Name {
		return nil, fmt.Errorf("claim of driver %q is not for %s", c.Driver, Name)
	}
	if err := d.writeOut(c); err != nil {
		return nil, err
	}
	p, err := d.enter()
	if err != nil {
		return nil, err
	}
	defer p.leave()
	_ = d.cheapGC(p, cheapMany) // the next command tries again
	if c.Pool != p.name() || c.Device != p.thinName(c.ThinID) {
		return nil, p.fail("the claim is for %s in pool %s: %w", c.Device, c.Pool, ErrForeign)
	}
	// Before the container's claim is held: growing waits for all who hold the pool.
	r, _ := readRecord(d.claimPath(c.ThinID))
	if err := p.admitOrGrow(r.num("bytes"), 0); err != nil {
		return nil, err
	}
	held, r, err := d.hold(c)
	if err != nil {
		return nil, err
	}
	if held == nil {
		return nil, p.fail("the container's root %s: %w (deleted, or of an earlier boot)", c.Device, fs.ErrNotExist)
	}
	defer held.Close()
	if !exists(d.claimPath(c.ThinID)) {
		return nil, p.fail("the container's root %s: %w (its create has not finished)", c.Device, fs.ErrNotExist)
	}
	origin := layer{thin: c.ThinID, bytes: r.num("bytes")}
	// Whatever the container has is shared with the copy now. Said before the copy is made:
	// strict admission must not take a block for the container's own that is not.
	if err := amend(held, "shared", p.blocks(origin.bytes)); err != nil {
		return nil, err
	}
	mnt, err := p.holdActive(c.Device, r.str("device"))
	if err != nil {
		return nil, err
	}
	var made *claim
	if mnt == nil {
		made, err = p.snapshot(origin, owner{what: "fork", bytes: origin.bytes}, nil)
	} else {
		made, err = p.freeze(c.Device, mnt, origin)
		if mapped := p.mapped(c.Device); err == nil && mapped > 0 {
			err = amend(held, "shared", mapped)
		}
		err = errors.Join(err, mnt.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	return p.opened(made, layer{thin: made.thin, parent: c.Layer, bytes: origin.bytes})
}

// writeOut writes what is dirty in a container's file system. There may be gigabytes of it,
// so nobody has to wait for the pool's lock meanwhile; the container's claim is held, or its
// removal would find the device in use.
func (d *Driver) writeOut(c storage.Claim) error {
	p, err := d.enter()
	if err != nil {
		return err
	}
	held, r, err := d.hold(c)
	if held == nil {
		p.leave()
		return err // Fork says what is wrong
	}
	defer held.Close()
	mnt, err := p.holdActive(c.Device, r.str("device"))
	p.leave()
	if mnt == nil {
		return err
	}
	d.step("write out")
	return errors.Join(p.syncfs(c.Device, mnt), mnt.Close())
}

func (p *pool) syncfs(device string, mnt *os.File) error {
	root, err := openRoot(mnt)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(root.Fd()))
	if err = errors.Join(err, root.Close()); err != nil {
		return p.fail("%s: syncfs: %w", device, err)
	}
	return nil
}

// holdActive is a mount of our own of a container's root, nil when it is not active. The
// kernel has one superblock for a device, so this is a second way to the first mount; as
// long as it is held the armed removal cannot take the device away.
func (p *pool) holdActive(name, number string) (*os.File, error) {
	var err error
	for range 5 {
		if err = p.thaw(name); err != nil { // by a fork that was killed
			return nil, err
		}
		var info dm.Device
		info, err = p.ctl.Info(name)
		if errors.Is(err, unix.ENXIO) {
			if number == "" {
				return nil, nil
			}
			return nil, p.waitTornDown(number) // what it wrote last is in the pool then
		}
		if err != nil {
			return nil, p.fail("%w", err)
		}
		var mnt *os.File
		if mnt, err = p.mount(info, true); err == nil {
			return mnt, nil
		}
		if errors.Is(err, unix.EBUSY) {
			return nil, p.fail("%s cannot be forked: its file system has become read-only after an error, see the kernel's log: %w", name, err)
		}
		// Its last user went just now, and the device with it.
	}
	return nil, err
}

// freeze makes a snapshot of an active root: a new id's claim that names the device, which
// is what the next command resumes if this one dies; then suspend, create_snap, resume.
func (p *pool) freeze(device string, mnt *os.File, origin layer) (*claim, error) {
	// Most of what is dirty is written before anybody has to wait for it: all but what came
	// since writeOut, or while we waited for a lock.
	if err := p.syncfs(device, mnt); err != nil {
		return nil, err
	}
	for range 1000 {
		p.step("claim")
		c, err := p.claim(owner{what: "fork", bytes: origin.bytes, shared: p.blocks(origin.bytes), origin: device}, nil)
		if err != nil {
			return nil, err
		}
		sent, err := p.frozen(device, fmt.Sprintf("create_snap %d %d", c.thin, origin.thin))
		p.step("resumed origin")
		if err == nil {
			if err = sent; err == nil {
				err = p.look(dm.NoFlush) // an answer of 0 does not say that it was kept
			}
			if err == nil {
				err = p.usable()
			}
		}
		switch {
		case err == nil:
			p.settled()
			return c, nil
		case errors.Is(err, errSuspended):
			return nil, errors.Join(err, c.file.Close()) // the claim stays: by it the device is resumed
		case errors.Is(err, unix.EEXIST):
			if err := c.discard(); err != nil {
				return nil, err
			}
		default:
			return nil, errors.Join(err, p.unmake(c))
		}
	}
	return nil, p.fail("1000 random ids are all taken: %w", unix.EEXIST)
}

// errSuspended: a device was suspended and could not be resumed.
var errSuspended = errors.New("it stays suspended until the next command")

// frozen sends one message to the pool while a device and the file system on it stand
// still; sent is the message's own error.
func (p *pool) frozen(device, message string) (sent, err error) {
	suspend, err1 := p.ctl.Freezing(device)
	send, err2 := p.ctl.Messaging(p.name(), message)
	resume, err3 := p.ctl.Resuming(device)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, p.fail("%w", err)
	}
	done := func() {}
	if p.opts.Guard != nil {
		p.step("guard")
		if done, err = p.opts.Guard(device); err != nil {
			return nil, p.fail("nobody watches over the suspended %s: %w", device, err)
		}
	}
	defer holdSignals()()
	// Nobody else's turn on this thread; not needed for correctness, but the pause is short.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p.step("suspend origin")
	suspended := suspend.Do()
	var snapped, resumed unix.Errno
	if suspended == 0 {
		p.step("snapshot of suspended origin")
		snapped = send.Do()
		p.step("resume origin")
		resumed = resume.Do()
	}
	if resumed != 0 { // the guardian is not told that all is done
		return nil, p.fail("%w: %w", resume.Error(resumed), errSuspended)
	}
	done()
	switch {
	case suspended != 0: // the kernel has thawed what it froze
		return nil, p.fail("%w", suspend.Error(suspended))
	case snapped != 0:
		return p.fail("%w", send.Error(snapped)), nil
	}
	return nil, nil
}

// holdSignals keeps the signals that people send from ending this process; what it
// returns lets them through again, with those that came meanwhile.
func holdSignals() (release func()) {
	came := make(chan os.Signal, 16)
	signal.Notify(came, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGTSTP, unix.SIGUSR1, unix.SIGUSR2)
	return func() {
		signal.Stop(came)
		for {
			select {
			case s := <-came:
				unix.Kill(os.Getpid(), s.(unix.Signal))
			default:
				return
			}
		}
	}
}

// ResumeSuspended resumes a container's device that a fork left suspended when it was
// killed; that it is not suspended, or not there, is fine. It is what a guardian calls,
// and what has to come before a container's processes are killed: those that write to a
// suspended device cannot die.
func (d *Driver) ResumeSuspended(device string) error {
	m, err := d.record()
	if errors.Is(err, ErrNoPool) {
		return nil
	}
	if err != nil {
		return err
	}
	ctl, err := d.dm()
	if err != nil {
		return err
	}
	p := &pool{Driver: d, made: m, ctl: ctl}
	info, err := ctl.Info(device)
	if err != nil || !info.Live || !info.Suspended {
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		return err
	}
	if device == p.name() {
		// By one who held the lock alone. If it is dead the lock is free; else it resumes the
		// pool itself before it lets go, and there is nothing to settle.
		alone, err := d.openAny(unix.LOCK_EX)
		if err != nil {
			return err
		}
		defer alone.leave()
		return alone.settle()
	}
	id, ok := p.thinOf(device)
	if !ok {
		return p.fail("%s is not a device of this pool: %w", device, ErrForeign)
	}
	// A fork that is at work holds the claim, and resumes the device before it lets go.
	held, _, err := d.lockClaim(d.claimPath(id), unix.LOCK_EX)
	if held != nil {
		defer held.Close()
	}
	return errors.Join(err, p.thaw(device))
}

// thaw resumes a device that was left suspended; see Fork for who may.
func (p *pool) thaw(device string) error {
	if device == "" {
		return nil
	}
	info, err := p.ctl.Info(device)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err == nil && info.Live && info.Suspended {
		p.step("resume suspended origin")
		_, err = p.ctl.Resume(device)
	}
	if err != nil {
		return p.fail("%w", err)
	}
	return nil
}

// thawOrigin resumes the device that a dead fork's claim names. free is false when the
// container's claim is held: its holder resumes the device, and this claim is for a later
// command.
func (p *pool) thawOrigin(r record) (free bool, err error) {
	id, ok := p.thinOf(r.str("origin"))
	if !ok {
		return true, nil
	}
	held, _, err := p.lockClaim(p.claimPath(id), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return false, err
	}
	if held != nil {
		defer held.Close()
	} else if exists(p.claimPath(id)) {
		return false, nil
	}
	return true, p.thaw(r.str("origin"))
}
