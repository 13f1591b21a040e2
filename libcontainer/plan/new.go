package plan

import (
	"errors"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/hooks"
	"thinrun/libcontainer/seccomp"
	"thinrun/nsenter"
	"thinrun/rootfs"
	"thinrun/rootfs/storage"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations that thinrun reads, and that features declares as potentially unsafe.
const (
	AnnotationImage      = "org.thinrun.image"       // the root is a snapshot of this image
	AnnotationRootfsSize = "org.thinrun.rootfs-size" // "20G"
	// annotationKeepGroups is crun's; Podman sets it for --group-add keep-groups.
	annotationKeepGroups = "run.oci.keep_original_groups"
)

// planner is a plan in the making.
type planner struct {
	*Plan
	spec  *specs.Spec
	linux *specs.Linux
	opt   Options
	facts Facts

	newNS, joined  nsenter.Kind
	uidMap, gidMap []nsenter.Mapping // of the container's user namespace, new or joined
	noMap          error             // why the joined one's are not known
}

// New decides everything that create will do. spec has passed bundle.Validate.
func New(spec *specs.Spec, opt Options, facts Facts) (*Plan, error) {
	p := &planner{
		Plan: &Plan{
			ID: opt.ID, OCIVersion: spec.Version, Bundle: opt.Bundle, Annotations: spec.Annotations,
			Terminal: spec.Process.Terminal,
		},
		spec: spec, linux: spec.Linux, opt: opt, facts: facts,
	}
	for _, step := range []func(*planner) error{
		(*planner).storage,
		(*planner).namespaces,
		(*planner).rootfs,
		(*planner).mounts,
		(*planner).devices,
		(*planner).cgroup,
		(*planner).process,
		(*planner).rest,
	} {
		if err := step(p); err != nil {
			return nil, err
		}
	}
	return p.Plan, nil
}

// rootless: the caller lacks root's rights over the host.
func (p *planner) rootless() bool { return p.opt.Rootless || p.facts.EUID != 0 }

// has tells whether the container has a namespace that was listed, new or joined.
func (p *planner) has(kind nsenter.Kind) bool { return (p.newNS|p.joined)&kind != 0 }

func (p *planner) storage() error {
	image := p.opt.Image
	if image == "" {
		image = p.spec.Annotations[AnnotationImage]
	}
	size := p.opt.RootfsSize
	if size == "" {
		size = p.spec.Annotations[AnnotationRootfsSize]
	}
	p.Storage = storage.Request{ContainerID: p.ID, Image: image}
	if image == "" {
		if size != "" {
			return errors.New("a rootfs size needs an image: root.path is a directory of the host, and has no size of its own")
		}
		if p.spec.Root == nil {
			return bundle.Refuse("root", "is missing (or name an image: --image, or annotation "+AnnotationImage+")")
		}
		if p.spec.Root.Path == "" {
			return bundle.Refuse("root.path", "is missing or empty")
		}
		p.Storage.Path = p.inBundle(p.spec.Root.Path)
		return nil
	}
	if size != "" {
		n, err := bundle.ParseSize(size)
		if err != nil {
			return errors.New("rootfs size: " + err.Error())
		}
		p.Storage.SizeBytes = n
	}
	return nil
}

// inBundle makes a host path of config.json absolute.
func (p *planner) inBundle(name string) string {
	if filepath.IsAbs(name) {
		return filepath.Clean(name)
	}
	return filepath.Join(p.Bundle, name)
}

// Kind is the namespace that runtime-spec names so, 0 for an unknown name.
func Kind(name specs.LinuxNamespaceType) nsenter.Kind {
	switch name {
	case specs.UserNamespace:
		return nsenter.User
	case specs.MountNamespace:
		return nsenter.Mount
	case specs.PIDNamespace:
		return nsenter.PID
	case specs.NetworkNamespace:
		return nsenter.Network
	case specs.IPCNamespace:
		return nsenter.IPC
	case specs.UTSNamespace:
		return nsenter.UTS
	case specs.CgroupNamespace:
		return nsenter.Cgroup
	case specs.TimeNamespace:
		return nsenter.Time
	}
	return 0
}

func (p *planner) namespaces() error {
	cfg := &p.Namespaces
	for i, ns := range p.linux.Namespaces {
		kind := Kind(ns.Type)
		if ns.Path == "" {
			p.newNS |= kind
			continue
		}
		p.joined |= kind
		cfg.Join = append(cfg.Join, nsenter.Join{Kind: kind, Path: ns.Path})
		if err := p.checkJoined(bundle.Index("linux.namespaces", i)+".path", kind, ns.Path); err != nil {
			return err
		}
	}
	cfg.New = p.newNS
	if p.facts.EUID != 0 && !p.has(nsenter.User) {
		return bundle.Refuse("linux.namespaces", "has no user namespace; a caller without root needs one (see spec --rootless)")
	}
	if p.newNS&nsenter.User != 0 {
		cfg.UIDMappings, cfg.GIDMappings = mappings(p.linux.UIDMappings), mappings(p.linux.GIDMappings)
		p.uidMap, p.gidMap = cfg.UIDMappings, cfg.GIDMappings
	}
	for _, clock := range slices.Sorted(maps.Keys(p.linux.TimeOffsets)) {
		o := p.linux.TimeOffsets[clock]
		cfg.TimeOffsets = append(cfg.TimeOffsets, nsenter.TimeOffset{Clock: clock, Secs: o.Secs, Nanos: o.Nanosecs})
	}
	p.Init.LoopbackUp = p.newNS&nsenter.Network != 0
	p.Init.Hostname, p.Init.Domainname = p.spec.Hostname, p.spec.Domainname
	return nil
}

func (p *planner) checkJoined(at string, kind nsenter.Kind, ns string) error {
	switch {
	case kind == nsenter.Network && p.facts.HostNetwork != nil && (len(p.linux.NetDevices) > 0 || p.netSysctl() != ""):
		host, err := p.facts.HostNetwork(ns)
		if err != nil {
			return &bundle.Error{Path: at, What: bundle.Quote(ns), Err: err}
		}
		if host && p.netSysctl() != "" {
			return bundle.Refuse(bundle.Key("linux.sysctl", p.netSysctl()), "would be set for the host: the network namespace is the host's own")
		}
		if host {
			return bundle.Refuse("linux.netDevices", "the network namespace is the host's own")
		}
	case kind == nsenter.User:
		return p.joinedUser(at, ns)
	}
	return nil
}

func (p *planner) netSysctl() string {
	for _, key := range slices.Sorted(maps.Keys(p.linux.Sysctl)) {
		if len(key) > 4 && key[:3] == "net" {
			return key
		}
	}
	return ""
}

// joinedUser learns what the joined user namespace maps. containerd and CRI-O give path
// and mappings together; mappings that are not the namespace's are refused.
func (p *planner) joinedUser(at, ns string) error {
	p.uidMap, p.gidMap = mappings(p.linux.UIDMappings), mappings(p.linux.GIDMappings)
	if p.facts.UserNSMappings == nil {
		return nil
	}
	uid, gid, err := p.facts.UserNSMappings(ns)
	if err != nil {
		// A namespace that is bind-mounted can be joined, but has no maps to read. Only an
		// id-mapped mount needs to know them.
		p.noMap = &bundle.Error{Path: at, What: bundle.Quote(ns), Err: err}
		return nil
	}
	if p.uidMap != nil && !sameMappings(p.uidMap, uid) {
		return bundle.Refuse("linux.uidMappings", "are not those of the user namespace that is joined")
	}
	if p.gidMap != nil && !sameMappings(p.gidMap, gid) {
		return bundle.Refuse("linux.gidMappings", "are not those of the user namespace that is joined")
	}
	p.uidMap, p.gidMap = uid, gid
	return nil
}

func sameMappings(a, b []nsenter.Mapping) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func mappings(list []specs.LinuxIDMapping) []nsenter.Mapping {
	var out []nsenter.Mapping
	for _, m := range list {
		out = append(out, nsenter.Mapping{ContainerID: m.ContainerID, HostID: m.HostID, Size: m.Size})
	}
	return out
}

// hostID is what an id of the container is outside its user namespace.
func hostID(list []nsenter.Mapping, id uint32) (uint32, bool) {
	for _, m := range list {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID), true
		}
	}
	return 0, false
}

