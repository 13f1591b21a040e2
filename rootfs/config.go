// Package rootfs makes the container's root out of a mount file descriptor, inside
// the container's mount namespace: attach, mounts, /dev, pivot_root, seal.
//
// It never uses a path below the rootfs with the kernel's ordinary path walk: every
// target is opened by openat2(RESOLVE_IN_ROOT) below a descriptor of the root, and
// every mount is made detached and then moved onto such a descriptor. That is the
// answer to the path CVEs of runc (2019-18837, 2021-30465, 2024-45310, 2025-31133,
// 2025-52881, 2026-41579): there is no path to swap.
package rootfs

// Config is all that rootfs does, in order. It is pure data: the plan fills it.
type Config struct {
	// AttachAt is the directory, in init's copy of the host's mount table, on which the
	// root is mounted until pivot_root; createContainer hooks see the rootfs there.
	AttachAt string
	// Source is the directory to take as the root when no descriptor of one comes: a
	// parent without CAP_SYS_ADMIN may not clone mounts, its init may.
	Source string
	// UserNS: the container is in a user namespace that is not the parent's. Mounts
	// from the host are then never its peers, whatever the propagation asked for.
	UserNS bool
	// Readonly: the root mount becomes read-only at the end.
	Readonly bool
	// Propagation of "/" inside, MS_* flags (linux.rootfsPropagation); 0 means rslave:
	// mounts of the host arrive in the container, never the other way, as with runc.
	Propagation uint64
	// Dirs, an image's volumes, are made where they are missing, as root's, before anything
	// is mounted.
	Dirs []string
	// Localhost is written to /etc/hosts where the image has none, or an empty one: Docker
	// brings that file, so that images come without it, and "localhost" is found nowhere.
	Localhost bool
	NoPivot   bool // move the root over "/" and chroot, for an initramfs root
	Mounts    []Mount
	// SetupDev: make Devices and the usual links in /dev; not when it is a bind of the
	// host's.
	SetupDev bool
	// Devices are all nodes to make, the default ones included.
	Devices       []Device
	BindDevices   bool // a user namespace may not mknod: bind the host's nodes instead
	Console       bool // bind the terminal's slave on /dev/console
	MaskedPaths   []string
	ReadonlyPaths []string
	MountLabel    string // SELinux context for new file systems
	Sysctl        []KeyValue
}

// KeyValue is a sysctl in slash or dot form and its value.
type KeyValue struct{ Key, Value string }

// Mount kinds.
const (
	KindFS      = "fs"      // fsopen(Type)
	KindBind    = "bind"    // a clone of a host tree; the parent opened it (FD)
	KindCgroup2 = "cgroup2" // cgroup v2 hierarchy, seen from our cgroup namespace
	KindCgroup1 = "cgroup1" // a tmpfs with one mount per v1 controller (Cgroup1)
	KindRemount = "remount" // change flags of what is mounted there
)

// Mount is one entry of config.json's mounts, decided.
type Mount struct {
	Kind        string
	Destination string // absolute, below the rootfs
	Type        string // file system type (KindFS)
	Source      string // as in config.json
	// Attr and AttrClear are MOUNT_ATTR_* for the mount itself, RecAttr and RecAttrClear
	// for the whole tree (rro and friends).
	Attr, AttrClear       uint64
	RecAttr, RecAttrClear uint64
	Propagation           []uint64 // MS_SHARED etc. with or without MS_REC, in order
	Options               []string // key or key=value for fsconfig, in order
	SuperFlags            uint64   // MS_* flags that belong to the superblock: MS_SYNCHRONOUS, MS_DIRSYNC, MS_MANDLOCK, MS_LAZYTIME, MS_RDONLY
	Recursive             bool     // rbind
	TmpCopyUp             bool     // tmpcopyup: start with what the directory held
	IDMap                 *IDMap   // idmap/ridmap with its mappings
	SrcIsDir              bool     // what the bound source is: a directory or something else
	// File is the number of the descriptor among those that arrive with the plan: a
	// detached tree made by open_tree. -1: none; a bind then clones Source in init's copy
	// of the host's tree. A cgroup2 mount with a File, or Recursive, is bound like that.
	File    int
	Cgroup1 []Cgroup1
	// crun's mount options of those names. CopySymlink wants a File that was opened
	// without following (SrcNoFollow).
	SrcNoFollow, DestNoFollow, CopySymlink bool
}

// Cgroup1 is one v1 hierarchy as the container sees it.
type Cgroup1 struct {
	Name    string   // directory: "cpu,cpuacct"
	Options string   // mount data: "cpu,cpuacct" or "none,name=systemd"
	Links   []string // symlinks to Name: "cpu", "cpuacct"
	File    int      // without a cgroup namespace: the container's directory, bound
}

// IDMap is an id-mapped mount; mount_setattr(2).
type IDMap struct {
	UIDMappings, GIDMappings []Mapping
	Recursive                bool
}

// Mapping is a line of uid_map.
type Mapping struct{ ContainerID, HostID, Size uint32 }

// Device is a node below /dev.
type Device struct {
	Path         string
	Type         string // b, c, u, p
	Major, Minor int64
	Mode         uint32 // permission bits
	UID, GID     uint32
}
