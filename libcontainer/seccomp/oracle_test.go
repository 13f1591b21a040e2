package seccomp

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// An oracle answers by reading the section from the top, with 64-bit arithmetic and none
// of the compiler's tables or code, except for the order in which clauses are tried
// (TestSameDecisionsAsLibseccomp has that).
type oracle struct {
	def, beyond uint32
	goarch      string
	abis        []abi
	last        []uint32
	clauses     []map[uint32][]clause // in the profile's order
}

func newOracle(t testing.TB, cfg *Config, goarch string) *oracle {
	t.Helper()
	o := &oracle{goarch: goarch}
	var err error
	if o.def, _, err = verdict(cfg.DefaultAction, cfg.DefaultErrnoRet); err != nil {
		t.Fatal(err)
	}
	o.beyond = enosys
	if a := cfg.DefaultAction; a == "SCMP_ACT_ALLOW" || a == "SCMP_ACT_LOG" || a == "SCMP_ACT_TRACE" {
		o.beyond = o.def
	}
	if o.abis, err = abis(cfg.Architectures, goarch); err != nil {
		t.Fatal(err)
	}
	o.last = make([]uint32, len(o.abis))
	for n, on := range o.abis {
		numbers := map[string]uint32{}
		for _, c := range table {
			if c.nr[on.column] >= 0 {
				numbers[c.name] = on.base + uint32(c.nr[on.column])
			}
		}
		clauses := map[uint32][]clause{}
		for i, r := range cfg.Syscalls {
			v, _, err := verdict(r.Action, r.ErrnoRet)
			if err != nil {
				t.Fatal(err)
			}
			sets := [][]Arg{r.Args}
			if repeats(r.Args) {
				sets = nil
				for _, a := range r.Args {
					sets = append(sets, []Arg{a})
				}
			}
			for _, name := range r.Names {
				nr, ok := numbers[name]
				if ok {
					o.last[n] = max(o.last[n], nr)
				} else if on.column == colARM && armCall(name) != 0 {
					nr, ok = armCall(name), true
				}
				if v == o.def {
					continue
				}
				for _, set := range sets {
					if mux, op := multiplexed(name); on.mux && mux != 0 {
						muxed := []Arg{{Index: 0, Op: "SCMP_CMP_EQ", Value: op}}
						for _, a := range set {
							if a.Index != 0 {
								muxed = append(muxed, a)
							}
						}
						clauses[mux] = append(clauses[mux], clause{plain(muxed, on), v, i})
					}
					if ok {
						clauses[nr] = append(clauses[nr], clause{plain(set, on), v, i})
					}
				}
			}
		}
		o.clauses = append(o.clauses, clauses)
	}
	return o
}

func repeats(args []Arg) bool {
	indices := map[uint]bool{}
	for _, a := range args {
		indices[a.Index] = true
	}
	return len(indices) < len(args)
}

func (o *oracle) decide(t testing.TB, p packet) uint32 {
	t.Helper()
	for n, on := range o.abis {
		if on.audit != p.arch || on.audit == unix.AUDIT_ARCH_X86_64 && (on.base != 0) != (p.nr >= x32Bit) {
			continue
		}
		for _, c := range o.clauses[n][p.nr] {
			if len(c.conds) == 0 {
				return c.verdict
			}
		}
		order, err := arrange(o.clauses[n][p.nr], on.narrow)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range order {
			all := true
			for _, cond := range c.conds {
				all = all && holds(cond, p.args[cond.arg], on.narrow)
			}
			if all {
				return c.verdict
			}
		}
		private := on.column == colARM && p.nr >= armPrivate && p.nr < armPrivate+armPrivateSize
		if o.last[n] != 0 && p.nr > o.last[n] && !private {
			return o.beyond
		}
		return o.def
	}
	if o.goarch == "amd64" && p.arch == unix.AUDIT_ARCH_X86_64 && p.nr == ^uint32(0) {
		return o.def
	}
	return unix.SECCOMP_RET_KILL_THREAD
}

