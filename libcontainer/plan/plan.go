// Package plan decides. Out of a valid spec, the caller's options and a few facts
// about the host it makes a Plan: everything that create will do, as pure data. It
// touches nothing; the OCI types end here.
package plan

import (
	"thinrun/libcontainer/cgroup"
	"thinrun/libcontainer/hooks"
	"thinrun/libcontainer/process"
	"thinrun/libcontainer/seccomp"
	"thinrun/nsenter"
	"thinrun/rootfs"
	"thinrun/rootfs/storage"
)

// Options are what the command line adds to the spec.
type Options struct {
	ID            string
	Bundle        string   // absolute
	StateDir      string   // this container's directory below --root
	Image         string   // --image, or annotation org.thinrun.image
	RootfsSize    string   // --rootfs-size, as the user wrote it ("20G"); "": the image's own
	Dirs          []string // the image's volumes
	Localhost     bool     // see rootfs.Config
	NoPivot       bool
	NoNewKeyring  bool
	PreserveFDs   int
	SystemdCgroup bool
	CgroupManager string // "", cgroupfs, systemd, disabled
	Rootless      bool
}

// Facts are what the plan must know of the host; gathered once, passed in.
type Facts struct {
	CgroupV2        bool              // unified hierarchy
	Cgroup1         []rootfs.Cgroup1  // mounted v1 hierarchies, File -1
	Cgroup1Paths    map[string]string // hierarchy name -> mount point on the host
	OwnCgroup       string            // our own v2 path, for rootless
	InUserNS        bool              // we are in a user namespace ourselves
	EUID            int
	SetgroupsDenied bool // /proc/self/setgroups says deny: groups stay as they are
	// StatSource tells whether the source of a bind is a directory; it is how the plan
	// stays pure: tests pass a table.
	StatSource func(path string) (isDir bool, err error) `json:"-"`
	// The rest may be nil; what it would tell is then believed.
	//
	// HostNetwork tells whether a network namespace's path leads to our own.
	HostNetwork func(path string) (bool, error) `json:"-"`
	// ProcFS tells whether a path is the root of a procfs.
	ProcFS func(path string) (bool, error) `json:"-"`
	// UserNSMappings reads the mappings of a user namespace that is joined.
	UserNSMappings func(path string) (uid, gid []nsenter.Mapping, err error) `json:"-"`
}

// Plan is one container, decided.
type Plan struct {
	ID          string
	OCIVersion  string
	Bundle      string
	Annotations map[string]string
	Namespaces  nsenter.Config
	Cgroup      cgroup.Config
	Storage     storage.Request
	// Sources are the host paths that bind mounts take, opened by the parent in the
	// host's view; rootfs.Mount.File and rootfs.Cgroup1.File are indices into it.
	Sources []Source
	Seccomp *seccomp.Config // compiled in the parent into Init.Seccomp
	// Hooks that the parent runs, in the host's namespaces.
	Prestart, CreateRuntime, Poststart, Poststop []hooks.Hook
	NetDevices                                   []NetDevice
	IntelRdt                                     *IntelRdt
	Terminal                                     bool
	Init                                         Init
}

// Source is a host tree to clone with open_tree(2).
type Source struct {
	Path      string
	Recursive bool
	NoFollow  bool
	// Cgroup instead of Path: the container's own directory in the v1 hierarchy of this
	// controller, where only the cgroup itself knows it (systemd).
	Cgroup string
}

// NetDevice is moved into the container's network namespace and renamed.
type NetDevice struct{ Name, NewName string }

// IntelRdt is linux.intelRdt; resctrl.
type IntelRdt struct {
	ClosID           string
	Schemata         []string
	L3CacheSchema    string
	MemBwSchema      string
	EnableMonitoring bool
}

// Init is the part of the plan that the init stage receives.
type Init struct {
	Hostname, Domainname string
	LoopbackUp           bool // a new network namespace: bring lo up
	Rootfs               rootfs.Config
	Process              process.Config
	Seccomp              *seccomp.Program
	CreateContainer      []hooks.Hook
	StartContainer       []hooks.Hook
	AskHooks             bool   // the parent has hooks to run before pivot_root: tell it when
	HookState            []byte // the state that those hooks read; the parent fills in the pid
}
