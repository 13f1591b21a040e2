package step

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// What not every architecture has, or calls otherwise.
const (
	newfstatat = unix.SYS_NEWFSTATAT
	archPrctl  = unix.SYS_ARCH_PRCTL
	poll       = unix.SYS_POLL
)

// registers is syscallOf where ptrace has no words for it, and the first three arguments
// only: offsets in struct user_regs_struct.
func registers(tid int) (nr uint64, args [6]uint64, entry bool, err error) {
	peek := func(offset uintptr) uint64 {
		var b [8]byte
		if _, e := unix.PtracePeekUser(tid, offset, b[:]); e != nil {
			err = e
		}
		return binary.LittleEndian.Uint64(b[:])
	}
	const rax, rdx, rsi, rdi, origRax = 80, 96, 104, 112, 120
	// The kernel puts ENOSYS there before it looks for the call.
	enosys := -int64(unix.ENOSYS)
	nr, args, entry = peek(origRax), [6]uint64{peek(rdi), peek(rsi), peek(rdx)}, int64(peek(rax)) == enosys
	return nr, args, entry, err
}