// number finds a call's number for random.call.
func number(name string, on abi) (uint32, bool) {
	if at := lookup(name, -1); at >= 0 && table[at].nr[on.column] >= 0 {
		return on.base + uint32(table[at].nr[on.column]), true
	}
	return armCall(name), on.column == colARM && armCall(name) != 0
}

// plain returns the conditions in the order of the arguments, without the ones that say nothing.
func plain(args []Arg, on abi) []cond {
	var conds []cond
	for index := range uint(6) {
		for _, a := range args {
			if a.Index != index {
				continue
			}
			c, _ := condOf(a)
			if on.narrow {
				c.mask |= 0xffffffff00000000
				c.value = uint64(uint32(c.value))
			}
			if c.op == cmpMaskedEQ && (c.mask == 0 || on.narrow && uint32(c.mask) == 0) {
				continue
			}
			conds = append(conds, c)
		}
	}
	return conds
}

func holds(c cond, x uint64, narrow bool) bool {
	if narrow {
		x = uint64(uint32(x))
	}
	switch c.op {
	case cmpNE:
		return x != c.value
	case cmpLT:
		return x < c.value
	case cmpLE:
		return x <= c.value
	case cmpEQ:
		return x == c.value
	case cmpGE:
		return x >= c.value
	case cmpGT:
		return x > c.value
	}
	return x&c.mask == c.value
}

// random makes profiles: wide ones with hundreds of names, and deep ones with hundreds
// of conditions, whose programs need jumps beyond 255 instructions.
type random struct{ *rand.Rand }

func pick[T any](r random, list ...T) T { return list[r.IntN(len(list))] }

func (r random) value() uint64 {
	v := pick[uint64](r, 0, 1, 5, 0x7fffffff, 0x80000000, 0xffffffff, 1<<32, 1<<32+5, 2<<32+5, 1<<63, ^uint64(0), r.Uint64(), r.Uint64N(64))
	return v + pick[uint64](r, 0, 0, 0, 1, ^uint64(0))
}

