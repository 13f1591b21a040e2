// Package seccomp compiles the OCI seccomp section to a classic BPF program and
// installs it. It needs no libseccomp: the kernel's interface is small, and compiling
// Docker's profile through libseccomp costs 15 ms of every start.
//
// Where the OCI text leaves a choice, the decisions are those of runc with libseccomp,
// because profiles are written and tested there. It does not pass a listener on to an
// agent and does not set no_new_privs.
package seccomp

import "thinrun/libcontainer/wire"

// Config is the OCI section in plain form (names as the spec spells them).
type Config struct {
	DefaultAction    string // SCMP_ACT_*
	DefaultErrnoRet  *uint
	Architectures    []string // SCMP_ARCH_*; the native one is always included
	Flags            []string // SECCOMP_FILTER_FLAG_*; nil (not empty) means SPEC_ALLOW, as in runc
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

// Arg is a comparison; all of a rule's must hold, unless two have the same Index: then
// any is enough, which is what runc made of such rules when they were all it had.
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

// Code carries the program to the init stage.
func (p *Program) Code(c *wire.Coder) {
	wire.Bytes(c, &p.Filter)
	wire.Int(c, &p.Flags)
	wire.Bool(c, &p.Notify)
}
