package bundle

import (
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// namespaces is what the spec's list says: one entry per kind.
type namespaces map[specs.LinuxNamespaceType]specs.LinuxNamespace

// own tells whether the container gets a new namespace of that kind, rather than the
// caller's or one that is named by path.
func (n namespaces) own(kind specs.LinuxNamespaceType) bool {
	ns, ok := n[kind]
	return ok && ns.Path == ""
}

func (n namespaces) has(kind specs.LinuxNamespaceType) bool {
	_, ok := n[kind]
	return ok
}

func linux(s *specs.Spec) error {
	l := s.Linux
	ns, err := listNamespaces(l.Namespaces)
	if err != nil {
		return err
	}
	if !ns.has(specs.MountNamespace) {
		return Refuse("linux.namespaces", "has no mount namespace; without one the container's mounts would be the host's")
	}
	for _, name := range []struct{ field, value string }{{"hostname", s.Hostname}, {"domainname", s.Domainname}} {
		if name.value == "" {
			continue
		}
		if !ns.has(specs.UTSNamespace) {
			return Refuse(name.field, "needs a uts namespace, or it would rename the host (see linux.namespaces)")
		}
		if len(name.value) > 64 {
			return Refuse(name.field, "is longer than the kernel's 64 bytes")
		}
	}
	if err := userNamespace(s, ns); err != nil {
		return err
	}
	if err := timeOffsets(l.TimeOffsets, ns); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(l.Sysctl)) {
		if err := sysctl(key, l.Sysctl[key], ns); err != nil {
			return err
		}
	}
	for i := range l.Devices {
		if err := device(Index("linux.devices", i), &l.Devices[i]); err != nil {
			return err
		}
	}
	if err := netDevices(l.NetDevices, ns); err != nil {
		return err
	}
	for _, list := range []struct {
		field string
		paths []string
	}{{"linux.maskedPaths", l.MaskedPaths}, {"linux.readonlyPaths", l.ReadonlyPaths}} {
		for i, p := range list.paths {
			if !path.IsAbs(p) {
				return Refuse(Index(list.field, i), Quote(p)+" is not absolute")
			}
		}
	}
	if l.RootfsPropagation != "" && !Propagation(l.RootfsPropagation) {
		return Refuse("linux.rootfsPropagation", Quote(l.RootfsPropagation)+" is not a propagation (private, slave, shared, unbindable, or one of these with r)")
	}
	if err := seccomp(l.Seccomp); err != nil {
		return err
	}
	if err := intelRdt(l.IntelRdt); err != nil {
		return err
	}
	if err := memoryPolicy(l.MemoryPolicy); err != nil {
		return err
	}
	if p := l.Personality; p != nil {
		if p.Domain != specs.PerLinux && p.Domain != specs.PerLinux32 {
			return Refuse("linux.personality.domain", Quote(p.Domain)+` is neither "LINUX" nor "LINUX32"`)
		}
		if len(p.Flags) > 0 {
			return Refuse("linux.personality.flags", "the runtime-spec defines no personality flags")
		}
	}
	return resources("linux.resources", l.Resources)
}

func listNamespaces(list []specs.LinuxNamespace) (namespaces, error) {
	ns := make(namespaces, len(list))
	for i, n := range list {
		at := Index("linux.namespaces", i)
		switch n.Type {
		case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
			specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		case "":
			return nil, Refuse(at+".type", "is missing")
		default:
			return nil, Refuse(at+".type", Quote(n.Type)+" is not a namespace (pid, network, mount, ipc, uts, user, cgroup, time)")
		}
		if ns.has(n.Type) {
			return nil, Refuse(at+".type", Quote(n.Type)+" is given twice")
		}
		if n.Path != "" && !path.IsAbs(n.Path) {
			return nil, Refuse(at+".path", Quote(n.Path)+" is not absolute")
		}
		ns[n.Type] = n
	}
	return ns, nil
}

