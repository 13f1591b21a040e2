// Package process turns the init stage into the user's program: session, terminal,
// user, capabilities, rlimits, and the execve. It acts on the calling thread and
// process only, and knows nothing of containers.
package process

// Config is one process of a container: init's own or one that exec adds.
type Config struct {
	Args     []string
	Env      []string
	Cwd      string
	Terminal bool
	Console  *Size // consoleSize
	User     User
	// Capability sets as bit masks, bit n = capability number n (capabilities(7)); no
	// capabilities object in the config means none, as with runc.
	Capabilities    Capabilities
	Rlimits         []Rlimit
	NoNewPrivileges bool
	OOMScoreAdj     *int
	AppArmorProfile string
	SELinuxLabel    string
	Scheduler       *Scheduler
	IOPriority      *IOPriority
	Personality     *uint64 // personality(2) persona
	MemoryPolicy    *MemoryPolicy
	// CPUAffinity is execCPUAffinity: the mask before the cgroup is joined and after.
	CPUAffinityInitial, CPUAffinityFinal []int
	PreserveFDs                          int    // descriptors 3..3+n-1 stay open
	KeyringName                          string // session keyring; "" keeps the caller's

	inCwd bool   // Become reached Cwd
	home  string // of the user that lookup found
}

// Size of a terminal in characters.
type Size struct{ Height, Width uint16 }

// User is who the process runs as, ids as seen inside the container.
type User struct {
	UID, GID       uint32
	AdditionalGIDs []uint32
	// Name is USER[:GROUP], names or numbers, which the container's own files make into
	// ids; UID and GID do not count then.
	Name  string
	Umask *uint32 // nil: 022
	// KeepGroups: setgroups is not allowed or not wanted (rootless).
	KeepGroups bool
}

// Capabilities are the five sets.
type Capabilities struct {
	Bounding, Effective, Inheritable, Permitted, Ambient uint64
}

// Rlimit as in getrlimit(2); Resource is RLIMIT_*.
type Rlimit struct {
	Resource   int
	Soft, Hard uint64
}

// Scheduler is sched_setattr(2)'s argument.
type Scheduler struct {
	Policy                    uint32
	Flags                     uint64
	Nice                      int32
	Priority                  uint32
	Runtime, Deadline, Period uint64
}

// IOPriority is ioprio_set(2)'s argument: IOPRIO_CLASS_* and 0..7.
type IOPriority struct{ Class, Priority int }

// MemoryPolicy is set_mempolicy(2)'s argument.
type MemoryPolicy struct {
	Mode, Flags uint32
	Nodes       []int
}
