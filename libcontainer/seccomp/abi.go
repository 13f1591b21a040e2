package seccomp

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// The columns of table.
const (
	colAMD64 = iota
	col386
	colX32
	colARM64
	colARM
	colRISCV64
	colPPC64LE
	colS390X
	colLoong64
	columns
)

// call is one system call's number in every ABI.
type call struct {
	name string
	nr   [columns]int16
}

// An abi is one way into the kernel, as a filter sees it.
type abi struct {
	name   string // SCMP_ARCH_*
	column int
	audit  uint32 // seccomp_data.arch
	base   uint32 // added to the numbers in the table
	narrow bool   // arguments are 32 bits wide
	big    bool   // big endian: the high word of an argument comes first
	mux    bool   // socketcall(2) and ipc(2) reach other system calls
}

// x32 is x86-64's AUDIT_ARCH with this bit set in the number (__X32_SYSCALL_BIT).
const x32Bit = 0x40000000

// abiOf returns the ABI by its OCI name. One that the spec knows but we have no table
// for has column -1.
func abiOf(name string) (a abi, known bool) {
	switch name {
	case "SCMP_ARCH_X86_64":
		a = abi{column: colAMD64, audit: unix.AUDIT_ARCH_X86_64}
	case "SCMP_ARCH_X86":
		a = abi{column: col386, audit: unix.AUDIT_ARCH_I386, narrow: true, mux: true}
	case "SCMP_ARCH_X32":
		a = abi{column: colX32, audit: unix.AUDIT_ARCH_X86_64, base: x32Bit, narrow: true}
	case "SCMP_ARCH_AARCH64":
		a = abi{column: colARM64, audit: unix.AUDIT_ARCH_AARCH64}
	case "SCMP_ARCH_ARM":
		a = abi{column: colARM, audit: unix.AUDIT_ARCH_ARM, narrow: true}
	case "SCMP_ARCH_RISCV64":
		a = abi{column: colRISCV64, audit: unix.AUDIT_ARCH_RISCV64}
	case "SCMP_ARCH_PPC64LE":
		a = abi{column: colPPC64LE, audit: unix.AUDIT_ARCH_PPC64LE, mux: true}
	case "SCMP_ARCH_S390X":
		a = abi{column: colS390X, audit: unix.AUDIT_ARCH_S390X, big: true, mux: true}
	case "SCMP_ARCH_LOONGARCH64":
		a = abi{column: colLoong64, audit: unix.AUDIT_ARCH_LOONGARCH64}
	case "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_PPC",
		"SCMP_ARCH_PPC64", "SCMP_ARCH_S390", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64":
		a = abi{column: -1, big: true}
	case "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32":
		a = abi{column: -1}
	default:
		return abi{}, false
	}
	a.name = name
	return a, true
}

// runnable names the ABIs that a kernel for goarch can execute, its own first. nil: no
// table for it.
func runnable(goarch string) []string {
	switch goarch {
	case "amd64":
		return []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_X32", "SCMP_ARCH_X86"}
	case "arm64":
		return []string{"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"}
	case "riscv64":
		return []string{"SCMP_ARCH_RISCV64"}
	case "ppc64le":
		return []string{"SCMP_ARCH_PPC64LE"}
	case "s390x":
		return []string{"SCMP_ARCH_S390X", "SCMP_ARCH_S390"}
	case "loong64":
		return []string{"SCMP_ARCH_LOONGARCH64"}
	}
	return nil
}

