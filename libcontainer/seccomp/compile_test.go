package seccomp

import (
	"encoding/json"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"thinrun/libcontainer/wire/wiretest"
)

// loadDocker reads Docker's default profile as dockerd 28 renders it for x86-64 and its
// default capabilities (github.com/moby/profiles/seccomp v0.2.3).
func loadDocker(t testing.TB) *Config {
	t.Helper()
	b, err := os.ReadFile("testdata/docker.json")
	if err != nil {
		t.Fatal(err)
	}
	cfg := new(Config)
	if err := json.Unmarshal(b, cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// TestDefaultIsDockers: our profile for Docker's capabilities and Docker's own give the
// same program.
func TestDefaultIsDockers(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("testdata/docker.json is for amd64")
	}
	ours, err := Compile(Default(defaultCaps))
	if err != nil {
		t.Fatal(err)
	}
	dockers, err := Compile(loadDocker(t))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(ours, dockers) {
		t.Errorf("%d and %d instructions that differ", len(ours.Filter)/8, len(dockers.Filter)/8)
	}
	if n := len(ours.Filter) / 8; n > 300 {
		t.Errorf("%d instructions; it was 264", n)
	}
}

// TestErrorsNameTheField: what a user reads.
func TestErrorsNameTheField(t *testing.T) {
	rule := func(r Rule) *Config {
		return &Config{DefaultAction: "SCMP_ACT_ALLOW", Syscalls: []Rule{{Names: []string{"read"}, Action: "SCMP_ACT_ALLOW"}, r}}
	}
	for name, c := range map[string]struct {
		cfg  *Config
		want string
	}{
		"default action": {&Config{DefaultAction: "SCMP_ACT_MAYBE"}, `linux.seccomp.defaultAction: "SCMP_ACT_MAYBE" is not an action (SCMP_ACT_*)`},
		"default errno":  {&Config{DefaultAction: "SCMP_ACT_ERRNO", DefaultErrnoRet: ptr(4096)}, `linux.seccomp.defaultErrnoRet: 4096 is not an errno (at most 4095)`},
		"default notify": {&Config{DefaultAction: "SCMP_ACT_NOTIFY", ListenerPath: "/s"}, `linux.seccomp.defaultAction: SCMP_ACT_NOTIFY would also stop the write that reports the listener`},
		"action":         {rule(Rule{Names: []string{"open"}, Action: "ALLOW"}), `linux.seccomp.syscalls[1].action: "ALLOW" is not an action (SCMP_ACT_*)`},
		"errno":          {rule(Rule{Names: []string{"open"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: ptr(1 << 40)}), `linux.seccomp.syscalls[1].errnoRet: 1099511627776 is not an errno (at most 4095)`},
		"trace":          {rule(Rule{Names: []string{"open"}, Action: "SCMP_ACT_TRACE", ErrnoRet: ptr(1 << 16)}), `linux.seccomp.syscalls[1].errnoRet: 65536 does not fit the tracer's message (at most 65535)`},
		"name":           {rule(Rule{Names: []string{"open", ""}, Action: "SCMP_ACT_ERRNO"}), `linux.seccomp.syscalls[1].names[1]: empty`},
		"operator":       {rule(Rule{Names: []string{"no_such"}, Action: "SCMP_ACT_ERRNO", Args: []Arg{{Op: "=="}}}), `linux.seccomp.syscalls[1].args[0].op: "==" is not an operator (SCMP_CMP_*)`},
		"index":          {rule(Rule{Names: []string{"open"}, Action: "SCMP_ACT_ERRNO", Args: []Arg{{Op: "SCMP_CMP_EQ"}, {Index: 6, Op: "SCMP_CMP_EQ"}}}), `linux.seccomp.syscalls[1].args[1].index: 6 is above 5, the last argument`},
		"notify write":   {rule(Rule{Names: []string{"write"}, Action: "SCMP_ACT_NOTIFY"}), `linux.seccomp.syscalls[1].action: SCMP_ACT_NOTIFY is not possible for write, which reports the listener`},
		"no listener":    {rule(Rule{Names: []string{"open"}, Action: "SCMP_ACT_NOTIFY"}), `linux.seccomp.listenerPath: missing, linux.seccomp.syscalls[1] has SCMP_ACT_NOTIFY`},
		"metadata":       {&Config{DefaultAction: "SCMP_ACT_ALLOW", ListenerMetadata: "x"}, `linux.seccomp.listenerMetadata: set without a listenerPath`},
		"flag":           {&Config{DefaultAction: "SCMP_ACT_ALLOW", Flags: []string{"SECCOMP_FILTER_FLAG_LOG", "X"}}, `linux.seccomp.flags[1]: "X" is not a flag (SECCOMP_FILTER_FLAG_*)`},
		"killable":       {&Config{DefaultAction: "SCMP_ACT_ALLOW", Flags: []string{"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}}, `linux.seccomp.flags[0]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY`},
		"architecture":   {&Config{DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_X86_64", "amd64"}}, `linux.seccomp.architectures[1]: "amd64" is not an architecture (SCMP_ARCH_*)`},
		"byte order":     {&Config{DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_S390X"}}, `linux.seccomp.architectures[0]: SCMP_ARCH_S390X has another byte order than this machine`},
		"contradiction": {&Config{DefaultAction: "SCMP_ACT_KILL", Syscalls: []Rule{
			{Names: []string{"clone"}, Action: "SCMP_ACT_ALLOW", Args: []Arg{{Op: "SCMP_CMP_EQ", Value: 1}}},
			{Names: []string{"read", "clone"}, Action: "SCMP_ACT_ERRNO", Args: []Arg{{Op: "SCMP_CMP_EQ", Value: 1}}},
		}}, `linux.seccomp.syscalls[1]: clone (SCMP_ARCH_X86_64): the same arguments have another action in linux.seccomp.syscalls[0]`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := compile(c.cfg, "amd64")
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
	if _, err := compile(&Config{DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_S390"}}, "s390x"); err == nil || err.Error() != `linux.seccomp.architectures[0]: no system call table for SCMP_ARCH_S390` {
		t.Errorf("s390: %v", err)
	}
	if _, err := compile(&Config{DefaultAction: "SCMP_ACT_ALLOW"}, "mips"); err == nil || err.Error() != `linux.seccomp: no system call table for mips` {
		t.Errorf("mips: %v", err)
	}
}

func TestTooLongAProgramIsRefused(t *testing.T) {
	cfg := &Config{DefaultAction: "SCMP_ACT_ALLOW"}
	for i := range uint64(1500) {
		cfg.Syscalls = append(cfg.Syscalls, Rule{Names: []string{"ioctl"}, Action: "SCMP_ACT_ERRNO", Args: []Arg{{Index: 1, Op: "SCMP_CMP_EQ", Value: i << 32}}})
	}
	_, err := compile(cfg, "amd64")
	if err == nil || !strings.HasPrefix(err.Error(), "linux.seccomp: the filter needs ") || !strings.HasSuffix(err.Error(), " instructions and the kernel takes 4096; use fewer rules with args") {
		t.Errorf("got %v", err)
	}
	// Values of one high word cost one instruction each.
	for i := range cfg.Syscalls {
		cfg.Syscalls[i].Args[0].Value = uint64(i)
	}
	p, err := compile(cfg, "amd64")
	if err != nil || len(p.Filter)/8 > 1600 {
		t.Errorf("got %v, %d instructions", err, len(p.Filter)/8)
	}
}

func TestFlags(t *testing.T) {
	const p = "SECCOMP_FILTER_FLAG_"
	notify := []Rule{{Names: []string{"mount"}, Action: "SCMP_ACT_NOTIFY"}}
	for name, c := range map[string]struct {
		flags []string
		rules []Rule
		want  uint64
	}{
		"absent":          {nil, nil, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		"empty":           {[]string{}, nil, 0},
		"tsync":           {[]string{p + "TSYNC"}, nil, 0},
		"log, spec":       {[]string{p + "LOG", p + "SPEC_ALLOW"}, nil, unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		"notify":          {[]string{}, notify, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
		"notify killable": {[]string{p + "WAIT_KILLABLE_RECV"}, notify, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Compile(&Config{DefaultAction: "SCMP_ACT_ALLOW", Flags: c.flags, Syscalls: c.rules, ListenerPath: "/run/agent"})
			if err != nil {
				t.Fatal(err)
			}
			if got.Flags != c.want || got.Notify != (c.rules != nil) {
				t.Errorf("got %#x, notify %v; want %#x", got.Flags, got.Notify, c.want)
			}
		})
	}
}

// TestUnknownCallsGetENOSYS: above the newest call that the profile names, and only
// where the default is not to let through.
func TestUnknownCallsGetENOSYS(t *testing.T) {
	const eperm = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	const x86 = unix.AUDIT_ARCH_X86_64
	old := []Rule{{Names: []string{"read", "getrandom", "no_such_call"}, Action: "SCMP_ACT_ALLOW"}} // getrandom: 318, 355 on i386
	for name, c := range map[string]struct {
		action   string
		archs    []string
		rules    []Rule
		arch, nr uint32
		want     uint32
	}{
		"known, below":     {"SCMP_ACT_ERRNO", nil, old, x86, 317, eperm},
		"the newest":       {"SCMP_ACT_ERRNO", nil, old, x86, 318, unix.SECCOMP_RET_ALLOW},
		"above":            {"SCMP_ACT_ERRNO", nil, old, x86, 319, enosys},
		"above, kill":      {"SCMP_ACT_KILL_PROCESS", nil, old, x86, 319, enosys},
		"above, trap":      {"SCMP_ACT_TRAP", nil, old, x86, 319, enosys},
		"above, log":       {"SCMP_ACT_LOG", nil, old, x86, 319, unix.SECCOMP_RET_LOG},
		"above, trace":     {"SCMP_ACT_TRACE", nil, old, x86, 319, unix.SECCOMP_RET_TRACE | 1},
		"own newest, i386": {"SCMP_ACT_ERRNO", []string{"SCMP_ARCH_X86"}, old, unix.AUDIT_ARCH_I386, 354, eperm},
		"above, i386":      {"SCMP_ACT_ERRNO", []string{"SCMP_ARCH_X86"}, old, unix.AUDIT_ARCH_I386, 356, enosys},
		"i386 not named":   {"SCMP_ACT_ERRNO", nil, old, unix.AUDIT_ARCH_I386, 3, unix.SECCOMP_RET_KILL_THREAD},
		"x32 not named":    {"SCMP_ACT_ERRNO", nil, old, x86, x32Bit, unix.SECCOMP_RET_KILL_THREAD},
		"x32 allowed?":     {"SCMP_ACT_ALLOW", nil, nil, x86, x32Bit + 1, unix.SECCOMP_RET_KILL_THREAD},
		"x32":              {"SCMP_ACT_ERRNO", []string{"SCMP_ARCH_X32"}, old, x86, x32Bit, unix.SECCOMP_RET_ALLOW},
		"above, x32":       {"SCMP_ACT_ERRNO", []string{"SCMP_ARCH_X32"}, old, x86, x32Bit + 319, enosys},
		"skipped":          {"SCMP_ACT_ERRNO", nil, old, x86, ^uint32(0), eperm},
		"no rules":         {"SCMP_ACT_ERRNO", nil, nil, x86, 319, eperm},
		"redundant rule":   {"SCMP_ACT_ERRNO", nil, []Rule{{Names: []string{"openat2"}, Action: "SCMP_ACT_ERRNO"}}, x86, 436, eperm},
		"after redundant":  {"SCMP_ACT_ERRNO", nil, []Rule{{Names: []string{"openat2"}, Action: "SCMP_ACT_ERRNO"}}, x86, 438, enosys},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := compile(&Config{DefaultAction: c.action, Architectures: c.archs, Syscalls: c.rules}, "amd64")
			if err != nil {
				t.Fatal(err)
			}
			if got := newMachine(t, p).run(t, packet{arch: c.arch, nr: c.nr}, false); got != c.want {
				t.Errorf("got %#x, want %#x", got, c.want)
			}
		})
	}
}

// TestTableIsInOrder: lookup bisects, and a slot must exist for every number.
func TestTableIsInOrder(t *testing.T) {
	for i := range table {
		if i > 0 && table[i-1].name >= table[i].name {
			t.Errorf("%q is not after %q", table[i].name, table[i-1].name)
		}
		for _, nr := range table[i].nr {
			if nr < -1 || nr >= ordinary {
				t.Errorf("%s: number %d", table[i].name, nr)
			}
		}
		for _, last := range []int{-1, max(-1, i-3), i, len(table) - 1} {
			if lookup(table[i].name, last) != i {
				t.Errorf("%s: not found after %d", table[i].name, last)
			}
		}
	}
	for _, name := range []string{"", "zzz", "read ", "rea", "AAA"} {
		if at := lookup(name, -1); at != -1 {
			t.Errorf("%q: found at %d", name, at)
		}
	}
}

func TestTableKnowsTheseNumbers(t *testing.T) {
	for _, c := range []struct {
		name   string
		column int
		want   int16
	}{
		{"openat2", colAMD64, 437}, {"openat2", col386, 437}, {"openat2", colARM64, 437}, {"openat2", colX32, 437},
		{"execve", colAMD64, 59}, {"execve", col386, 11}, {"execve", colX32, 520}, {"execve", colARM64, 221}, {"execve", colARM, 11},
		{"rt_sigreturn", colX32, 513}, {"socketcall", col386, 102}, {"socketcall", colAMD64, -1}, {"open", colARM64, -1},
		{"uretprobe", colAMD64, 335}, {"uretprobe", colX32, -1}, {"map_shadow_stack", colX32, -1}, {"umount", col386, 22},
		{"riscv_flush_icache", colRISCV64, 259}, {"listns", colAMD64, 470},
	} {
		if got := table[lookup(c.name, -1)].nr[c.column]; got != c.want {
			t.Errorf("%s, column %d: %d, want %d", c.name, c.column, got, c.want)
		}
	}
}

func TestProgramSurvivesTheWire(t *testing.T) { wiretest.RoundTrip(t, (*Program).Code) }

// TestFeaturesAreTrue: what the features command says, Compile takes.
func TestFeaturesAreTrue(t *testing.T) {
	for _, action := range Actions() {
		if _, _, err := verdict(action, nil); err != nil {
			t.Error(err)
		}
	}
	for _, op := range Operators() {
		if _, ok := operatorOf(op); !ok {
			t.Errorf("%s is not known", op)
		}
	}
	for _, arch := range Architectures() {
		if a, known := abiOf(arch); !known || a.column < 0 {
			t.Errorf("%s is not known", arch)
		}
	}
	if len(Architectures()) != columns || len(Operators()) != int(cmpMaskedEQ)+1 {
		t.Errorf("%d architectures, %d operators", len(Architectures()), len(Operators()))
	}
	for _, flag := range Flags() {
		if _, ok := flagOf(flag); !ok {
			t.Errorf("%s is not known", flag)
		}
	}
	// Linux 4.17 has all but the last one, which is of 5.19.
	if got := SupportedFlags(); len(got) < 3 || !slices.Equal(got, Flags()[:len(got)]) {
		t.Errorf("supported: %q", got)
	}
}
