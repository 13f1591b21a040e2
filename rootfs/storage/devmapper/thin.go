package devmapper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
)

// raise makes the block device of a thin id. EBUSY from CREATE: it is active already.
func (p *pool) raise(id uint32, bytes uint64) (dm.Device, error) {
	name := p.thinName(id)
	p.step("create device")
	if _, err := p.ctl.Create(name, fmt.Sprintf("THINRUN-%016x-%06x", p.fingerprint, id)); err != nil {
		return dm.Device{}, p.fail("%w", err)
	}
	p.step("load device")
	// The pool by number: no name below /dev has to exist for it.
	_, err := p.ctl.Load(name, dm.Target{Length: bytes / 512, Type: "thin", Params: fmt.Sprintf("%s %d", p.device.Number(), id)})
	var dev dm.Device
	if err == nil {
		p.step("resume device")
		dev, err = p.ctl.Resume(name)
	}
	if err != nil {
		_, e := p.ctl.Remove(name, false)
		return dm.Device{}, p.fail("%w", errors.Join(err, e))
	}
	return dev, nil
}

func (p *pool) openThin(dev dm.Device) (*os.File, error) {
	return p.nodes.Open(dev.Node(), devnode.Block, dev.Major, dev.Minor, unix.O_RDWR)
}

// isThin tells the pool's thin devices from the pool itself and from others' devices.
func (p *pool) isThin(name string) bool {
	_, ok := p.thinOf(name)
	return ok
}

func (p *pool) thinOf(name string) (uint32, bool) {
	hex, ok := strings.CutPrefix(name, p.prefix())
	if !ok || len(hex) != 6 {
		return 0, false
	}
	id, err := strconv.ParseUint(hex, 16, 24)
	return uint32(id), err == nil
}

// removeWait bounds how long a removal waits for the last user of a device. A mount goes
// with the last process of its namespace, so by then only the kernel's own work is left.
const removeWait = 2 * time.Second

// removeDevice takes a dm device away, whatever state a killed process left it in; that
// there is none is fine. A device that is still open is marked to go with its last user,
// and waited for a little.
func (p *pool) removeDevice(name string) error {
	err := p.removeIdle(name)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if err = p.removeLater(name); err == nil || errors.Is(err, unix.ENXIO) {
		return nil
	}
	return p.fail("%w", err)
}

// removeIdle is removeDevice for one that nobody has open; else EBUSY, and nothing is
// changed.
func (p *pool) removeIdle(name string) error {
	info, err := p.ctl.Info(name)
	if err == nil && info.Live && info.Suspended {
		// A suspended device keeps its users in uninterruptible sleep for ever.
		if info.Inactive {
			if err := p.ctl.Clear(name); err != nil {
				return p.fail("%w", err)
			}
		}
		if _, err := p.ctl.Resume(name); err != nil {
			return p.fail("%w", err)
		}
	}
	if err == nil {
		_, err = p.ctl.Remove(name, false)
	}
	if err == nil || errors.Is(err, unix.ENXIO) {
		return nil
	}
	return p.fail("%w", err)
}

func (p *pool) removeLater(name string) error {
	events, err := uevents()
	if err == nil {
		defer unix.Close(events)
	}
	if _, err := p.ctl.Remove(name, true); err != nil {
		return err
	}
	for deadline := time.Now().Add(removeWait); ; {
		info, err := p.ctl.Info(name)
		if err != nil {
			return err
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("device %s (%s) is held open by %d others, and goes with the last of them: %w", name, info.Node(), info.Opened, unix.EBUSY)
		}
		waitEvent(events, deadline)
	}
}

// uevents is a socket on which the kernel tells of devices that come and go.
func uevents() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// waitEvent waits for a uevent: any is a reason to look again. The kernel sends them only
// to network namespaces of the first user namespace, so the wait is never long.
func waitEvent(events int, deadline time.Time) {
	ts := unix.NsecToTimespec(int64(min(time.Until(deadline), 50*time.Millisecond)))
	fds := []unix.PollFd{{Fd: int32(events), Events: unix.POLLIN}} // a negative one is passed over
	if n, _ := unix.Ppoll(fds, &ts, nil); n > 0 {
		var b [8192]byte
		unix.Read(events, b[:])
	}
}

// discard is BLKDISCARD, _IO(0x12, 119).
func discard(f *os.File, at, n uint64) error {
	span := [2]uint64{at, n}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&span))); errno != 0 {
		return fmt.Errorf("discard on %s: %w", f.Name(), errno)
	}
	return nil
}

// drop deletes a thin id from the pool; that it is not there is fine. Its device is gone
// by name; but the kernel forgets the name of a device first, then takes its table down,
// which lets go of the id, and then tells by a uevent.
func (p *pool) drop(id uint32) error {
	err := p.message("delete %d", id)
	if errors.Is(err, unix.EBUSY) {
		events, e := uevents()
		if e == nil {
			defer unix.Close(events)
		}
		for deadline := time.Now().Add(removeWait); ; {
			if err = p.message("delete %d", id); !errors.Is(err, unix.EBUSY) || !time.Now().Before(deadline) {
				break
			}
			waitEvent(events, deadline)
		}
	}
	switch {
	case errors.Is(err, unix.ENODATA):
		return nil
	case errors.Is(err, unix.EBUSY):
		return p.fail("thin id %d is active: %w", id, err)
	case err != nil:
		return p.fail("%w", err)
	}
	return nil
}
