package plan

import (
	"path"
	"strings"

	"thinrun/libcontainer/bundle"
	"thinrun/nsenter"
	"thinrun/rootfs"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func (p *planner) mounts() error {
	for i := range p.spec.Mounts {
		m, err := p.mount(bundle.Index("mounts", i), &p.spec.Mounts[i])
		if err != nil {
			return err
		}
		p.Init.Rootfs.Mounts = append(p.Init.Rootfs.Mounts, m)
	}
	return nil
}

func (p *planner) mount(at string, spec *specs.Mount) (rootfs.Mount, error) {
	o := parseOptions(spec.Options)
	if bundle.IsBind(spec) {
		o.flags |= unix.MS_BIND
	}
	m := rootfs.Mount{
		// A relative destination was always taken as one below the root; runc still does.
		Destination: path.Clean("/" + spec.Destination),
		Type:        spec.Type,
		Source:      spec.Source,
		RecAttr:     o.recSet, RecAttrClear: o.recClear,
		Propagation: o.propagation,
		Options:     o.data,
		File:        -1,
		SrcNoFollow: o.srcNoFollow, DestNoFollow: o.destNoFollow, CopySymlink: o.copySymlink,
	}
	var err error
	switch {
	case o.flags&unix.MS_REMOUNT != 0:
		p.remount(&m, o)
	case o.flags&unix.MS_BIND != 0:
		err = p.bind(at, &m, spec, o)
	case spec.Type == "":
		// Propagation words alone: they apply to what is mounted there.
		m.Kind = rootfs.KindRemount
	case spec.Type == "cgroup", spec.Type == "cgroup2" && p.facts.CgroupV2:
		err = p.cgroupMount(at, &m, o)
	default:
		m.Kind = rootfs.KindFS
		m.Attr, m.SuperFlags = attributes(o.flags), superFlags(o.flags)
	}
	if err != nil {
		return m, err
	}
	if m.Kind != rootfs.KindBind {
		if err := bindOnly(at, o); err != nil {
			return m, err
		}
	}
	if o.tmpCopyUp {
		if m.Kind != rootfs.KindFS || m.Type != "tmpfs" {
			return m, bundle.Refuse(bundle.Index(at+".options", o.tmpCopyUpAt), `"tmpcopyup" needs type "tmpfs"`)
		}
		m.TmpCopyUp = true
	}
	return m, nil
}

// bindOnly refuses words that mean nothing without a source tree.
func bindOnly(at string, o options) error {
	switch {
	case o.idMap:
		return bundle.Refuse(bundle.Index(at+".options", o.idMapAt), "only bind mounts can have ids mapped")
	case o.srcNoFollow, o.destNoFollow, o.copySymlink:
		return bundle.Refuse(at+".options", "src-nofollow, dest-nofollow and copy-symlink belong to bind mounts")
	}
	return nil
}

// remount changes what is mounted at the destination: with bind the mount's flags, else
// the file system's too.
func (p *planner) remount(m *rootfs.Mount, o options) {
	m.Kind = rootfs.KindRemount
	m.Attr, m.AttrClear = changes(o)
	if o.flags&unix.MS_BIND == 0 {
		m.SuperFlags = superFlags(o.flags)
	}
	m.Recursive = o.flags&unix.MS_REC != 0
}

// bind clones a tree of the host. The parent opens it, because it sees the host's mounts
// and has the host's rights; where these are not enough to clone (no CAP_SYS_ADMIN), init
// does it in its own namespace.
func (p *planner) bind(at string, m *rootfs.Mount, spec *specs.Mount, o options) error {
	m.Kind = rootfs.KindBind
	m.Type = "bind"
	m.Source = p.inBundle(spec.Source)
	m.Recursive = o.flags&unix.MS_REC != 0
	// The flags of a file system (sync, mand and so on) have never had an effect on a
	// bind: it is the source's file system.
	m.Attr, m.AttrClear = changes(o)
	if len(o.data) > 0 {
		return bundle.Refuse(bundle.Index(at+".options", o.dataAt[0]), bundle.Quote(o.data[0])+" is not an option of a bind mount")
	}
	isDir, err := p.facts.StatSource(m.Source)
	if err != nil {
		if !(o.srcNoFollow || o.copySymlink) { // the source may be a dangling link then
			return &bundle.Error{Path: at + ".source", What: bundle.Quote(m.Source), Err: plainErrno(err)}
		}
		isDir = false
	}
	m.SrcIsDir = isDir
	if o.copySymlink {
		m.SrcNoFollow = true
	}
	if m.Destination == "/proc" {
		if err := p.checkProc(at, m.Source); err != nil {
			return err
		}
	}
	if err := p.idMap(at, m, spec, o); err != nil {
		return err
	}
	if !p.rootless() {
		m.File = p.source(Source{Path: m.Source, Recursive: m.Recursive, NoFollow: m.SrcNoFollow})
	}
	return nil
}

// source notes a tree to open and returns its number.
func (p *planner) source(s Source) int {
	p.Sources = append(p.Sources, s)
	return len(p.Sources) - 1
}

// checkProc: what is bound on /proc must be a procfs, or labels and sysctls are written
// to a fake (CVE-2019-16884).
func (p *planner) checkProc(at, source string) error {
	is := source == "/proc"
	if p.facts.ProcFS != nil {
		var err error
		if is, err = p.facts.ProcFS(source); err != nil {
			return &bundle.Error{Path: at + ".source", What: bundle.Quote(source), Err: plainErrno(err)}
		}
	}
	if !is {
		return bundle.Refuse(at+".source", bundle.Quote(source)+" is not a procfs; nothing else may be on /proc")
	}
	return nil
}

func (p *planner) idMap(at string, m *rootfs.Mount, spec *specs.Mount, o options) error {
	uid, gid := mappings(spec.UIDMappings), mappings(spec.GIDMappings)
	if !o.idMap && uid == nil && gid == nil {
		return nil
	}
	word := bundle.Index(at+".options", o.idMapAt)
	if p.rootless() {
		return bundle.Refuse(at, "an id-mapped mount needs root (CAP_SYS_ADMIN over the source's file system; see mount_setattr(2))")
	}
	switch {
	case o.idMapText != "":
		if uid != nil {
			return bundle.Refuse(word, "gives mappings that uidMappings and gidMappings give already")
		}
		var ok bool
		if uid, gid, ok = inlineIDMap(o.idMapText, p.uidMap, p.gidMap); !ok {
			return bundle.Refuse(word, bundle.Quote(o.idMapText)+` is not of the form "uids=0-100000-65536;gids=0-100000-65536"`)
		}
	case uid == nil:
		if p.noMap != nil && (p.uidMap == nil || p.gidMap == nil) {
			return p.noMap
		}
		if p.uidMap == nil || p.gidMap == nil {
			return bundle.Refuse(word, "needs uidMappings and gidMappings, here or of a user namespace in linux")
		}
		uid, gid = p.uidMap, p.gidMap
	}
	m.IDMap = &rootfs.IDMap{UIDMappings: rootfsMappings(uid), GIDMappings: rootfsMappings(gid), Recursive: o.idMapRec}
	return nil
}

func rootfsMappings(list []nsenter.Mapping) []rootfs.Mapping {
	out := make([]rootfs.Mapping, len(list))
	for i, m := range list {
		out[i] = rootfs.Mapping(m)
	}
	return out
}

// cgroupMount shows the container its cgroups. With an own cgroup namespace the kernel
// does that; without, v1 binds the container's own directories, and v2 shows the host's
// tree, as runc does. From inside a user namespace that tree cannot be mounted anew, so
// it is bound, and read-only: a delegated cgroup would be writable there
// (CVE-2023-25809).
func (p *planner) cgroupMount(at string, m *rootfs.Mount, o options) error {
	m.Attr, m.SuperFlags = attributes(o.flags), superFlags(o.flags)
	own := p.newNS&nsenter.Cgroup != 0
	if p.facts.CgroupV2 {
		m.Kind, m.Type = rootfs.KindCgroup2, "cgroup2"
		m.SuperFlags &^= unix.MS_RDONLY // one superblock for the whole host
		if !own && p.has(nsenter.User) {
			m.Attr |= unix.MOUNT_ATTR_RDONLY
			m.Source, m.Recursive, m.SuperFlags = "/sys/fs/cgroup", true, 0
			if !p.rootless() {
				m.File = p.source(Source{Path: m.Source, Recursive: true})
			}
		}
		return nil
	}
	m.Kind, m.Type = rootfs.KindCgroup1, "cgroup"
	if len(o.data) > 0 {
		return bundle.Refuse(bundle.Index(at+".options", o.dataAt[0]), bundle.Quote(o.data[0])+" is not possible: the mount shows all hierarchies of the host")
	}
	for _, h := range p.facts.Cgroup1 {
		h.File = -1
		if !own {
			src, ok := p.cgroup1Source(h)
			if !ok {
				continue
			}
			h.File = p.source(src)
		}
		m.Cgroup1 = append(m.Cgroup1, h)
	}
	return nil
}

// cgroup1Source is the container's directory in a v1 hierarchy; none where the container
// has no cgroup, so that it does not see the host's.
func (p *planner) cgroup1Source(h rootfs.Cgroup1) (Source, bool) {
	controller, _, _ := strings.Cut(strings.TrimPrefix(h.Options, "none,"), ",")
	if !cgroup1Controller(controller) || p.manager() == managerNone {
		return Source{}, false
	}
	mountPoint := p.facts.Cgroup1Paths[h.Name]
	if p.manager() == managerSystemd || mountPoint == "" {
		return Source{Cgroup: controller}, true
	}
	return Source{Path: path.Join(mountPoint, p.cgroupfsPath())}, true
}

// cgroup1Controller tells whether the cgroup library joins that v1 hierarchy.
func cgroup1Controller(name string) bool {
	switch name {
	case "cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls", "net_prio",
		"perf_event", "freezer", "rdma", "name=systemd":
		return true
	}
	return false
}