// userNamespace: containerd and CRI-O give both a path and the mappings it has; these
// are allowed, and checked by plan where it can see the namespace.
func userNamespace(s *specs.Spec, ns namespaces) error {
	l := s.Linux
	for _, m := range []struct {
		field string
		list  []specs.LinuxIDMapping
	}{{"linux.uidMappings", l.UIDMappings}, {"linux.gidMappings", l.GIDMappings}} {
		if len(m.list) > 0 && !ns.has(specs.UserNamespace) {
			return Refuse(m.field, "needs a user namespace (see linux.namespaces)")
		}
		if err := idMappings(m.field, m.list); err != nil {
			return err
		}
		if ns.own(specs.UserNamespace) && len(m.list) == 0 {
			return Refuse(m.field, "is missing or empty; a new user namespace needs it")
		}
		if _, ok := mapped(m.list, 0); len(m.list) > 0 && !ok {
			return Refuse(m.field, "does not map id 0 of the container, and its init starts as that")
		}
	}
	if len(l.UIDMappings) == 0 {
		return nil
	}
	u := &s.Process.User
	if _, ok := mapped(l.UIDMappings, u.UID); !ok {
		return Refuse("process.user.uid", strconv.FormatUint(uint64(u.UID), 10)+" is not mapped (see linux.uidMappings)")
	}
	if _, ok := mapped(l.GIDMappings, u.GID); !ok {
		return Refuse("process.user.gid", strconv.FormatUint(uint64(u.GID), 10)+" is not mapped (see linux.gidMappings)")
	}
	for i, g := range u.AdditionalGids {
		if _, ok := mapped(l.GIDMappings, g); !ok {
			return Refuse(Index("process.user.additionalGids", i), strconv.FormatUint(uint64(g), 10)+" is not mapped (see linux.gidMappings)")
		}
	}
	return nil
}

