package plan

import (
	"errors"
	"math"
	"slices"
	"strconv"

	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/process"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func (p *planner) process() error {
	cfg := processConfig(p.spec.Process, p.linux)
	cfg.PreserveFDs = p.opt.PreserveFDs
	if !p.opt.NoNewKeyring {
		cfg.KeyringName = keyringName(p.ID)
	}
	// CPU affinity is execCPUAffinity: it is about exec only.
	cfg.CPUAffinityInitial, cfg.CPUAffinityFinal = nil, nil
	// A caller without root gets a user namespace in which setgroups(2) is denied
	// (user_namespaces(7)): it could otherwise drop a group that restricts it.
	cfg.User.KeepGroups = p.rootless() || p.facts.SetgroupsDenied || p.spec.Annotations[annotationKeepGroups] == "1"
	if cfg.User.KeepGroups && len(cfg.User.AdditionalGIDs) > 0 {
		return bundle.Refuse("process.user.additionalGids", "cannot be set: the caller may not change groups (rootless, or "+annotationKeepGroups+")")
	}
	if name := p.spec.Process.User.Username; p.Storage.Image != "" && name != "" {
		// Elsewhere it is Windows' field, and ignored as runc does.
		if err := bundle.CheckUser(name); err != nil {
			return bundle.Refuse("process.user.username", err.Error())
		}
		cfg.User.Name = name
	}
	p.Init.Process = cfg
	return nil
}

// keyringName is runc's; a tool in the container may look for it.
func keyringName(id string) string { return "_ses." + id }

// processConfig takes a process out of the OCI types. What linux says of every process
// of the container comes along.
func processConfig(s *specs.Process, linux *specs.Linux) process.Config {
	cfg := process.Config{
		Args: s.Args, Env: s.Env, Cwd: s.Cwd, Terminal: s.Terminal,
		User: process.User{
			UID: s.User.UID, GID: s.User.GID, AdditionalGIDs: s.User.AdditionalGids, Umask: s.User.Umask,
		},
		NoNewPrivileges: s.NoNewPrivileges,
		OOMScoreAdj:     s.OOMScoreAdj,
		AppArmorProfile: s.ApparmorProfile,
		SELinuxLabel:    s.SelinuxLabel,
	}
	if b := s.ConsoleSize; b != nil && s.Terminal {
		cfg.Console = &process.Size{Height: uint16(b.Height), Width: uint16(b.Width)}
	}
	if c := s.Capabilities; c != nil {
		cfg.Capabilities = capabilities(c)
	}
	for _, r := range s.Rlimits {
		cfg.Rlimits = append(cfg.Rlimits, process.Rlimit{Resource: bundle.Rlimit(r.Type), Soft: r.Soft, Hard: r.Hard})
	}
	if sch := s.Scheduler; sch != nil {
		out := &process.Scheduler{
			Nice: sch.Nice, Priority: uint32(sch.Priority),
			Runtime: sch.Runtime, Deadline: sch.Deadline, Period: sch.Period,
		}
		out.Policy, _ = bundle.SchedulerPolicy(sch.Policy)
		for _, f := range sch.Flags {
			bit, _ := bundle.SchedulerFlag(f)
			out.Flags |= bit
		}
		cfg.Scheduler = out
	}
	if io := s.IOPriority; io != nil {
		class, _ := bundle.IOPriorityClass(io.Class)
		cfg.IOPriority = &process.IOPriority{Class: class, Priority: io.Priority}
	}
	if a := s.ExecCPUAffinity; a != nil {
		cfg.CPUAffinityInitial, _ = bundle.ParseList(a.Initial)
		cfg.CPUAffinityFinal, _ = bundle.ParseList(a.Final)
	}
	if per := linux.Personality; per != nil {
		persona := uint64(0) // PER_LINUX; personality(2)
		if per.Domain == specs.PerLinux32 {
			persona = 8
		}
		cfg.Personality = &persona
	}
	if m := linux.MemoryPolicy; m != nil {
		out := &process.MemoryPolicy{}
		out.Mode, _ = bundle.MemoryPolicyMode(m.Mode)
		for _, f := range m.Flags {
			bit, _ := bundle.MemoryPolicyFlag(f)
			out.Flags |= bit
		}
		out.Nodes, _ = bundle.ParseList(m.Nodes)
		cfg.MemoryPolicy = out
	}
	return cfg
}

// capabilities turns names into masks. An ambient capability takes one that is permitted
// and inheritable (capabilities(7)); the kernel refuses others, and `runc spec` listed
// three such until 1.1, so they are left out.
func capabilities(c *specs.LinuxCapabilities) process.Capabilities {
	mask := func(names []string) (m uint64) {
		for _, n := range names {
			m |= 1 << bundle.Capability(n)
		}
		return m
	}
	out := process.Capabilities{
		Bounding: mask(c.Bounding), Effective: mask(c.Effective), Inheritable: mask(c.Inheritable), Permitted: mask(c.Permitted),
	}
	out.Ambient = mask(c.Ambient) & out.Inheritable & out.Permitted
	return out
}

