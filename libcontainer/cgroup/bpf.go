package cgroup

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cgroup2 has no devices controller: a BPF program of type CGROUP_DEVICE is asked at
// each open and mknod. This is the few instructions that it takes.

// instruction is the kernel's struct bpf_insn.
type instruction struct {
	code uint8
	regs uint8 // destination in the lower four bits, source in the upper; see op
	off  int16
	imm  int32
}

// Registers: the verifier wants the answer in r0, the context comes in r1.
const (
	answer uint8 = 0
	ctx    uint8 = 1
	kind   uint8 = 2
	asked  uint8 = 3 // accesses that no rule has decided yet
	major  uint8 = 4
	minor  uint8 = 5
	tmp    uint8 = 6
	differ uint8 = 7 // 0 when the device is one that the rule names
)

const (
	loadWord = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	andImm   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	shiftImm = unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K
	moveImm  = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_K
	moveReg  = unix.BPF_ALU | unix.BPF_MOV | unix.BPF_X
	xorImm   = unix.BPF_ALU | unix.BPF_XOR | unix.BPF_K
	orReg    = unix.BPF_ALU | unix.BPF_OR | unix.BPF_X
	// 32-bit comparison: BPF_JMP would extend the sign of a number above 2^31.
	jumpNotEqual = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
	jumpEqual    = unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K
	exit         = unix.BPF_JMP | unix.BPF_EXIT
)

func op(code, dst, src uint8, off int16, imm int32) instruction {
	return instruction{code, dst | src<<4, off, imm} // little endian, as all our machines
}

// deviceProgram decides each access that is asked for by the last rule that speaks of it:
// the rules are tried from the end; a denial of any of the accesses ends it, an allowance
// takes its accesses off the list, and when the list is empty the answer is yes.
// What no rule speaks of is denied.
func deviceProgram(list []device) []instruction {
	prog := []instruction{ // struct bpf_cgroup_dev_ctx { u32 access_type, major, minor }
		op(loadWord, kind, ctx, 0, 0),
		op(moveReg, asked, kind, 0, 0),
		op(andImm, kind, 0, 0, 0xffff),
		op(shiftImm, asked, 0, 0, 16),
		op(loadWord, major, ctx, 4, 0),
		op(loadWord, minor, ctx, 8, 0),
	}
	decide := func(allow int32) []instruction {
		return []instruction{op(moveImm, answer, 0, 0, allow), op(exit, 0, 0, 0, 0)}
	}
	for i := len(list) - 1; i >= 0; i-- {
		d := list[i]
		verdict := decide(0)
		if d.allow {
			verdict = decide(1)
		}
		var test []instruction // is there an access of which the rule decides?
		switch {
		case d.access == accessAll:
		case d.allow:
			test = append(test, op(andImm, asked, 0, 0, int32(accessAll&^d.access)), op(jumpNotEqual, asked, 0, 2, 0))
		default:
			test = append(test, op(moveReg, tmp, asked, 0, 0), op(andImm, tmp, 0, 0, int32(d.access)), op(jumpEqual, tmp, 0, 2, 0))
		}
		// One branch for all that the rule names: a branch costs the verifier 4 µs, and
		// other instructions next to nothing.
		prog = append(prog, op(moveImm, differ, 0, 0, 0))
		compare := func(reg uint8, want uint32) {
			prog = append(prog, op(moveReg, tmp, reg, 0, 0), op(xorImm, tmp, 0, 0, int32(want)), op(orReg, differ, tmp, 0, 0))
		}
		switch d.kind {
		case 'b':
			compare(kind, unix.BPF_DEVCG_DEV_BLOCK)
		case 'c':
			compare(kind, unix.BPF_DEVCG_DEV_CHAR)
		}
		if d.major >= 0 {
			compare(major, uint32(d.major))
		}
		if d.minor >= 0 {
			compare(minor, uint32(d.minor))
		}
		prog = append(prog, op(jumpNotEqual, differ, 0, int16(len(test)+len(verdict)), 0))
		prog = append(append(prog, test...), verdict...)
		if d.all() {
			break // this one decides everything, whatever older rules say
		}
	}
	return append(prog, decide(0)...)
}