func mapped(list []specs.LinuxIDMapping, id uint32) (uint32, bool) {
	for _, m := range list {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// idMappings holds the kernel's rules for uid_map (user_namespaces(7)), whose only
// answer would be EINVAL.
func idMappings(at string, list []specs.LinuxIDMapping) error {
	if len(list) > 340 {
		return Refuse(at, strconv.Itoa(len(list))+" entries; the kernel takes 340")
	}
	for i, m := range list {
		here := Index(at, i)
		switch {
		case m.Size == 0:
			return Refuse(here+".size", "is missing or 0")
		case uint64(m.ContainerID)+uint64(m.Size) > math.MaxUint32:
			return Refuse(here, "reaches beyond id 4294967294 of the container")
		case uint64(m.HostID)+uint64(m.Size) > math.MaxUint32:
			return Refuse(here, "reaches beyond id 4294967294 of the host")
		}
		for k, other := range list[:i] {
			if overlap(m.ContainerID, other.ContainerID, m.Size, other.Size) || overlap(m.HostID, other.HostID, m.Size, other.Size) {
				return Refuse(here, "overlaps with entry "+strconv.Itoa(k))
			}
		}
	}
	return nil
}

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

func timeOffsets(offsets map[string]specs.LinuxTimeOffset, ns namespaces) error {
	for _, clock := range slices.Sorted(maps.Keys(offsets)) {
		at := Key("linux.timeOffsets", clock)
		switch {
		case !ns.has(specs.TimeNamespace):
			return Refuse("linux.timeOffsets", "needs a time namespace (see linux.namespaces)")
		case !ns.own(specs.TimeNamespace):
			return Refuse("linux.timeOffsets", "the time namespace is joined, and its clocks can no longer be set")
		case clock != "monotonic" && clock != "boottime":
			return Refuse(at, `only "monotonic" and "boottime" have an offset`)
		case offsets[clock].Nanosecs >= 1e9:
			return Refuse(at+".nanosecs", "is not below a second")
		}
	}
	return nil
}

// SysctlPath turns a key into its path below /proc/sys. Which of . and / comes first is
// the separator, the other stands for itself: net/ipv4/conf/eth0.5/forwarding and
// net.ipv4.conf.eth0/5.forwarding are one (sysctl(8)).
func SysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '/' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

// sysctl lets through only what a namespace of the container keeps for itself: all else
// would be set for the host.
func sysctl(key, value string, ns namespaces) error {
	at := Key("linux.sysctl", key)
	p := SysctlPath(key)
	// A joined value has smuggled in a second sysctl before (CVE-2022-0811), with + and
	// newline; .. would leave the permitted directory.
	for i := 0; i < len(p); i++ {
		if c := p[i]; c <= ' ' || c >= 0x7f || c == '+' || c == '\\' {
			return Refuse(at, "is not the name of a sysctl")
		}
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." || part == ".." {
			return Refuse(at, "is not the name of a sysctl")
		}
	}
	for i := 0; i < len(value); i++ {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f || c == '+' {
			return Refuse(at, "value "+Quote(value)+" holds a character that no sysctl takes")
		}
	}
	need := func(kind specs.LinuxNamespaceType) error {
		if ns.has(kind) {
			return nil
		}
		return Refuse(at, "would be set for the host: the container has no "+string(kind)+" namespace")
	}
	switch p {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall",
		"kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced":
		return need(specs.IPCNamespace)
	case "kernel/domainname":
		return need(specs.UTSNamespace)
	case "kernel/hostname":
		return Refuse(at, "use the field hostname")
	}
	switch first, _, _ := strings.Cut(p, "/"); {
	case strings.HasPrefix(p, "fs/mqueue/"):
		return need(specs.IPCNamespace)
	case first == "net" && p != "net":
		return need(specs.NetworkNamespace)
	case first == "user" && p != "user":
		return need(specs.UserNamespace)
	}
	return Refuse(at, "belongs to the host, not to a namespace")
}

func device(at string, d *specs.LinuxDevice) error {
	if !path.IsAbs(d.Path) {
		if d.Path == "" {
			return Refuse(at+".path", "is missing")
		}
		return Refuse(at+".path", Quote(d.Path)+" is not absolute")
	}
	if clean := path.Clean(d.Path); clean == "/" || clean == "/dev" {
		return Refuse(at+".path", Quote(d.Path)+" is a directory")
	}
	switch d.Type {
	case "b", "c", "u":
		// dev_t has 12 bits for the major and 20 for the minor number.
		if d.Major < 0 || d.Major >= 1<<12 {
			return Refuse(at+".major", strconv.FormatInt(d.Major, 10)+" is not between 0 and 4095")
		}
		if d.Minor < 0 || d.Minor >= 1<<20 {
			return Refuse(at+".minor", strconv.FormatInt(d.Minor, 10)+" is not between 0 and 1048575")
		}
	case "p":
	case "":
		return Refuse(at+".type", "is missing")
	default:
		return Refuse(at+".type", Quote(d.Type)+" is not a device (c, u, b, p)")
	}
	// The spec's example has the file type's bits in it, and Docker sends them.
	const fileType = 0o170000
	if d.FileMode != nil && uint32(*d.FileMode)&^fileType > 0o7777 {
		return Refuse(at+".fileMode", strconv.FormatUint(uint64(*d.FileMode), 10)+" is not a file mode (in decimal)")
	}
	if d.UID != nil && *d.UID == math.MaxUint32 {
		return Refuse(at+".uid", "4294967295 is no id (it is -1 to the kernel)")
	}
	if d.GID != nil && *d.GID == math.MaxUint32 {
		return Refuse(at+".gid", "4294967295 is no id (it is -1 to the kernel)")
	}
	return nil
}

func netDevices(devices map[string]specs.LinuxNetDevice, ns namespaces) error {
	names := make(map[string]bool, len(devices))
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		at := Key("linux.netDevices", name)
		if !ns.has(specs.NetworkNamespace) {
			return Refuse("linux.netDevices", "needs a network namespace (see linux.namespaces)")
		}
		if !interfaceName(name) {
			return Refuse(at, "is not the name of a network interface")
		}
		inside := devices[name].Name
		if inside == "" {
			inside = name
		} else if !interfaceName(inside) {
			return Refuse(at+".name", Quote(inside)+" is not the name of a network interface")
		}
		if names[inside] {
			return Refuse(at, "gives the name "+Quote(inside)+" a second time")
		}
		names[inside] = true
	}
	return nil
}

// interfaceName holds the kernel's rule: dev_valid_name in net/core/dev.c.
func interfaceName(s string) bool {
	if s == "" || len(s) > 15 || s == "." || s == ".." {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c == '/' || c == ':' || c == 0x7f {
			return false
		}
	}
	return true
}

func intelRdt(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	// closID becomes a directory's name in resctrl.
	if id := r.ClosID; id == "." || id == ".." || strings.ContainsAny(id, "/\n") {
		return Refuse("linux.intelRdt.closID", Quote(id)+" is not a directory's name")
	}
	for i, line := range r.Schemata {
		if strings.ContainsAny(line, "\n") || line == "" {
			return Refuse(Index("linux.intelRdt.schemata", i), Quote(line)+" is not one line")
		}
	}
	if s := r.L3CacheSchema; strings.Contains(s, "\n") {
		return Refuse("linux.intelRdt.l3CacheSchema", "is more than one line")
	}
	if s := r.MemBwSchema; strings.Contains(s, "\n") {
		return Refuse("linux.intelRdt.memBwSchema", "is more than one line")
	}
	return nil
}

