package seccomp

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
)

// packet is struct seccomp_data as a packet for the BPF machine, whose loads are big endian.
type packet struct {
	arch, nr uint32
	args     [6]uint64
}

func (p packet) bytes(big bool) []byte {
	b := binary.BigEndian.AppendUint32(nil, p.nr)
	b = binary.BigEndian.AppendUint32(b, p.arch)
	b = append(b, make([]byte, 8)...)
	for _, arg := range p.args {
		hi, lo := uint32(arg>>32), uint32(arg)
		if big {
			hi, lo = lo, hi
		}
		b = binary.BigEndian.AppendUint32(b, lo)
		b = binary.BigEndian.AppendUint32(b, hi)
	}
	return b
}

// machine runs filters with golang.org/x/net/bpf.
type machine struct{ vm *bpf.VM }

func newMachine(t testing.TB, p *Program) machine {
	t.Helper()
	raw := make([]bpf.RawInstruction, 0, len(p.Filter)/8)
	for f := p.Filter; len(f) > 0; f = f[8:] {
		raw = append(raw, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(f), Jt: f[2], Jf: f[3], K: binary.NativeEndian.Uint32(f[4:]),
		})
	}
	prog, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter has instructions that golang.org/x/net/bpf does not know")
	}
	vm, err := bpf.NewVM(prog)
	if err != nil {
		t.Fatal(err)
	}
	return machine{vm}
}

func (m machine) run(t testing.TB, p packet, big bool) uint32 {
	t.Helper()
	v, err := m.vm.Run(p.bytes(big))
	if err != nil {
		t.Fatal(err)
	}
	return uint32(v)
}