// attachDevices puts the rules on a cgroup; on one that existed, in the place of others.
func attachDevices(dir string, list []device, replace bool) error {
	fd, err := open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("cgroup %s: %w", dir, err)
	}
	defer unix.Close(fd)
	var old []uint32
	if replace {
		if old, err = attached(fd); err != nil {
			return fmt.Errorf("cgroup %s: which device programs are attached: %w", dir, err)
		}
	}
	prog, err := loadProgram(deviceProgram(list))
	if err != nil {
		return fmt.Errorf("cgroup %s: load the device program: %w", dir, err)
	}
	defer unix.Close(prog)
	attr := struct{ target, prog, kind, flags uint32 }{uint32(fd), uint32(prog), unix.BPF_CGROUP_DEVICE, unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("cgroup %s: attach the device program: %w", dir, err)
	}
	// All attached programs must agree, so the new one is there before the old ones go.
	for _, id := range old {
		if err := detach(fd, id); err != nil {
			return fmt.Errorf("cgroup %s: detach the device program %d: %w", dir, id, err)
		}
	}
	return nil
}

func loadProgram(prog []instruction) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := struct {
		kind, count     uint32
		insns, license  uint64
		logLevel, size  uint32
		log             uint64
		version, flags  uint32
		name            [16]byte
		ifindex, attach uint32
	}{
		kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(prog)),
		insns: uint64(uintptr(unsafe.Pointer(&prog[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		name: [16]byte{'t', 'h', 'i', 'n', 'r', 'u', 'n', '_', 'd', 'e', 'v'}, attach: unix.BPF_CGROUP_DEVICE,
	}
	// The kernel reads through numbers that the garbage collector does not see.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&prog[0])
	pin.Pin(&license[0])
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == nil || errors.Is(err, unix.EPERM) {
		return fd, err
	}
	// Once more, for the verifier's reason.
	log := make([]byte, 64<<10)
	pin.Pin(&log[0])
	attr.logLevel, attr.size, attr.log = 1, uint32(len(log)), uint64(uintptr(unsafe.Pointer(&log[0])))
	fd, err = bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err == nil {
		return fd, nil
	}
	lines := strings.Split(strings.TrimSpace(unix.ByteSliceToString(log)), "\n")
	return -1, fmt.Errorf("%w (verifier: %s)", err, lines[len(lines)-1])
}

// attached are the ids of the cgroup's own device programs.
func attached(cgroup int) ([]uint32, error) {
	ids := make([]uint32, 64) // a cgroup cannot have more
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&ids[0])
	attr := struct {
		target, kind, query, flags uint32
		ids                        uint64
		count, _                   uint32
		// Linux 6.17 writes revision, the last one, whatever size it is told.
		_, _, _, _ uint64
	}{target: uint32(cgroup), kind: unix.BPF_CGROUP_DEVICE, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids))}
	if _, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return nil, err
	}
	return ids[:min(int(attr.count), len(ids))], nil
}

func detach(cgroup int, id uint32) error {
	get := struct{ id, next, flags uint32 }{id: id}
	prog, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(prog)
	attr := struct{ target, prog, kind, flags uint32 }{uint32(cgroup), uint32(prog), unix.BPF_CGROUP_DEVICE, 0}
	_, err = bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

// bpf is bpf(2). EAGAIN: the verifier saw a signal pending; the next try may be lucky.
func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for range math.MaxInt8 {
		r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		if errno == 0 {
			return int(r), nil
		}
		if errno != unix.EAGAIN && errno != unix.EINTR {
			return -1, errno
		}
	}
	return -1, unix.EAGAIN
}