// abis returns what the filter must tell apart, in the order of runnable. The native
// ABI is always there. One that this kernel cannot run is left out: no program can show
// it to the filter. Of the other byte order it is refused, as libseccomp does.
func abis(named []string, goarch string) ([]abi, error) {
	can := runnable(goarch)
	if can == nil {
		return nil, fmt.Errorf("linux.seccomp: no system call table for %s", goarch)
	}
	native, _ := abiOf(can[0])
	wanted := make([]bool, len(can))
	wanted[0] = true
	for i, name := range named {
		a, known := abiOf(name)
		if !known {
			return nil, fmt.Errorf("linux.seccomp.architectures[%d]: %q is not an architecture (SCMP_ARCH_*)", i, name)
		}
		if a.big != native.big {
			return nil, fmt.Errorf("linux.seccomp.architectures[%d]: %s has another byte order than this machine", i, name)
		}
		for j := range can {
			if can[j] != name {
				continue
			}
			if a.column < 0 {
				return nil, fmt.Errorf("linux.seccomp.architectures[%d]: no system call table for %s", i, name)
			}
			wanted[j] = true
		}
	}
	list := make([]abi, 0, len(can))
	for j, name := range can {
		if wanted[j] {
			a, _ := abiOf(name)
			list = append(list, a)
		}
	}
	return list, nil
}

// lookup finds a call by name in the table, or returns -1. Profiles list names in order,
// so most are found close behind the last one.
func lookup(name string, last int) int {
	for i := last + 1; i < min(last+5, len(table)); i++ {
		if table[i].name == name {
			return i
		}
	}
	lo, hi := 0, len(table)
	for lo < hi {
		mid := int(uint(lo+hi) / 2)
		if table[mid].name < name {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(table) && table[lo].name == name {
		return lo
	}
	return -1
}

// arm's private calls (__ARM_NR_BASE) lie far above the table's numbers.
const (
	armPrivate     = 0xf0000
	armPrivateSize = 8
)

// armCall returns the number of one of arm's private calls, or 0.
func armCall(name string) uint32 {
	switch name {
	case "breakpoint":
		return armPrivate + 1
	case "cacheflush":
		return armPrivate + 2
	case "usr26":
		return armPrivate + 3
	case "usr32":
		return armPrivate + 4
	case "set_tls":
		return armPrivate + 5
	case "get_tls":
		return armPrivate + 6
	}
	return 0
}

// Numbers of the multiplexers, the same in all ABIs that have them.
const (
	nrSocketcall = 102
	nrIPC        = 117
)

// multiplexed returns by which multiplexer, and as which value of its first argument,
// old programs make a call (<linux/net.h>, <linux/ipc.h>); 0: they do not.
func multiplexed(name string) (mux uint32, op uint64) {
	switch name {
	case "socket":
		return nrSocketcall, 1
	case "bind":
		return nrSocketcall, 2
	case "connect":
		return nrSocketcall, 3
	case "listen":
		return nrSocketcall, 4
	case "accept":
		return nrSocketcall, 5
	case "getsockname":
		return nrSocketcall, 6
	case "getpeername":
		return nrSocketcall, 7
	case "socketpair":
		return nrSocketcall, 8
	case "send":
		return nrSocketcall, 9
	case "recv":
		return nrSocketcall, 10
	case "sendto":
		return nrSocketcall, 11
	case "recvfrom":
		return nrSocketcall, 12
	case "shutdown":
		return nrSocketcall, 13
	case "setsockopt":
		return nrSocketcall, 14
	case "getsockopt":
		return nrSocketcall, 15
	case "sendmsg":
		return nrSocketcall, 16
	case "recvmsg":
		return nrSocketcall, 17
	case "accept4":
		return nrSocketcall, 18
	case "recvmmsg":
		return nrSocketcall, 19
	case "sendmmsg":
		return nrSocketcall, 20
	case "semop":
		return nrIPC, 1
	case "semget":
		return nrIPC, 2
	case "semctl":
		return nrIPC, 3
	case "semtimedop":
		return nrIPC, 4
	case "msgsnd":
		return nrIPC, 11
	case "msgrcv":
		return nrIPC, 12
	case "msgget":
		return nrIPC, 13
	case "msgctl":
		return nrIPC, 14
	case "shmat":
		return nrIPC, 21
	case "shmdt":
		return nrIPC, 22
	case "shmget":
		return nrIPC, 23
	case "shmctl":
		return nrIPC, 24
	}
	return 0, 0
}
