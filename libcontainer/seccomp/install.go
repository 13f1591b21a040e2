package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// flags returns the kernel's flags for the section's.
func flags(names []string, notify bool) (uint64, error) {
	var set uint64
	if names == nil {
		// runc's choice: the mitigation that the kernel otherwise puts on filtered
		// processes costs much, and since Linux 5.16 it is off by default too.
		set = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	if notify {
		set |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	for i, name := range names {
		flag, known := flagOf(name)
		if !known {
			return 0, fmt.Errorf("linux.seccomp.flags[%d]: %q is not a flag (SECCOMP_FILTER_FLAG_*)", i, name)
		}
		if flag == unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV && !notify {
			return 0, fmt.Errorf("linux.seccomp.flags[%d]: %s needs a rule with SCMP_ACT_NOTIFY", i, name)
		}
		set |= flag
	}
	return set, nil
}

func flagOf(name string) (uint64, bool) {
	switch name {
	case "SECCOMP_FILTER_FLAG_TSYNC":
		// Known and not passed on, as in runc: execve ends the other threads, so the
		// container could never see the difference, but Go's own threads would run
		// under a filter that may kill them before that.
		return 0, true
	case "SECCOMP_FILTER_FLAG_LOG":
		return unix.SECCOMP_FILTER_FLAG_LOG, true
	case "SECCOMP_FILTER_FLAG_SPEC_ALLOW":
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, true
	case "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV":
		return unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, true
	}
	return 0, false
}

// SupportedFlags lists those of Flags that this kernel knows too.
func SupportedFlags() []string {
	var list []string
	for _, name := range Flags() {
		flag, _ := flagOf(name)
		if flag == unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV {
			flag |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER // only together
		}
		// Flags are looked at before the program, which is not there.
		_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(flag), 0)
		if errno == unix.EFAULT {
			list = append(list, name)
		}
	}
	return list
}

// Install puts the calling thread under the filter; lock the goroutine to it first. It
// returns the listener of a filter that notifies (close-on-exec), else -1. Every system
// call after it is the container's to allow, so there is nothing after it.
func (p *Program) Install() (listener int, err error) {
	prog := unix.SockFprog{
		Len:    uint16(len(p.Filter) / unix.SizeofSockFilter),
		Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(p.Filter))),
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(p.Flags), uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(p)
	if errno != 0 {
		return -1, fmt.Errorf("seccomp filter of %d instructions: %w%s", prog.Len, errno, p.hint(errno))
	}
	if p.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
		return -1, nil
	}
	return int(fd), nil
}

func (p *Program) hint(err error) string {
	switch {
	case errors.Is(err, unix.EACCES):
		return " (needs CAP_SYS_ADMIN or process.noNewPrivileges)"
	case errors.Is(err, unix.EBUSY):
		return " (a filter above has a listener already, and there can be one)"
	case errors.Is(err, unix.EINVAL) && p.Flags&unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV != 0:
		return " (SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs Linux 5.19)"
	}
	return ""
}