// memoryPolicy holds the rules of set_mempolicy(2).
func memoryPolicy(p *specs.LinuxMemoryPolicy) error {
	if p == nil {
		return nil
	}
	const at = "linux.memoryPolicy"
	if p.Mode == "" {
		return Refuse(at+".mode", "is missing")
	}
	if _, ok := MemoryPolicyMode(p.Mode); !ok {
		return Refuse(at+".mode", Quote(p.Mode)+" is not a memory policy (see set_mempolicy(2))")
	}
	nodes, err := ParseList(p.Nodes)
	if err != nil {
		return Refuse(at+".nodes", err.Error())
	}
	var flags uint32
	for i, f := range p.Flags {
		bit, ok := MemoryPolicyFlag(f)
		if !ok {
			return Refuse(Index(at+".flags", i), Quote(f)+" is not a memory policy flag (see set_mempolicy(2))")
		}
		flags |= bit
	}
	const balancing, relative, static = 1 << 13, 1 << 14, 1 << 15
	switch p.Mode {
	case specs.MpolDefault, specs.MpolLocal:
		if len(nodes) > 0 {
			return Refuse(at+".nodes", string(p.Mode)+" takes no nodes")
		}
		if flags != 0 {
			return Refuse(at+".flags", string(p.Mode)+" takes no flags")
		}
	case specs.MpolPreferred:
		if len(nodes) == 0 && flags&(relative|static) != 0 {
			return Refuse(at+".flags", "MPOL_PREFERRED without nodes takes no flags")
		}
	default:
		if len(nodes) == 0 {
			return Refuse(at+".nodes", "is missing or empty; "+string(p.Mode)+" needs it")
		}
	}
	if flags&relative != 0 && flags&static != 0 {
		return Refuse(at+".flags", "MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES exclude each other")
	}
	if flags&balancing != 0 && p.Mode != specs.MpolBind && p.Mode != specs.MpolPreferredMany {
		return Refuse(at+".flags", "MPOL_F_NUMA_BALANCING goes with MPOL_BIND or MPOL_PREFERRED_MANY")
	}
	return nil
}

// seccomp checks the words; what a profile means is the compiler's business.
func seccomp(s *specs.LinuxSeccomp) error {
	if s == nil {
		return nil
	}
	const at = "linux.seccomp"
	if s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return nil // runc takes an empty section for none, and old managers write it
	}
	if !seccompAction(s.DefaultAction) {
		return Refuse(at+".defaultAction", Quote(s.DefaultAction)+" is not a seccomp action (SCMP_ACT_...)")
	}
	if s.DefaultAction == specs.ActNotify {
		// The container could then not even tell the listener about its first call.
		return Refuse(at+".defaultAction", "SCMP_ACT_NOTIFY cannot be the default")
	}
	notify := false
	for i := range s.Syscalls {
		c := &s.Syscalls[i]
		here := Index(at+".syscalls", i)
		if !seccompAction(c.Action) {
			return Refuse(here+".action", Quote(c.Action)+" is not a seccomp action (SCMP_ACT_...)")
		}
		notify = notify || c.Action == specs.ActNotify
		if len(c.Names) == 0 {
			return Refuse(here+".names", "is missing or empty")
		}
		for k, name := range c.Names {
			if name == "" {
				return Refuse(Index(here+".names", k), "is empty")
			}
			if name == "write" && c.Action == specs.ActNotify {
				// Init sends the listener away with write; asking the listener first would hang.
				return Refuse(Index(here+".names", k), "SCMP_ACT_NOTIFY is not possible for write")
			}
		}
		for k, a := range c.Args {
			there := Index(here+".args", k)
			if a.Index > 5 {
				return Refuse(there+".index", strconv.FormatUint(uint64(a.Index), 10)+" is not between 0 and 5")
			}
			switch a.Op {
			case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
				specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
			default:
				return Refuse(there+".op", Quote(a.Op)+" is not a comparison (SCMP_CMP_...)")
			}
		}
	}
	if s.ListenerPath != "" && !path.IsAbs(s.ListenerPath) {
		return Refuse(at+".listenerPath", Quote(s.ListenerPath)+" is not absolute")
	}
	if notify && s.ListenerPath == "" {
		return Refuse(at+".listenerPath", "is missing; SCMP_ACT_NOTIFY needs it")
	}
	if s.ListenerPath == "" && s.ListenerMetadata != "" {
		return Refuse(at+".listenerMetadata", "needs a listenerPath")
	}
	return nil
}

func seccompAction(a specs.LinuxSeccompAction) bool {
	switch a {
	case specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify:
		return true
	}
	return false
}
