// Package dm speaks to the kernel's device-mapper: one method per ioctl of
// /dev/mapper/control, as include/uapi/linux/dm-ioctl.h has them, and nothing else. It
// knows no pool and keeps no state. The errno comes back as it is (errors.Is), inside an
// error that names the operation and the device.
package dm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/devnode"
)

// ErrUnsupported: the kernel has no device-mapper, or not the target that was asked for.
var ErrUnsupported = errors.New("not in this kernel")

// Control is an open /dev/mapper/control.
type Control struct {
	f *os.File
}

// mapperMinor is MAPPER_CTRL_MINOR; opening 10:236 makes the kernel load dm-mod.
const mapperMinor = 236

// Open opens the control device. Where /dev/mapper/control is missing it makes a node of
// its own, whose opening loads the module if there is one.
func Open(nodes *devnode.Nodes) (*Control, error) {
	minor, listed := miscMinor("device-mapper")
	if !listed {
		minor = mapperMinor
	}
	f, err := nodes.Open("/dev/mapper/control", devnode.Char, 10, minor, unix.O_RDWR)
	if err != nil {
		if !listed && (errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT)) {
			return nil, fmt.Errorf("device-mapper: %w", ErrUnsupported)
		}
		return nil, fmt.Errorf("device-mapper: %w", err)
	}
	return &Control{f}, nil
}

func (c *Control) Close() error { return c.f.Close() }

func miscMinor(name string) (uint32, bool) {
	list, err := os.ReadFile("/proc/misc")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(list)) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == name {
			n, err := strconv.ParseUint(f[0], 10, 32)
			return uint32(n), err == nil
		}
	}
	return 0, false
}

// Device is what the kernel says of a device in every answer.
type Device struct {
	Name, UUID   string
	Major, Minor uint32
	Opened       int    // how many hold it open
	Event        uint32 // counts its events
	Targets      int    // in the live table
	Suspended    bool
	Live         bool // has a table
	Inactive     bool // has a loaded table that a resume would swap in
	Deferred     bool // goes with its last user
}

// Node is the device's name in /dev, where devtmpfs keeps it.
func (d Device) Node() string { return "/dev/dm-" + strconv.Itoa(int(d.Minor)) }

// Number is "major:minor", as table lines take it.
func (d Device) Number() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Target is one line of a table; in an answer, Params is the status or the table's text.
type Target struct {
	Start, Length uint64 // sectors
	Type, Params  string
}

// udevQuiet sits in the upper half of event_nr, where 10-dm.rules reads its flags: no
// links, no blkid, no LVM scan of a device that is ours alone and may be gone before udev
// has opened it (DM_UDEV_DISABLE_{DM,SUBSYSTEM,DISK,OTHER}_RULES_FLAG, PRIMARY_SOURCE).
const udevQuiet = 0x4f << 16

// Create makes a device without a table. EBUSY: the name is taken, which is how the
// kernel keeps one device from being made twice.
func (c *Control) Create(name, uuid string) (Device, error) {
	d, _, err := c.do(request{op: "create", cmd: unix.DM_DEV_CREATE, name: name, uuid: uuid})
	return d, err
}

// Load gives a table to the inactive slot; Resume makes it live.
func (c *Control) Load(name string, targets ...Target) (Device, error) {
	var data []byte
	for _, t := range targets {
		at := len(data)
		size := align(int(unsafe.Sizeof(unix.DmTargetSpec{})) + len(t.Params) + 1)
		data = append(data, make([]byte, size)...)
		spec := (*unix.DmTargetSpec)(unsafe.Pointer(&data[at]))
		spec.Sector_start, spec.Length, spec.Next = t.Start, t.Length, uint32(size)
		copy(spec.Target_type[:], t.Type)
		copy(data[at+int(unsafe.Sizeof(*spec)):], t.Params)
	}
	d, _, err := c.do(request{op: "load table of", cmd: unix.DM_TABLE_LOAD, name: name, targets: len(targets), data: data})
	return d, err
}

// Clear drops the table in the inactive slot.
func (c *Control) Clear(name string) error {
	_, _, err := c.do(request{op: "clear table of", cmd: unix.DM_TABLE_CLEAR, name: name})
	return err
}

// Resume makes a loaded table live and lets I/O through.
func (c *Control) Resume(name string) (Device, error) {
	d, _, err := c.do(request{op: "resume", cmd: unix.DM_DEV_SUSPEND, name: name, event: udevQuiet})
	return d, err
}

// Suspend holds I/O back. flags: NoFlush, SkipLockFS.
func (c *Control) Suspend(name string, flags uint32) error {
	_, _, err := c.do(request{op: "suspend", cmd: unix.DM_DEV_SUSPEND, name: name, flags: unix.DM_SUSPEND_FLAG | flags})
	return err
}