// ExecOptions are the flags of exec.
type ExecOptions struct {
	ID              string
	Whole           bool // the process comes from --process: the flags below Terminal's do not count
	PreserveFDs     int
	Args            []string
	Cwd             string
	Env             []string
	Terminal        bool
	User            string // USER[:GROUP], numbers or names
	Image           bool   // the root is of an image: process.user.username counts
	AdditionalGIDs  []int64
	Caps            []string
	NoNewPrivileges bool
	SELinuxLabel    string
	AppArmor        string
	KeepGroups      bool // the caller may not change groups
	NoNewKeyring    bool
}

// NewExec decides about one more process in a container: base is the config's process,
// changed as the flags say, or the one of --process. The container's filter, labels,
// personality and memory policy hold for it as for the first. Of the plan only
// Init.Process, Seccomp and Terminal are filled.
func NewExec(spec *specs.Spec, base *specs.Process, opt ExecOptions) (*Plan, error) {
	proc := *base
	if !opt.Image {
		proc.User.Username = "" // as in New
	}
	if !opt.Whole {
		if err := override(&proc, opt); err != nil {
			return nil, err
		}
		// The flags may have broken what config.json had right.
		if err := bundle.ValidateProcess(&proc); err != nil {
			return nil, err
		}
	}
	if len(spec.Linux.UIDMappings) > 0 && proc.User.Username == "" {
		if _, ok := hostID(mappings(spec.Linux.UIDMappings), proc.User.UID); !ok {
			return nil, errors.New("user " + strconv.FormatUint(uint64(proc.User.UID), 10) + " is not mapped in the container (see linux.uidMappings)")
		}
		if _, ok := hostID(mappings(spec.Linux.GIDMappings), proc.User.GID); !ok {
			return nil, errors.New("group " + strconv.FormatUint(uint64(proc.User.GID), 10) + " is not mapped in the container (see linux.gidMappings)")
		}
	}
	p := &Plan{ID: opt.ID, OCIVersion: spec.Version, Annotations: spec.Annotations, Terminal: proc.Terminal}
	cfg := processConfig(&proc, spec.Linux)
	cfg.PreserveFDs = opt.PreserveFDs
	if !opt.NoNewKeyring {
		cfg.KeyringName = keyringName(opt.ID)
	}
	cfg.User.Name = proc.User.Username
	cfg.User.KeepGroups = opt.KeepGroups || spec.Annotations[annotationKeepGroups] == "1"
	p.Init.Process = cfg
	p.Seccomp = Seccomp(spec.Linux.Seccomp)
	return p, nil
}

// override applies the flags to a copy; base's slices are not written to.
func override(proc *specs.Process, opt ExecOptions) error {
	proc.Terminal = opt.Terminal
	proc.Args = opt.Args
	if opt.Cwd != "" {
		proc.Cwd = opt.Cwd
	}
	proc.Env = append(slices.Clip(proc.Env), opt.Env...)
	if opt.Image && opt.Terminal { // as with run -t; a later one counts
		proc.Env = slices.Insert(proc.Env, 0, "TERM=xterm")
	}
	if opt.User != "" {
		uid, gid, hasGID, err := bundle.ParseUser(opt.User)
		switch named := bundle.CheckUser(opt.User); {
		case named != nil:
			return named
		case err != nil, proc.User.Username != "":
			proc.User.Username = opt.User // as init's own was: looked up in the container
		default:
			proc.User.UID = uid
			if hasGID {
				proc.User.GID = gid
			}
		}
	}
	for _, g := range opt.AdditionalGIDs {
		if g < 0 || g >= math.MaxUint32 {
			return errors.New("additional group " + itoa(g) + " is not between 0 and 4294967294")
		}
		proc.User.AdditionalGids = append(slices.Clip(proc.User.AdditionalGids), uint32(g))
	}
	if len(opt.Caps) > 0 {
		caps := specs.LinuxCapabilities{}
		if proc.Capabilities != nil {
			caps = *proc.Capabilities
		}
		// Not inheritable: a program's file capabilities would add to it (CVE-2022-29162).
		for _, c := range opt.Caps {
			if bundle.Capability(c) < 0 {
				return errors.New("capability " + bundle.Quote(c) + " does not exist (see capabilities(7))")
			}
			caps.Bounding = append(slices.Clip(caps.Bounding), c)
			caps.Effective = append(slices.Clip(caps.Effective), c)
			caps.Permitted = append(slices.Clip(caps.Permitted), c)
		}
		proc.Capabilities = &caps
	}
	if opt.NoNewPrivileges {
		proc.NoNewPrivileges = true
	}
	if opt.SELinuxLabel != "" {
		proc.SelinuxLabel = opt.SELinuxLabel
	}
	if opt.AppArmor != "" {
		proc.ApparmorProfile = opt.AppArmor
	}
	return nil
}
