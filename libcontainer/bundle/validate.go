package bundle

import (
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Validate refuses a spec that Linux or thinrun cannot honour. root is not looked at:
// the caller knows whether an image takes its place.
func Validate(s *specs.Spec) error {
	if err := version(s.Version); err != nil {
		return err
	}
	if s.VM != nil {
		return Refuse("vm", "asks for a virtual machine; thinrun makes containers only")
	}
	if s.Process == nil {
		return Refuse("process", "is missing")
	}
	if err := validateProcess("process", s.Process); err != nil {
		return err
	}
	for key := range s.Annotations {
		if key == "" {
			return Refuse("annotations", "has an empty key")
		}
	}
	for i := range s.Mounts {
		if err := mount(Index("mounts", i), &s.Mounts[i]); err != nil {
			return err
		}
	}
	if err := allHooks(s.Hooks); err != nil {
		return err
	}
	if s.Linux == nil {
		return Refuse("linux", "is missing (a container needs its own mount namespace at least; see linux.namespaces)")
	}
	return linux(s)
}

// version takes every release of major version 1: a minor one adds only what may be
// ignored (semver), and what it adds is not in our types.
func version(v string) error {
	if v == "" {
		return Refuse("ociVersion", "is missing (the runtime-spec's version, "+Quote(specs.Version)+" for one)")
	}
	core, _, _ := strings.Cut(v, "+")
	core, _, _ = strings.Cut(core, "-")
	parts := strings.Split(core, ".")
	ok := len(parts) == 3
	for _, p := range parts {
		_, err := strconv.ParseUint(p, 10, 31)
		ok = ok && err == nil && (p == "0" || p[0] != '0')
	}
	if !ok {
		return Refuse("ociVersion", Quote(v)+" is not a version (major.minor.patch)")
	}
	if parts[0] != "1" {
		return Refuse("ociVersion", Quote(v)+" is not supported; thinrun knows 1.0.0 to "+specs.Version)
	}
	return nil
}

// ValidateProcess checks a process that no file holds: one that exec has put together.
func ValidateProcess(p *specs.Process) error { return validateProcess("process", p) }

// validateProcess checks a process; at is "process", or "" in a file of its own.
func validateProcess(at string, p *specs.Process) error {
	in := func(name string) string { return Key(at, name) }
	switch {
	case len(p.Args) == 0:
		return Refuse(in("args"), "is missing or empty")
	case p.Cwd == "":
		return Refuse(in("cwd"), "is missing or empty")
	case !path.IsAbs(p.Cwd):
		return Refuse(in("cwd"), Quote(p.Cwd)+" is not absolute")
	}
	for i, kv := range p.Env {
		if eq := strings.IndexByte(kv, '='); eq <= 0 {
			return Refuse(Index(in("env"), i), Quote(kv)+" is not of the form NAME=value")
		}
	}
	if b := p.ConsoleSize; b != nil && p.Terminal && (b.Height > math.MaxUint16 || b.Width > math.MaxUint16) {
		return Refuse(in("consoleSize"), "is larger than 65535 characters")
	}
	if err := user(in("user"), &p.User); err != nil {
		return err
	}
	if err := capabilities(in("capabilities"), p.Capabilities); err != nil {
		return err
	}
	if err := rlimits(in("rlimits"), p.Rlimits); err != nil {
		return err
	}
	if adj := p.OOMScoreAdj; adj != nil && (*adj < -1000 || *adj > 1000) {
		return Refuse(in("oomScoreAdj"), strconv.Itoa(*adj)+" is not between -1000 and 1000")
	}
	if err := scheduler(in("scheduler"), p.Scheduler); err != nil {
		return err
	}
	if io := p.IOPriority; io != nil {
		if _, ok := IOPriorityClass(io.Class); !ok {
			return Refuse(in("ioPriority")+".class", Quote(io.Class)+" is not an I/O priority class (IOPRIO_CLASS_RT, _BE, _IDLE)")
		}
		if io.Priority < 0 || io.Priority > 7 {
			return Refuse(in("ioPriority")+".priority", strconv.Itoa(io.Priority)+" is not between 0 and 7")
		}
	}
	if a := p.ExecCPUAffinity; a != nil {
		if _, err := ParseList(a.Initial); err != nil {
			return Refuse(in("execCPUAffinity")+".initial", err.Error())
		}
		if _, err := ParseList(a.Final); err != nil {
			return Refuse(in("execCPUAffinity")+".final", err.Error())
		}
	}
	return nil
}

// user refuses 4294967295: to chown and setresuid it means "leave as it is", which
// would be root here (crun and runc 1.5 ran `exec -u 4294967296` as root).
func user(at string, u *specs.User) error {
	const none = math.MaxUint32
	const text = "4294967295 is no id (it is -1 to the kernel)"
	switch {
	case u.UID == none:
		return Refuse(at+".uid", text)
	case u.GID == none:
		return Refuse(at+".gid", text)
	case u.Umask != nil && *u.Umask > 0o777:
		return Refuse(at+".umask", strconv.FormatUint(uint64(*u.Umask), 10)+" is more than 511 (octal 777)")
	}
	for i, g := range u.AdditionalGids {
		if g == none {
			return Refuse(Index(at+".additionalGids", i), text)
		}
	}
	return nil
}

func capabilities(at string, c *specs.LinuxCapabilities) error {
	if c == nil {
		return nil
	}
	for _, set := range []struct {
		name string
		caps []string
	}{
		{"bounding", c.Bounding}, {"effective", c.Effective}, {"inheritable", c.Inheritable},
		{"permitted", c.Permitted}, {"ambient", c.Ambient},
	} {
		for i, name := range set.caps {
			if Capability(name) < 0 {
				return Refuse(Index(Key(at, set.name), i), Quote(name)+" is not a capability (see capabilities(7))")
			}
		}
	}
	return nil
}

func rlimits(at string, list []specs.POSIXRlimit) error {
	var seen uint32
	for i, r := range list {
		n := Rlimit(r.Type)
		switch {
		case n < 0:
			return Refuse(Index(at, i)+".type", Quote(r.Type)+" is not a resource limit (see getrlimit(2))")
		case seen&(1<<n) != 0:
			return Refuse(Index(at, i)+".type", Quote(r.Type)+" is given twice")
		case r.Soft > r.Hard:
			return Refuse(Index(at, i), "soft limit "+strconv.FormatUint(r.Soft, 10)+" is above hard limit "+strconv.FormatUint(r.Hard, 10))
		}
		seen |= 1 << n
	}
	return nil
}

func scheduler(at string, s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	if s.Policy == "" {
		return Refuse(at+".policy", "is missing")
	}
	if s.Policy == specs.SchedISO {
		return Refuse(at+".policy", `"SCHED_ISO" is reserved, not implemented by Linux (see sched(7))`)
	}
	if _, ok := SchedulerPolicy(s.Policy); !ok {
		return Refuse(at+".policy", Quote(s.Policy)+" is not a scheduling policy (see sched(7))")
	}
	for i, f := range s.Flags {
		if _, ok := SchedulerFlag(f); !ok {
			return Refuse(Index(at+".flags", i), Quote(f)+" is not a scheduler flag (see sched_setattr(2))")
		}
	}
	realtime := s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR
	deadline := s.Policy == specs.SchedDeadline
	switch {
	case s.Nice < -20 || s.Nice > 19:
		return Refuse(at+".nice", strconv.Itoa(int(s.Nice))+" is not between -20 and 19")
	case !realtime && s.Priority != 0:
		return Refuse(at+".priority", "only SCHED_FIFO and SCHED_RR have a priority")
	case realtime && (s.Priority < 1 || s.Priority > 99):
		return Refuse(at+".priority", strconv.Itoa(int(s.Priority))+" is not between 1 and 99")
	case !deadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0):
		return Refuse(at, "runtime, deadline and period belong to SCHED_DEADLINE")
	case deadline && (s.Runtime == 0 || s.Deadline < s.Runtime || s.Period != 0 && s.Period < s.Deadline):
		return Refuse(at, "SCHED_DEADLINE wants 0 < runtime <= deadline <= period (see sched(7))")
	}
	return nil
}

