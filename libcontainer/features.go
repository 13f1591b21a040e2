package libcontainer

import (
	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/plan"
	"thinrun/libcontainer/seccomp"
	"thinrun/nsenter"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Features is what this runtime can do, whatever the host can: containerd, dockerd and
// CRI-O ask at their start and read mountOptions, namespaces and mountExtensions.
func Features() *features.Features {
	yes, no := true, false
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  plan.MountOptions(),
		Linux: &features.Linux{
			Namespaces:   (nsenter.Cgroup | nsenter.IPC | nsenter.Mount | nsenter.Network | nsenter.PID | nsenter.Time | nsenter.User | nsenter.UTS).Names(),
			Capabilities: bundle.CapabilityNames(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &no, SystemdUser: &no, Rdma: &yes},
			Seccomp: &features.Seccomp{
				Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(), Archs: seccomp.Architectures(),
				KnownFlags: seccomp.Flags(), SupportedFlags: seccomp.SupportedFlags(),
			},
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MemoryPolicy:    &features.MemoryPolicy{Modes: bundle.MemoryPolicyModes(), Flags: bundle.MemoryPolicyFlags()},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &no},
		},
		PotentiallyUnsafeConfigAnnotations: []string{"org.thinrun."},
	}
}