func (r random) config(goarch string) *Config {
	cfg := &Config{DefaultAction: pick(r, "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ALLOW", "SCMP_ACT_TRAP", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")}
	if r.IntN(3) == 0 {
		cfg.DefaultErrnoRet = pick(r, new(uint), ptr(38), ptr(7))
	}
	for _, name := range runnable(goarch) {
		if a, _ := abiOf(name); a.column >= 0 && r.IntN(4) > 0 {
			cfg.Architectures = append(cfg.Architectures, name)
		}
	}
	wide, deep := pick(r, 0, 3, 30, 400), pick(r, 0, 1, 5, 60, 200)
	name := func() string {
		if r.IntN(20) == 0 {
			return pick(r, "no_such_call", "set_tls", "breakpoint")
		}
		return table[r.IntN(len(table))].name
	}
	if wide > 0 {
		rule := Rule{Action: pick(r, "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO")}
		for range wide {
			rule.Names = append(rule.Names, name())
		}
		cfg.Syscalls = append(cfg.Syscalls, rule)
	}
	actions := []string{pick(r, "SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_ERRNO")}
	if deep < 100 {
		actions = []string{"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE", "SCMP_ACT_ERRNO"}
	}
	few := []string{name(), name(), name(), "socket", "semget", "read"}
	for range deep {
		rule := Rule{Names: []string{pick(r, few...)}, Action: pick(r, actions...)}
		if deep < 100 && r.IntN(3) == 0 {
			rule.ErrnoRet = ptr(uint(r.IntN(4096)))
		}
		for range 1 + r.IntN(3) {
			rule.Args = append(rule.Args, Arg{
				Index: uint(r.IntN(6)), Value: r.value(), ValueTwo: r.value(),
				Op: pick(r, "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"),
			})
		}
		cfg.Syscalls = append(cfg.Syscalls, rule)
	}
	return cfg
}

func ptr(v uint) *uint { return &v }

// call makes a system call that has something to do with the profile.
func (r random) call(cfg *Config, goarch string) packet {
	on, _ := abiOf(pick(r, runnable(goarch)...))
	p := packet{arch: on.audit}
	if on.column < 0 {
		p.arch, on.column = 0x12345678, 0
	}
	switch r.IntN(8) {
	case 0:
		p.nr = pick(r, r.Uint32(), ^uint32(0), x32Bit|r.Uint32N(600), x32Bit-1, armPrivate+r.Uint32N(10), 1<<31)
	case 1, 2:
		p.nr = on.base + r.Uint32N(500)
	default:
		p.nr = on.base + pick[uint32](r, nrSocketcall, nrIPC)
		if len(cfg.Syscalls) > 0 {
			if nr, ok := number(pick(r, pick(r, cfg.Syscalls...).Names...), on); ok {
				p.nr = nr + pick[uint32](r, 0, 0, 0, 0, 1, ^uint32(0))
			}
		}
	}
	for i := range p.args {
		p.args[i] = r.value()
	}
	if len(cfg.Syscalls) > 0 {
		for _, a := range pick(r, cfg.Syscalls...).Args {
			p.args[a.Index] = pick(r, a.Value, a.Value+1, a.Value-1, a.Value&a.ValueTwo, a.Value&a.ValueTwo|^a.Value, a.Value^1<<32)
		}
	}
	if nrMux := p.nr == nrSocketcall || p.nr == nrIPC; nrMux && on.mux {
		p.args[0] = r.Uint64N(26)
	}
	return p
}

func TestRandomProfilesDecideAsTheSectionSays(t *testing.T) {
	calls, long, refused := 0, 0, 0
	for seed := range uint64(1500) {
		r := random{rand.New(rand.NewPCG(seed, 2))}
		goarch := pick(r, "amd64", "amd64", "amd64", "arm64", "arm64", "riscv64", "ppc64le", "s390x", "loong64")
		cfg := r.config(goarch)
		p, err := compile(cfg, goarch)
		if err != nil {
			refused++ // rules that contradict each other: TestSameDecisionsAsLibseccomp
			continue
		}
		if len(p.Filter)/8 > 512 {
			long++
		}
		m, o := newMachine(t, p), newOracle(t, cfg, goarch)
		for range 100 {
			call := r.call(cfg, goarch)
			got, want := m.run(t, call, goarch == "s390x"), o.decide(t, call)
			if got != want {
				t.Fatalf("seed %d, %s: arch %#x nr %#x args %#x: got %#x, want %#x\n%s", seed, goarch, call.arch, call.nr, call.args, got, want, show(*cfg))
			}
			calls++
		}
	}
	t.Logf("%d calls, %d long programs, %d refused", calls, long, refused)
	if calls < 100000 || long < 50 || refused > 200 {
		t.Errorf("%d calls, %d long programs, %d refused: the profiles are not what this test is for", calls, long, refused)
	}
}

func TestDefaultProfileDecidesEveryCallAsTheSectionSays(t *testing.T) {
	for name, cfg := range map[string]*Config{
		"docker.json":       loadDocker(t),
		"default":           Default(defaultCaps),
		"no capabilities":   Default(0),
		"every capability":  Default(^uint64(0)),
		"no rules":          {DefaultAction: "SCMP_ACT_ERRNO"},
		"no rules, allowed": {DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_X86_64"}},
	} {
		for _, goarch := range []string{"amd64", "arm64"} {
			t.Run(fmt.Sprint(name, " ", goarch), func(t *testing.T) {
				cfg := *cfg
				if cfg.Architectures != nil {
					cfg.Architectures = runnable(goarch)
				}
				p, err := compile(&cfg, goarch)
				if err != nil {
					t.Fatal(err)
				}
				m, o := newMachine(t, p), newOracle(t, &cfg, goarch)
				for _, name := range runnable(goarch) {
					on, _ := abiOf(name)
					for n := range uint32(1100) {
						for _, arg := range []uint64{0, 2, 8, 37, 38, 39, 40, 41, 0x20000, 0x20008, 0xffffffff, 1 << 32, unix.CLONE_NEWUSER, unix.CLONE_VM} {
							call := packet{arch: on.audit, nr: on.base + n, args: [6]uint64{arg, arg}}
							if got, want := m.run(t, call, false), o.decide(t, call); got != want {
								t.Fatalf("%s nr %d args %#x: got %#x, want %#x", name, call.nr, call.args, got, want)
							}
						}
					}
				}
			})
		}
	}
}
