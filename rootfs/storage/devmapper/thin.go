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

// removeBy bounds how long a removal waits for the last user of a device. A mount goes
// with the last process of its namespace, so by then only the kernel's own work is left.
func (d *Driver) removeBy() time.Time {
	if d.opts.RemoveWait > 0 {
		return time.Now().Add(d.opts.RemoveWait)
	}
	return time.Now().Add(2 * time.Second)
}

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
	number := ""
	for deadline := p.removeBy(); ; {
		info, err := p.ctl.Info(name)
		if errors.Is(err, unix.ENXIO) && number != "" {
			return p.waitTornDown(number)
		}
		if err != nil {
			return err
		}
		number = info.Number()
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

// tornDown tells if a removed device has let go of what is below it, by number. The kernel
// forgets its name first, then takes its table down, which ends its being a holder of the
// pool and of the thin id, and then takes it out of sysfs, with a uevent. In between,
// reading its name there is an error, EINVAL (dm_get_from_kobject) or ENXIO
// (dm_copy_name_and_uuid); a name means that the number has a new owner.
func (p *pool) tornDown(number string) bool {
	_, minor, _ := strings.Cut(number, ":")
	if p.device.Live && number != p.device.Number() && !exists("/sys/block/dm-"+strconv.Itoa(int(p.device.Minor))+"/holders/dm-"+minor) {
		return true
	}
	f, err := os.Open("/sys/dev/block/" + number + "/dm/name")
	if err != nil {
		return true
	}
	defer f.Close()
	var b [1]byte
	_, err = f.Read(b[:])
	return !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENXIO)
}

// waitTornDown waits until a removed device has let go of what is below it.
func (p *pool) waitTornDown(number string) error {
	if p.tornDown(number) {
		return nil
	}
	events, err := uevents()
	if err == nil {
		defer unix.Close(events)
	}
	for deadline := p.removeBy(); !p.tornDown(number); {
		if !time.Now().Before(deadline) {
			return fmt.Errorf("device %s is still being removed: %w", number, unix.EBUSY)
		}
		// The uevent comes some milliseconds later than it need: look in between.
		waitEvent(events, time.Now().Add(time.Millisecond))
	}
	return nil
}

// drop deletes a thin id from the pool; that it is not there is fine. EBUSY although its
// device is gone by name: it is being taken down, and its number is not known, because the
// one who made it was killed before it wrote that down.
func (p *pool) drop(id uint32) error {
	err := p.message("delete %d", id)
	if errors.Is(err, unix.EBUSY) {
		events, e := uevents()
		if e == nil {
			defer unix.Close(events)
		}
		for deadline := p.removeBy(); ; {
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
		return fmt.Errorf("thin id %d is active: %w", id, err)
	}
	return err
}