// rootfs is the frame around the mounts.
func (p *planner) rootfs() error {
	r := &p.Init.Rootfs
	r.AttachAt = p.opt.StateDir
	if p.Storage.Image == "" {
		r.AttachAt = p.Storage.Path
		r.Source = p.Storage.Path
	}
	r.Dirs, r.Localhost = p.opt.Dirs, p.opt.Localhost
	r.UserNS = p.has(nsenter.User)
	r.NoPivot = p.opt.NoPivot
	if p.spec.Root != nil {
		r.Readonly = p.spec.Root.Readonly
	}
	if word := p.linux.RootfsPropagation; word != "" {
		r.Propagation, _ = propagation(word)
		if p.opt.NoPivot && (word == "private" || word == "rprivate") {
			return bundle.Refuse("linux.rootfsPropagation", bundle.Quote(word)+" is not safe with --no-pivot: the host's mounts stay reachable")
		}
	}
	r.Console = p.Terminal
	r.MaskedPaths, r.ReadonlyPaths = p.linux.MaskedPaths, p.linux.ReadonlyPaths
	r.MountLabel = p.linux.MountLabel
	for _, key := range slices.Sorted(maps.Keys(p.linux.Sysctl)) {
		r.Sysctl = append(r.Sysctl, rootfs.KeyValue{Key: bundle.SysctlPath(key), Value: p.linux.Sysctl[key]})
	}
	return nil
}