func allHooks(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	for _, kind := range []struct {
		name string
		list []specs.Hook
	}{
		{"prestart", h.Prestart}, //nolint:staticcheck // deprecated, and what NVIDIA's toolkit still writes
		{"createRuntime", h.CreateRuntime}, {"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer}, {"poststart", h.Poststart}, {"poststop", h.Poststop},
	} {
		for i, hook := range kind.list {
			at := Index("hooks."+kind.name, i)
			switch {
			case hook.Path == "":
				return Refuse(at+".path", "is missing")
			case !path.IsAbs(hook.Path):
				return Refuse(at+".path", Quote(hook.Path)+" is not absolute")
			case hook.Timeout != nil && (*hook.Timeout <= 0 || *hook.Timeout > math.MaxInt32):
				return Refuse(at+".timeout", strconv.Itoa(*hook.Timeout)+" is not a number of seconds above 0")
			}
			for k, kv := range hook.Env {
				if strings.IndexByte(kv, '=') <= 0 {
					return Refuse(Index(at+".env", k), Quote(kv)+" is not of the form NAME=value")
				}
			}
		}
	}
	return nil
}

// lxcfsFiles are the files below /proc that a mount may cover: those that lxcfs
// emulates. Any other mount there could fake what the runtime reads or writes itself
// (CVE-2019-16884, CVE-2025-52881).
func lxcfsFile(p string) bool {
	switch p {
	case "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
		"/proc/loadavg", "/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled":
		return true
	}
	return false
}

func mount(at string, m *specs.Mount) error {
	if m.Destination == "" {
		return Refuse(at+".destination", "is missing")
	}
	bind := IsBind(m)
	dest := path.Clean("/" + m.Destination)
	switch {
	case dest == "/proc":
		if !bind && m.Type != "proc" && !slices.Contains(m.Options, "remount") {
			return Refuse(at+".destination", `only a mount of type "proc" or a bind of the host's /proc may be on /proc`)
		}
	case strings.HasPrefix(dest, "/proc/") && !lxcfsFile(dest):
		return Refuse(at+".destination", Quote(m.Destination)+" is inside /proc, where only a few files may be covered (those of lxcfs)")
	}
	if bind && m.Source == "" {
		return Refuse(at+".source", "is missing; a bind mount needs one")
	}
	if !bind && m.Type == "" && !slices.Contains(m.Options, "remount") && !onlyPropagation(m.Options) {
		return Refuse(at+".type", "is missing (a bind mount has the option bind or rbind)")
	}
	if (len(m.UIDMappings) == 0) != (len(m.GIDMappings) == 0) {
		return Refuse(at, "uidMappings and gidMappings go together")
	}
	if len(m.UIDMappings) > 0 {
		if !bind {
			return Refuse(at+".uidMappings", "only bind mounts can have ids mapped")
		}
		if err := idMappings(at+".uidMappings", m.UIDMappings); err != nil {
			return err
		}
		if err := idMappings(at+".gidMappings", m.GIDMappings); err != nil {
			return err
		}
	}
	return nil
}

// IsBind tells whether a mount clones a tree of the host. Type bind alone says so too,
// as crun reads it.
func IsBind(m *specs.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// onlyPropagation: an entry that changes nothing but the propagation of what is mounted
// there needs no type.
func onlyPropagation(options []string) bool {
	for _, o := range options {
		if !Propagation(o) {
			return false
		}
	}
	return len(options) > 0
}

// Propagation tells whether a word is one of the eight of mount propagation.
func Propagation(word string) bool {
	switch strings.TrimPrefix(word, "r") {
	case "private", "slave", "shared", "unbindable":
		return true
	}
	return false
}
