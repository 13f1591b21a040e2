package devmapper

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
)

// kernelStatus is the thin-pool target's status line.
type kernelStatus struct {
	transaction          uint64
	metaUsed, metaTotal  uint64 // 4 KiB blocks, the kernel's own reserve included in used
	dataUsed, dataTotal  uint64 // blocks
	held                 string // block of the metadata snapshot, or "-"
	mode                 string // rw, ro, out_of_data_space, Fail, Error
	needsCheck, passdown bool
}

// parseStatus reads the line as Documentation/admin-guide/device-mapper/thin-provisioning
// has it: "1 1649/16384 0/16384 - rw discard_passdown queue_if_no_space - 1024".
func parseStatus(line string) (s kernelStatus, err error) {
	f := strings.Fields(line)
	if len(f) == 1 && (f[0] == "Fail" || f[0] == "Error") {
		return kernelStatus{mode: f[0]}, nil
	}
	if len(f) < 8 {
		return s, fmt.Errorf("thin-pool status %q is too short", line)
	}
	if s.transaction, err = strconv.ParseUint(f[0], 10, 64); err != nil {
		return s, fmt.Errorf("thin-pool status %q: %w", line, err)
	}
	pair := func(text string) (a, b uint64) {
		used, total, _ := strings.Cut(text, "/")
		a, e := strconv.ParseUint(used, 10, 64)
		b, e2 := strconv.ParseUint(total, 10, 64)
		err = errors.Join(err, e, e2)
		return a, b
	}
	s.metaUsed, s.metaTotal = pair(f[1])
	s.dataUsed, s.dataTotal = pair(f[2])
	if err != nil {
		return s, fmt.Errorf("thin-pool status %q: %w", line, err)
	}
	s.held, s.mode, s.passdown, s.needsCheck = f[3], f[4], f[5] == "discard_passdown", f[7] == "needs_check"
	return s, nil
}

// look asks the kernel how the pool is. errInactive: there is no such device, or a
// half-made or suspended one, which only an exclusive lock's holder may touch.
func (p *pool) look(flags uint32) error {
	dev, targets, err := p.ctl.Status(p.name(), flags)
	if errors.Is(err, unix.ENXIO) {
		return errInactive
	}
	if err != nil {
		return p.fail("%w", err)
	}
	if !dev.Live || dev.Suspended {
		return errInactive
	}
	if len(targets) != 1 || targets[0].Type != "thin-pool" {
		return p.fail("device %s is no thin-pool but %v: %w", p.name(), targets, ErrForeign)
	}
	s, err := parseStatus(targets[0].Params)
	if err != nil {
		return p.fail("%w", err)
	}
	if s.mode != "Fail" && s.mode != "Error" && s.transaction != p.fingerprint {
		return p.foreign(s.transaction)
	}
	p.device, p.kernel = dev, s
	return p.checkFiles()
}

// noneOpen refuses, with ErrInUse, while one of the pool's thin devices is open.
func (p *pool) noneOpen() error {
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
	return nil
}

func (p *pool) foreign(found uint64) error {
	return p.fail("its fingerprint is %016x, the record says %016x: %w", found, p.fingerprint, ErrForeign)
}

// checkFiles refuses a pool whose file has become shorter, before anything is read from
// or written to it.
func (p *pool) checkFiles() error {
	for _, b := range []backing{p.data, p.meta} {
		if !b.ours {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(b.path, &st); err != nil {
			return p.fail("%s: %w", b.path, err)
		}
		if uint64(st.Size) < b.bytes {
			return p.fail("%s has %d bytes, %d are on record: %w; put the whole file back, or remove %s to lose the pool's images", b.path, st.Size, b.bytes, ErrTruncated, p.dir)
		}
	}
	return nil
}

// usable tells if the pool answers to messages.
func (p *pool) usable() error {
	switch s := p.kernel; {
	case s.needsCheck:
		return p.needsCheck()
	case s.mode == "ro":
		return p.fail("%w (out of metadata space; run `thinrun pool grow --metadata-size`; see the kernel's log)", ErrReadOnly)
	case s.mode == "Fail" || s.mode == "Error":
		return p.fail("%w: the kernel has shut it down (%s) because a device below it failed, see the kernel's log; it comes back when its containers have ended and the device is well", ErrReadOnly, s.mode)
	}
	return nil
}

func (p *pool) needsCheck() error {
	return p.fail("%w: a write to it failed; see to %s and %s, stop its containers and run `thinrun pool check --repair` (it is what thin_check does)", ErrNeedsCheck, p.meta.path, p.data.path)
}

// message sends one message to the pool and makes sure that it was kept: the kernel
// answers 0 even when the commit behind it failed and all was rolled back.
func (p *pool) message(format string, args ...any) error {
	if err := p.ctl.Message(p.name(), fmt.Sprintf(format, args...)); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) && p.look(dm.NoFlush) == nil && p.usable() != nil {
			return p.usable()
		}
		return p.fail("%w", err)
	}
	if err := p.look(dm.NoFlush); err != nil {
		return err
	}
	return p.usable()
}
