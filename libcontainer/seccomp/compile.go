package seccomp

import (
	"cmp"
	"fmt"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// maxInstructions is what the kernel takes in one filter (BPF_MAXINSNS).
const maxInstructions = 4096

// enosys is the answer to calls that the profile's author could not know. Programs try
// a new call, see ENOSYS and fall back; EPERM would make them give up.
const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

// Compile turns the section into a filter for this machine.
func Compile(cfg *Config) (*Program, error) { return compile(cfg, runtime.GOARCH) }

func compile(cfg *Config, goarch string) (*Program, error) {
	list, err := abis(cfg.Architectures, goarch)
	if err != nil {
		return nil, err
	}
	prof, err := parse(cfg)
	if err != nil {
		return nil, err
	}
	spaces := make([]space, len(list))
	for i := range list {
		spaces[i].abi = list[i]
	}
	prof.resolve(spaces)

	a := &assembler{code: make([]unix.SockFilter, 0, 512)}
	// An architecture that the profile does not name, or x32 on an x86-64 that does not
	// name it, is another table of numbers: answering with the wrong one would be a hole.
	next := give(unix.SECCOMP_RET_KILL_THREAD)
	var chains []chain
	for end := len(spaces); end > 0; {
		start := end - 1
		for start > 0 && spaces[start-1].abi.audit == spaces[end-1].abi.audit {
			start--
		}
		runs, err := prof.runs(a, spaces[start:end], &chains)
		if err != nil {
			return nil, err
		}
		root := runs[0].to
		if len(runs) > 1 {
			a.approach(a.search(runs))
			root = a.load(offNr)
		}
		next = a.branch(opEqual, spaces[start].abi.audit, root, next)
		end = start
	}
	a.load(offArch)
	if len(a.code) > maxInstructions {
		return nil, tooLong(len(a.code))
	}
	return &Program{Filter: a.bytes(), Flags: prof.flags, Notify: prof.notify}, nil
}

func tooLong(n int) error {
	return fmt.Errorf("linux.seccomp: the filter needs %d instructions and the kernel takes %d; use fewer rules with args", n, maxInstructions)
}

// profile is the section, understood.
type profile struct {
	action uint32 // the default
	enosys bool   // unknown calls get ENOSYS
	rules  []rule
	flags  uint64
	notify bool
	links  []link
}

// rule is an entry of syscalls; with alternatives, each is a rule of its own.
type rule struct {
	at           int // index in linux.seccomp.syscalls
	names        []string
	verdict      uint32
	redundant    bool // says what the default says
	alternatives [][]cond
	narrow       [][]cond // the same for 32-bit arguments
}

func parse(cfg *Config) (*profile, error) {
	p := &profile{rules: make([]rule, 0, len(cfg.Syscalls))}
	var field string
	var err error
	if p.action, field, err = verdict(cfg.DefaultAction, cfg.DefaultErrnoRet); err != nil {
		if field == "action" {
			field = "defaultAction"
		} else {
			field = "defaultErrnoRet"
		}
		return nil, fmt.Errorf("linux.seccomp.%s: %w", field, err)
	}
	switch p.action & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_USER_NOTIF:
		return nil, fmt.Errorf("linux.seccomp.defaultAction: SCMP_ACT_NOTIFY would also stop the write that reports the listener")
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		// The kernel itself, or the tracer, answers for what it does not know.
	default:
		p.enosys = true
	}
	for i := range cfg.Syscalls {
		r, err := parseRule(&cfg.Syscalls[i])
		if err != nil {
			return nil, fmt.Errorf("linux.seccomp.syscalls[%d]%w", i, err)
		}
		r.at = i
		r.redundant = r.verdict == p.action
		if r.verdict == unix.SECCOMP_RET_USER_NOTIF {
			if cfg.ListenerPath == "" {
				return nil, fmt.Errorf("linux.seccomp.listenerPath: missing, linux.seccomp.syscalls[%d] has SCMP_ACT_NOTIFY", i)
			}
			p.notify = true
		}
		p.rules = append(p.rules, r)
	}
	if cfg.ListenerMetadata != "" && cfg.ListenerPath == "" {
		return nil, fmt.Errorf("linux.seccomp.listenerMetadata: set without a listenerPath")
	}
	p.flags, err = flags(cfg.Flags, p.notify)
	return p, err
}

func parseRule(c *Rule) (rule, error) {
	r := rule{names: c.Names}
	var field string
	var err error
	if r.verdict, field, err = verdict(c.Action, c.ErrnoRet); err != nil {
		return r, fmt.Errorf(".%s: %w", field, err)
	}
	for i, name := range c.Names {
		if name == "" {
			return r, fmt.Errorf(".names[%d]: empty", i)
		}
		if name == "write" && r.verdict == unix.SECCOMP_RET_USER_NOTIF {
			return r, fmt.Errorf(".action: SCMP_ACT_NOTIFY is not possible for write, which reports the listener")
		}
	}
	conds := make([]cond, 0, len(c.Args))
	seen, twice := [6]bool{}, false
	for i, arg := range c.Args {
		cond, ok := condOf(arg)
		if !ok {
			return r, fmt.Errorf(".args[%d].op: %q is not an operator (SCMP_CMP_*)", i, arg.Op)
		}
		if arg.Index >= uint(len(seen)) {
			return r, fmt.Errorf(".args[%d].index: %d is above 5, the last argument", i, arg.Index)
		}
		twice = twice || seen[arg.Index]
		seen[arg.Index] = true
		conds = append(conds, cond)
	}
	if twice {
		for i := range conds {
			r.add(conds[i : i+1])
		}
		return r, nil
	}
	slices.SortFunc(conds, func(a, b cond) int { return cmp.Compare(a.arg, b.arg) })
	r.add(conds)
	return r, nil
}

func (r *rule) add(conds []cond) {
	r.alternatives = append(r.alternatives, fit(conds, false))
	r.narrow = append(r.narrow, fit(conds, true))
}

// verdict returns the value that a filter returns for an action, or which of the two
// JSON fields is wrong.
func verdict(action string, errnoRet *uint) (value uint32, field string, err error) {
	data := uint32(unix.EPERM)
	if errnoRet != nil {
		data = uint32(min(*errnoRet, 1<<16))
	}
	switch action {
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return unix.SECCOMP_RET_KILL_THREAD, "", nil
	case "SCMP_ACT_KILL_PROCESS":
		return unix.SECCOMP_RET_KILL_PROCESS, "", nil
	case "SCMP_ACT_TRAP":
		return unix.SECCOMP_RET_TRAP, "", nil
	case "SCMP_ACT_ERRNO":
		// MAX_ERRNO: above it the kernel would answer with another number.
		if data > 4095 {
			return 0, "errnoRet", fmt.Errorf("%d is not an errno (at most 4095)", *errnoRet)
		}
		return unix.SECCOMP_RET_ERRNO | data, "", nil
	case "SCMP_ACT_TRACE":
		if data > 0xffff {
			return 0, "errnoRet", fmt.Errorf("%d does not fit the tracer's message (at most 65535)", *errnoRet)
		}
		return unix.SECCOMP_RET_TRACE | data, "", nil
	case "SCMP_ACT_LOG":
		return unix.SECCOMP_RET_LOG, "", nil
	case "SCMP_ACT_ALLOW":
		return unix.SECCOMP_RET_ALLOW, "", nil
	case "SCMP_ACT_NOTIFY":
		return unix.SECCOMP_RET_USER_NOTIF, "", nil
	}
	return 0, "action", fmt.Errorf("%q is not an action (SCMP_ACT_*)", action)
}