// Call is one ioctl, laid out before it is wanted: Do allocates nothing. Between a suspend
// and the resume memory must not be asked for, since the kernel may want to write to the
// suspended device in order to find some.
type Call struct {
	c     *Control
	op    string
	name  string
	cmd   uint
	words []uint64
}

// Freezing is a suspend that freezes the file system on the device first.
func (c *Control) Freezing(name string) (*Call, error) {
	return c.ready(request{op: "suspend", cmd: unix.DM_DEV_SUSPEND, name: name, flags: unix.DM_SUSPEND_FLAG})
}

// Resuming is a resume.
func (c *Control) Resuming(name string) (*Call, error) {
	return c.ready(request{op: "resume", cmd: unix.DM_DEV_SUSPEND, name: name, event: udevQuiet})
}

// Messaging is a message to the target at sector 0.
func (c *Control) Messaging(name, message string) (*Call, error) {
	return c.ready(request{op: message + " to", cmd: unix.DM_TARGET_MSG, name: name, data: messageData(message)})
}

func (c *Control) ready(r request) (*Call, error) {
	words, err := r.layout(align(4096 + len(r.data)))
	return &Call{c, r.op, r.name, r.cmd, words}, err
}

// Do sends the ioctl. It can be sent once.
func (call *Call) Do() unix.Errno {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, call.c.f.Fd(), uintptr(call.cmd), uintptr(unsafe.Pointer(&call.words[0])))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// Error is an errno of Do with its place.
func (call *Call) Error(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return fmt.Errorf("dm: %s %s: %w", call.op, call.name, errno)
}

// Flags of Suspend and Status.
const (
	NoFlush    = unix.DM_NOFLUSH_FLAG     // Suspend: keep queued I/O. Status: do not commit the pool first
	SkipLockFS = unix.DM_SKIP_LOCKFS_FLAG // do not freeze the file system on it
)

// Remove takes a device away. deferred: if it is in use, as soon as it no longer is; the
// answer then has Deferred set. Of an idle device that means now.
func (c *Control) Remove(name string, deferred bool) (Device, error) {
	r := request{op: "remove", cmd: unix.DM_DEV_REMOVE, name: name, event: udevQuiet}
	if deferred {
		r.flags = unix.DM_DEFERRED_REMOVE
	}
	d, _, err := c.do(r)
	return d, err
}

// Message sends a message to the target at sector 0.
func (c *Control) Message(name, message string) error {
	_, _, err := c.do(request{op: message + " to", cmd: unix.DM_TARGET_MSG, name: name, data: messageData(message)})
	return err
}

func messageData(message string) []byte {
	data := make([]byte, align(int(unsafe.Sizeof(unix.DmTargetMsg{}))+len(message)+1))
	copy(data[unsafe.Sizeof(unix.DmTargetMsg{}):], message)
	return data
}

// Status is the status of each target of the live table. Without NoFlush a thin-pool
// commits first.
func (c *Control) Status(name string, flags uint32) (Device, []Target, error) {
	return c.targets(request{op: "status of", cmd: unix.DM_TABLE_STATUS, name: name, flags: flags})
}

// Table is the live table.
func (c *Control) Table(name string) (Device, []Target, error) {
	return c.targets(request{op: "table of", cmd: unix.DM_TABLE_STATUS, name: name, flags: unix.DM_STATUS_TABLE_FLAG})
}

// Info is the device alone. ENXIO: there is none.
func (c *Control) Info(name string) (Device, error) {
	d, _, err := c.do(request{op: "look up", cmd: unix.DM_DEV_STATUS, name: name})
	return d, err
}

// Deps are the devices below, as Linux dev_t numbers.
func (c *Control) Deps(name string) ([]uint64, error) {
	_, out, err := c.do(request{op: "dependencies of", cmd: unix.DM_TABLE_DEPS, name: name})
	if err != nil || len(out) < 8 {
		return nil, err
	}
	deps := make([]uint64, 0, 2)
	n := int(*(*uint32)(unsafe.Pointer(&out[0])))
	for i := 0; i < n && 16+8*i <= len(out); i++ {
		deps = append(deps, *(*uint64)(unsafe.Pointer(&out[8+8*i])))
	}
	return deps, nil
}

// List names all devices.
func (c *Control) List() ([]Device, error) {
	_, out, err := c.do(request{op: "list", cmd: unix.DM_LIST_DEVICES})
	if err != nil {
		return nil, err
	}
	var list []Device
	for at := 0; at+12 <= len(out); {
		dev := *(*uint64)(unsafe.Pointer(&out[at]))
		next := *(*uint32)(unsafe.Pointer(&out[at+8]))
		if dev == 0 {
			break
		}
		list = append(list, Device{Name: text(out[at+12:]), Major: unix.Major(dev), Minor: unix.Minor(dev)})
		if next == 0 {
			break
		}
		at += int(next)
	}
	return list, nil
}

