package step

import "golang.org/x/sys/unix"

// What not every architecture has, or calls otherwise.
const (
	newfstatat = unix.SYS_NEWFSTATAT
	archPrctl  = 1<<32 - 1
	poll       = 1<<32 - 2
)

// registers is not needed: only User-Mode Linux, which is x86, lacks PTRACE_GET_SYSCALL_INFO.
func registers(int) (nr uint64, args [6]uint64, entry bool, err error) {
	return 0, args, false, unix.EIO
}