// devices: the ones every container has, then the config's. One of the config's at the
// same path takes the default's place.
func (p *planner) devices() error {
	r := &p.Init.Rootfs
	r.SetupDev = true
	for _, m := range r.Mounts {
		// Then /dev is the host's, and nothing may be made there.
		if m.Kind == rootfs.KindBind && m.Destination == "/dev" {
			r.SetupDev = false
		}
	}
	r.BindDevices = p.has(nsenter.User) || p.facts.InUserNS
	replaced := func(at string) bool {
		for _, d := range p.linux.Devices {
			if path.Clean(d.Path) == at {
				return true
			}
		}
		return false
	}
	for _, d := range defaultDevices {
		if !replaced(d.Path) {
			r.Devices = append(r.Devices, d)
		}
	}
	for _, d := range p.linux.Devices {
		dev := rootfs.Device{Path: path.Clean(d.Path), Type: d.Type, Major: d.Major, Minor: d.Minor, Mode: 0o666}
		if d.Type == "u" {
			dev.Type = "c"
		}
		if d.FileMode != nil {
			dev.Mode = uint32(*d.FileMode) & 0o7777
		}
		if d.UID != nil {
			dev.UID = *d.UID
		}
		if d.GID != nil {
			dev.GID = *d.GID
		}
		r.Devices = append(r.Devices, dev)
	}
	return nil
}

// defaultDevices are those of config-linux.md; /dev/console and /dev/ptmx come with the
// terminal and devpts.
var defaultDevices = [...]rootfs.Device{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, Mode: 0o666},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, Mode: 0o666},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, Mode: 0o666},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8, Mode: 0o666},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9, Mode: 0o666},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0, Mode: 0o666},
}

