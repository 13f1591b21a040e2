// Package seccomp compiles the OCI seccomp section to a classic BPF program and
// installs it. It needs no libseccomp: the kernel's interface is small, and compiling
// Docker's profile through libseccomp costs 15 ms of every start.
package seccomp

// Config is the OCI section in plain form (names as the spec spells them).
type Config struct {
	DefaultAction    string // SCMP_ACT_*
	DefaultErrnoRet  *uint
	Architectures    []string // SCMP_ARCH_*; the native one is always included
	Flags            []string // SECCOMP_FILTER_FLAG_*
	ListenerPath     string
	ListenerMetadata string
	Syscalls         []Rule
}

// Rule is one entry of syscalls.
type Rule struct {
	Names    []string
	Action   string
	ErrnoRet *uint
	Args     []Arg
}

// Arg is a comparison; all of a rule's must hold.
type Arg struct {
	Index    uint
	Op       string // SCMP_CMP_*
	Value    uint64
	ValueTwo uint64
}

// Program is a compiled filter, ready for seccomp(2).
type Program struct {
	Filter []byte // struct sock_filter, 8 bytes each, native endian
	Flags  uint64 // SECCOMP_FILTER_FLAG_*
	Notify bool   // some rule notifies: Install returns the listener
}
