// Package nsenter puts a process into the right namespaces and executes our own
// binary there, sealed so that nothing inside can write to it.
//
// It knows namespaces, id maps and the one hand-made fork (fork.go). What the
// process does once it is there is not its business.
package nsenter

import "golang.org/x/sys/unix"

// Kind is a namespace's CLONE_NEW* flag.
type Kind uint64

// The namespaces of Linux 5.15, by the names that runtime-spec gives them.
const (
	User    Kind = unix.CLONE_NEWUSER
	Mount   Kind = unix.CLONE_NEWNS
	PID     Kind = unix.CLONE_NEWPID
	Network Kind = unix.CLONE_NEWNET
	IPC     Kind = unix.CLONE_NEWIPC
	UTS     Kind = unix.CLONE_NEWUTS
	Cgroup  Kind = unix.CLONE_NEWCGROUP
	Time    Kind = unix.CLONE_NEWTIME
)

// Config says which namespaces the child is in.
type Config struct {
	New         Kind // made for the child, or-ed together
	Join        []Join
	UIDMappings []Mapping // of a new user namespace
	GIDMappings []Mapping
	TimeOffsets []TimeOffset // of a new time namespace; see time_namespaces(7)
}

// Join is a namespace that exists already.
type Join struct {
	Kind Kind
	Path string // e.g. /run/netns/x or /proc/7/ns/net
}

// Mapping is a line of uid_map; user_namespaces(7).
type Mapping struct {
	ContainerID, HostID, Size uint32
}

// TimeOffset is a line of timens_offsets. Clock is "monotonic" or "boottime".
type TimeOffset struct {
	Clock string
	Secs  int64
	Nanos uint32
}
