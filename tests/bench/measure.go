package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rowOrder: the names of a sample begin with a digit that puts them in order.
func rowOrder(s sample) []string {
	var names []string
	for name := range s {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// splitUnit takes "1 title [unit]" apart.
func splitUnit(name string) (title, unit string) {
	_, name, _ = strings.Cut(name, " ")
	title, unit, _ = strings.Cut(name, " [")
	return title, strings.TrimSuffix(unit, "]")
}

// quantile of the samples, by the nearest rank.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	s := slices.Clone(samples)
	slices.Sort(s)
	if q == 0.5 && len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[int(q*float64(len(s)-1)+0.5)]
}

// counter is one of the processor's event counters, of this thread and of all that it
// forks: a child's count is added to it when the child has ended.
type counter struct{ fd int }

func newCounter(kind uint32, config uint64) (*counter, error) {
	runtime.LockOSThread() // the counter is this thread's, and only its children inherit
	attr := unix.PerfEventAttr{Type: kind, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Config: config,
		Bits: unix.PerfBitDisabled | unix.PerfBitInherit}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	switch {
	case err == nil:
		return &counter{fd}, nil
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV):
		return nil, errors.New("this machine's kernel offers no hardware counters")
	}
	return nil, fmt.Errorf("perf_event_open: %w", err)
}

// around counts what act does; without a counter it only acts.
func (c *counter) around(total *float64, act func() error) error {
	if c == nil {
		return act()
	}
	// Read before and after: PERF_EVENT_IOC_RESET keeps what ended children have counted.
	before, err := c.read()
	if err != nil {
		return err
	}
	if err := unix.IoctlSetInt(c.fd, unix.PERF_EVENT_IOC_ENABLE, 0); err != nil {
		return os.NewSyscallError("perf ioctl", err)
	}
	err = act()
	if e := unix.IoctlSetInt(c.fd, unix.PERF_EVENT_IOC_DISABLE, 0); err == nil {
		err = e
	}
	after, e := c.read()
	if err == nil {
		err = e
	}
	*total = float64(after - before)
	return err
}

func (c *counter) read() (uint64, error) {
	var b [8]byte
	if _, err := unix.Read(c.fd, b[:]); err != nil {
		return 0, os.NewSyscallError("read a perf counter", err)
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

func (c *counter) close() { unix.Close(c.fd) }
