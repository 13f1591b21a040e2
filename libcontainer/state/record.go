// Package state is the state directory: who owns an id, the record of what the
// container holds, one lock per id, and the status that follows from record and
// kernel. A stranger can read the record: it is JSON with the field names below.
package state

import (
	"time"

	"thinrun/rootfs/storage"
)

// Version of the record's format. A newer one than ours is refused, never guessed at.
const Version = 1

// Phases of a record. They say what has been promised, not what is true now: see Status.
const (
	PhaseCreating   = "creating"   // resources below may exist or not
	PhaseCommitting = "committing" // all is made; init has not been told that it may outlive create
	PhaseCreated    = "created"    // create has returned or is about to
)

// Record names every resource of a container. It is on disk before the first of them
// is made, and stays until the last is gone.
type Record struct {
	Version     int               `json:"version"`
	ID          string            `json:"id"`
	OCIVersion  string            `json:"ociVersion"`
	Phase       string            `json:"phase"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Owner       int               `json:"owner"` // uid of the caller
	Annotations map[string]string `json:"annotations,omitempty"`
	// Runtime is the process that creates the container: while it lives and holds the
	// lock, creating is no wreck.
	Runtime Process       `json:"runtime"`
	Init    Process       `json:"init"`
	Cgroup  Cgroup        `json:"cgroup"`
	Storage storage.Claim `json:"storage"`
	// Namespaces that are the container's own, by runtime-spec's names.
	Namespaces []string `json:"namespaces,omitempty"`
	Poststop   []Hook   `json:"poststop,omitempty"`
	// HasPoststart: start has hooks to run, from the saved config.json.
	HasPoststart bool `json:"hasPoststart,omitempty"`
	// Ephemeral: a foreground run deletes the container when its program has ended. When
	// Runtime was killed before it could, gc does it.
	Ephemeral bool `json:"ephemeral,omitempty"`
}

// Process is a process that cannot be mistaken for another. A pid is reused, and within
// one clock tick the start time repeats too; the inode does not.
type Process struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // field 22 of /proc/PID/stat, clock ticks since boot
	BootID    string `json:"bootId"`
	// Inode of its pidfd: pidfs, Linux 6.9, never gives one out twice. Before, all pidfds
	// have the same, and comparing it says nothing.
	Inode uint64 `json:"inode,omitempty"`
}

// Cgroup is where the container's cgroups are.
type Cgroup struct {
	Manager string            `json:"manager,omitempty"` // cgroupfs, systemd, disabled
	Path    string            `json:"path,omitempty"`    // below the root of each hierarchy
	Paths   map[string]string `json:"paths,omitempty"`   // "" (v2) or controller -> absolute directory
	Existed bool              `json:"existed,omitempty"` // the directory was not made by us
	// Made: Create has answered that the cgroup is ours. Until then the paths may be another
	// container's, with its processes in it, and nobody there may be killed. No process of
	// ours enters before this is saved.
	Made bool `json:"made,omitempty"`
}

// Hook is a poststop hook, kept because the bundle may be gone at delete.
type Hook struct {
	Path    string   `json:"path"`
	Args    []string `json:"args,omitempty"`
	Env     []string `json:"env,omitempty"`
	Timeout int      `json:"timeout,omitempty"`
}