// TargetVersion asks for a target, whose module the kernel then loads if it can.
func (c *Control) TargetVersion(target string) ([3]uint32, error) {
	_, out, err := c.do(request{op: "look up target", cmd: unix.DM_GET_TARGET_VERSION, name: target})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENOENT) {
		return [3]uint32{}, fmt.Errorf("device-mapper target %s: %w", target, ErrUnsupported)
	}
	if err != nil || len(out) < 16 {
		return [3]uint32{}, err
	}
	return *(*[3]uint32)(unsafe.Pointer(&out[4])), nil
}

// ArmPoll makes Poll wait for what happens from now on.
func (c *Control) ArmPoll() error {
	_, _, err := c.do(request{op: "arm poll of", cmd: unix.DM_DEV_ARM_POLL})
	return err
}

// Poll waits for an event of any device, or until the other end of a pipe is closed, which
// over tells.
func (c *Control) Poll(pipe *os.File) (over bool, err error) {
	fds := []unix.PollFd{{Fd: int32(c.f.Fd()), Events: unix.POLLIN}, {Fd: int32(pipe.Fd()), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("dm: poll: %w", err)
		}
		return fds[1].Revents != 0, nil
	}
}

func (c *Control) targets(r request) (Device, []Target, error) {
	d, out, err := c.do(r)
	if err != nil {
		return d, nil, err
	}
	var list []Target
	spec := int(unsafe.Sizeof(unix.DmTargetSpec{}))
	for at := 0; len(list) < d.Targets && at+spec <= len(out); {
		s := (*unix.DmTargetSpec)(unsafe.Pointer(&out[at]))
		list = append(list, Target{s.Sector_start, s.Length, text(s.Target_type[:]), text(out[at+spec:])})
		at = int(s.Next) // from the start of the answer, unlike in Load
	}
	return d, list, nil
}

type request struct {
	op, name, uuid string
	cmd            uint
	flags, event   uint32
	targets        int
	data           []byte
}

const head = int(unsafe.Sizeof(unix.DmIoctl{}))

// layout is the request in a buffer of so many bytes.
func (r request) layout(size int) ([]uint64, error) {
	if len(r.name) >= unix.DM_NAME_LEN || len(r.uuid) >= unix.DM_UUID_LEN || strings.ContainsRune(r.name, '/') {
		return nil, fmt.Errorf("%s %q: %w", r.op, r.name, unix.EINVAL)
	}
	words := make([]uint64, size/8) // for the alignment
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), size)
	h := (*unix.DmIoctl)(unsafe.Pointer(&words[0]))
	h.Version = [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}
	h.Data_size, h.Data_start = uint32(size), uint32(head)
	h.Target_count, h.Flags, h.Event_nr = uint32(r.targets), r.flags, r.event
	copy(h.Name[:], r.name)
	copy(h.Uuid[:], r.uuid)
	copy(buf[head:], r.data)
	return words, nil
}

// do sends one ioctl, with a larger buffer again when the answer did not fit.
func (c *Control) do(r request) (Device, []byte, error) {
	for size := align(max(4096, head+len(r.data))); ; size *= 2 {
		words, err := r.layout(size)
		if err != nil {
			return Device{}, nil, err
		}
		buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), size)
		h := (*unix.DmIoctl)(unsafe.Pointer(&words[0]))
		var errno unix.Errno
		for {
			_, _, errno = unix.Syscall(unix.SYS_IOCTL, c.f.Fd(), uintptr(r.cmd), uintptr(unsafe.Pointer(h)))
			if errno != unix.EINTR { // a suspend that waits for I/O is interruptible
				break
			}
		}
		if errno != 0 {
			return Device{}, nil, fmt.Errorf("dm: %s %s: %w", r.op, r.name, errno)
		}
		if h.Flags&unix.DM_BUFFER_FULL_FLAG != 0 {
			continue
		}
		return Device{
			Name: text(h.Name[:]), UUID: text(h.Uuid[:]),
			Major: unix.Major(h.Dev), Minor: unix.Minor(h.Dev),
			Opened: int(h.Open_count), Event: h.Event_nr, Targets: int(h.Target_count),
			Suspended: h.Flags&unix.DM_SUSPEND_FLAG != 0,
			Live:      h.Flags&unix.DM_ACTIVE_PRESENT_FLAG != 0,
			Inactive:  h.Flags&unix.DM_INACTIVE_PRESENT_FLAG != 0,
			Deferred:  h.Flags&unix.DM_DEFERRED_REMOVE != 0,
		}, buf[min(int(h.Data_start), size):], nil
	}
}

func align(n int) int { return (n + 7) &^ 7 }

func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
