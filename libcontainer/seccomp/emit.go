package seccomp

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (<linux/seccomp.h>).
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

// The instructions that a filter is made of. The kernel predicts a filter's answer for
// each number, and then skips running it for calls that are always allowed, only if
// nothing but these touches nr and arch (seccomp_is_const_allow, Linux 5.11).
const (
	opLoad   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opJump   = unix.BPF_JMP | unix.BPF_JA
	opEqual  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opAbove  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opFrom   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opSet    = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	opAnd    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opReturn = unix.BPF_RET | unix.BPF_K
)

// A target is where a branch goes: to an instruction, or out with a verdict.
type target struct {
	at      int // index in assembler.code; -1: return
	verdict uint32
}

func give(verdict uint32) target { return target{at: -1, verdict: verdict} }

// An assembler writes a program from its last instruction to its first. BPF only jumps
// forward, so every target is known by the time somebody jumps to it, and one pass is
// enough; a conditional jump reaches 255 instructions, so a target that has got too far
// away gets a copy (of a return) or an unconditional jump nearby.
type assembler struct {
	code []unix.SockFilter // reversed
	near []place
}

// place is the nearest instruction that leads to a target.
type place struct {
	target
	now int
}

func (a *assembler) put(code uint16, jt, jf uint8, k uint32) target {
	a.code = append(a.code, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return target{at: len(a.code) - 1}
}

// distance returns how many instructions a jump put now has to skip; ok is false when
// a conditional one cannot.
func (a *assembler) distance(t target) (skip int, ok bool) {
	at := t.at
	for i := len(a.near) - 1; i >= 0; i-- {
		if a.near[i].target == t {
			at = a.near[i].now
			break
		}
	}
	skip = len(a.code) - at - 1
	return skip, at >= 0 && skip <= 255
}

// approach makes the top of the program lead to t.
func (a *assembler) approach(t target) {
	if t.at >= 0 && t.at == len(a.code)-1 {
		return
	}
	if t.at < 0 {
		a.put(opReturn, 0, 0, t.verdict)
	} else {
		a.put(opJump, 0, 0, uint32(len(a.code)-t.at-1))
	}
	now := len(a.code) - 1
	for i := range a.near {
		if a.near[i].target == t {
			a.near[i].now = now
			return
		}
	}
	a.near = append(a.near, place{t, now})
}

// branch compares what was loaded with k.
func (a *assembler) branch(op uint16, k uint32, yes, no target) target {
	if yes == no {
		a.approach(yes)
		return target{at: len(a.code) - 1}
	}
	for {
		// What brings one near takes the other further away: look at both again.
		jt, ok := a.distance(yes)
		if !ok {
			a.approach(yes)
			continue
		}
		jf, ok := a.distance(no)
		if !ok {
			a.approach(no)
			continue
		}
		return a.put(op, uint8(jt), uint8(jf), k)
	}
}

// load reads a word of struct seccomp_data and goes on with the top of the program.
func (a *assembler) load(offset uint32) target { return a.put(opLoad, 0, 0, offset) }

// bytes returns the program in the form that the kernel takes.
func (a *assembler) bytes() []byte {
	b := make([]byte, 0, 8*len(a.code))
	for i := len(a.code) - 1; i >= 0; i-- {
		in := a.code[i]
		b = binary.NativeEndian.AppendUint16(b, in.Code)
		b = append(b, in.Jt, in.Jf)
		b = binary.NativeEndian.AppendUint32(b, in.K)
	}
	return b
}

// A run is a stretch of system call numbers with one answer; it ends where the next begins.
type run struct {
	from uint32
	to   target
}

// search finds the answer for the loaded number by bisection and returns where it starts.
func (a *assembler) search(runs []run) target {
	// A single call inside others of one answer costs one comparison for equality
	// where bisection needs two; Docker's profile is mostly such islands.
	starts := make([]int, 0, len(runs)+1)
	for i := 0; i < len(runs); {
		starts = append(starts, i)
		if island(runs[i:]) {
			i += 3
		} else {
			i++
		}
	}
	return a.bisect(runs, append(starts, len(runs)))
}

func island(runs []run) bool {
	return len(runs) >= 3 && runs[0].to == runs[2].to && runs[2].from == runs[1].from+1
}

func (a *assembler) bisect(runs []run, starts []int) target {
	n := len(starts) - 1
	if n > 1 {
		mid := n / 2
		above := a.bisect(runs, starts[mid:])
		below := a.bisect(runs, starts[:mid+1])
		return a.branch(opFrom, runs[starts[mid]].from, above, below)
	}
	first := runs[starts[0]]
	if starts[1]-starts[0] == 1 {
		return first.to
	}
	island := runs[starts[0]+1]
	return a.branch(opEqual, island.from, island.to, first.to)
}
