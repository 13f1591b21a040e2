// Package cgroup is a thin face over github.com/opencontainers/cgroups. Nothing
// outside it asks which cgroup version the host has.
package cgroup

import "github.com/opencontainers/cgroups"

// Resources are the limits, in the words of the library that applies them.
type Resources = cgroups.Resources

// Config says where the container's cgroup is and what it may use.
type Config struct {
	// Path is linux.cgroupsPath made absolute below the hierarchy's root ("/thinrun/web"),
	// or slice:prefix:name for systemd.
	Path      string
	Systemd   bool
	Disabled  bool // --cgroup-manager disabled: stay in the caller's cgroup
	Rootless  bool // not being allowed to is no error
	Resources *Resources
}