func (p *planner) rest() error {
	if h := p.spec.Hooks; h != nil {
		p.Prestart = Hooks(h.Prestart) //nolint:staticcheck // deprecated, and in use
		p.CreateRuntime = Hooks(h.CreateRuntime)
		p.Poststart, p.Poststop = Hooks(h.Poststart), Hooks(h.Poststop)
		p.Init.CreateContainer, p.Init.StartContainer = Hooks(h.CreateContainer), Hooks(h.StartContainer)
	}
	p.Seccomp = Seccomp(p.linux.Seccomp)
	for _, name := range slices.Sorted(maps.Keys(p.linux.NetDevices)) {
		dev := NetDevice{Name: name, NewName: p.linux.NetDevices[name].Name}
		if dev.NewName == "" {
			dev.NewName = name
		}
		p.NetDevices = append(p.NetDevices, dev)
	}
	if r := p.linux.IntelRdt; r != nil {
		p.IntelRdt = &IntelRdt{
			ClosID: r.ClosID, Schemata: r.Schemata, L3CacheSchema: r.L3CacheSchema,
			MemBwSchema: r.MemBwSchema, EnableMonitoring: r.EnableMonitoring,
		}
	}
	return nil
}

// Hooks takes hooks out of the OCI types.
func Hooks(list []specs.Hook) []hooks.Hook {
	var out []hooks.Hook
	for _, h := range list {
		hook := hooks.Hook{Path: h.Path, Args: h.Args, Env: h.Env}
		if h.Timeout != nil {
			hook.Timeout = *h.Timeout
		}
		out = append(out, hook)
	}
	return out
}

// Seccomp takes the section out of the OCI types; an empty one is none, as in runc.
func Seccomp(s *specs.LinuxSeccomp) *seccomp.Config {
	if s == nil || s.DefaultAction == "" && len(s.Syscalls) == 0 {
		return nil
	}
	c := &seccomp.Config{
		DefaultAction: string(s.DefaultAction), DefaultErrnoRet: s.DefaultErrnoRet,
		ListenerPath: s.ListenerPath, ListenerMetadata: s.ListenerMetadata,
	}
	for _, a := range s.Architectures {
		c.Architectures = append(c.Architectures, string(a))
	}
	if s.Flags != nil {
		c.Flags = make([]string, 0, len(s.Flags))
	}
	for _, f := range s.Flags {
		c.Flags = append(c.Flags, string(f))
	}
	for _, call := range s.Syscalls {
		rule := seccomp.Rule{Names: call.Names, Action: string(call.Action), ErrnoRet: call.ErrnoRet}
		for _, a := range call.Args {
			rule.Args = append(rule.Args, seccomp.Arg{Index: a.Index, Op: string(a.Op), Value: a.Value, ValueTwo: a.ValueTwo})
		}
		c.Syscalls = append(c.Syscalls, rule)
	}
	return c
}

// SeccompSection is the way back: for run --image, whose config has the default profile.
func SeccompSection(c *seccomp.Config) *specs.LinuxSeccomp {
	if c == nil {
		return nil
	}
	s := &specs.LinuxSeccomp{
		DefaultAction: specs.LinuxSeccompAction(c.DefaultAction), DefaultErrnoRet: c.DefaultErrnoRet,
		ListenerPath: c.ListenerPath, ListenerMetadata: c.ListenerMetadata,
	}
	for _, a := range c.Architectures {
		s.Architectures = append(s.Architectures, specs.Arch(a))
	}
	for _, f := range c.Flags {
		s.Flags = append(s.Flags, specs.LinuxSeccompFlag(f))
	}
	for _, rule := range c.Syscalls {
		call := specs.LinuxSyscall{Names: rule.Names, Action: specs.LinuxSeccompAction(rule.Action), ErrnoRet: rule.ErrnoRet}
		for _, a := range rule.Args {
			call.Args = append(call.Args, specs.LinuxSeccompArg{
				Index: a.Index, Op: specs.LinuxSeccompOperator(a.Op), Value: a.Value, ValueTwo: a.ValueTwo,
			})
		}
		s.Syscalls = append(s.Syscalls, call)
	}
	return s
}

func itoa[T ~int | ~int64](n T) string { return strconv.FormatInt(int64(n), 10) }
