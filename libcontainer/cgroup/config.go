// Package cgroup is where a container is limited, counted, frozen and killed. Nothing
// outside it asks which cgroup version the host has.
//
// The limits themselves are written by github.com/opencontainers/cgroups. What that
// library does by polling, or after a process is inside already, is done here: making
// the directories, entering them, device rules, freezing, killing and removing.
// Systemd's scopes would be one more way to make the directories; that cut is Config.Systemd.
package cgroup

import "github.com/opencontainers/cgroups"

// Resources are the limits, in the words of the library that applies them.
type Resources = cgroups.Resources

// Stats are the counters, in the words of the library that reads them.
type Stats = cgroups.Stats

// Config says where the container's cgroup is and what it may use.
type Config struct {
	// Path is linux.cgroupsPath made absolute below the hierarchy's root ("/thinrun/web"),
	// or slice:prefix:name for systemd.
	Path      string
	Systemd   bool
	Disabled  bool // --cgroup-manager disabled: stay in the caller's cgroup
	Rootless  bool // not being allowed to is no error
	Resources *Resources
	// OwnerUID is the host's uid of the container's root, when the container may write to
	// its own cgroup2 (runtime-spec, "Cgroup ownership"); nil: leave it to us.
	OwnerUID *int
}
