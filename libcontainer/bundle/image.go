package bundle

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ImageOptions are the options of run --image, in Docker's and Podman's words, together
// with what the image's own config says of them.
type ImageOptions struct {
	Args      []string
	Env       []string // NAME=value; NAME alone passes the caller's value on
	User      string   // UID[:GID]
	Cwd       string
	Terminal  bool
	Hostname  string
	Memory    string  // "512M"; "": no limit
	CPUs      float64 // 0: no limit
	PidsLimit int64   // 0: the default; -1: no limit
	ReadOnly  bool
	CapAdd    []string // with or without CAP_, or ALL
	CapDrop   []string
	Net       string   // none (default), host, or the path of a network namespace
	Volumes   []string // SOURCE:TARGET[:OPTIONS]
	Mounts    []specs.Mount
	Seccomp   *specs.LinuxSeccomp
}

// defaultPids is Podman's limit: ample for a build, and the end of a fork bomb.
const defaultPids = 2048

// ForImage makes the config of a container that has no bundle. The defaults keep the
// container to itself: private namespaces, no network but lo, Docker's capabilities, no
// new privileges, the well-known paths masked, a limit on processes.
func ForImage(o ImageOptions) (*Bundle, error) {
	if len(o.Args) == 0 {
		return nil, errors.New("no command is given, and the image names none")
	}
	caps, err := dockerCapabilities(o.CapAdd, o.CapDrop)
	if err != nil {
		return nil, err
	}
	pids := o.PidsLimit
	if pids == 0 {
		pids = defaultPids
	}
	s := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Terminal:        o.Terminal,
			Args:            o.Args,
			Env:             imageEnv(o.Env, o.Terminal),
			Cwd:             o.Cwd,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			NoNewPrivileges: true,
		},
		Root:     &specs.Root{Path: "rootfs", Readonly: o.ReadOnly}, // the snapshot takes the path's place
		Hostname: o.Hostname,
		Mounts:   systemMounts(),
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
				Pids:    &specs.LinuxPids{Limit: &pids},
			},
			Namespaces:    kinds("pid", "ipc", "uts", "mount", "cgroup"),
			Seccomp:       o.Seccomp,
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: readonlyPaths(),
		},
	}
	if s.Process.Cwd == "" {
		s.Process.Cwd = "/"
	}
	if o.User != "" {
		u := &s.Process.User
		if u.UID, u.GID, _, err = ParseUser(o.User); err != nil {
			return nil, err
		}
	}
	if err := imageLimits(s.Linux.Resources, o); err != nil {
		return nil, err
	}
	if err := imageNetwork(s, o.Net); err != nil {
		return nil, err
	}
	for _, v := range o.Volumes {
		m, err := volume(v)
		if err != nil {
			return nil, err
		}
		s.Mounts = append(s.Mounts, m)
	}
	s.Mounts = append(s.Mounts, o.Mounts...)
	// What is made here goes the way of every config: checked, and saved as text.
	return Parse(Encode(s))
}

func imageEnv(env []string, terminal bool) []string {
	out := make([]string, 0, len(env)+2)
	out = append(out, defaultPath)
	if terminal {
		out = append(out, "TERM=xterm")
	}
	for _, kv := range env {
		if !strings.Contains(kv, "=") {
			value, ok := os.LookupEnv(kv)
			if !ok {
				continue // as docker -e NAME does
			}
			kv += "=" + value
		}
		name, _, _ := strings.Cut(kv, "=")
		out = slices.DeleteFunc(out, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		out = append(out, kv)
	}
	return out
}

func imageLimits(r *specs.LinuxResources, o ImageOptions) error {
	if o.Memory != "" {
		n, err := ParseSize(o.Memory)
		if err != nil || n > math.MaxInt64 || n == 0 {
			return fmt.Errorf("memory limit %s is not a size (512m, 2G)", Quote(o.Memory))
		}
		limit := int64(n)
		r.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	if o.CPUs != 0 {
		// The kernel's smallest quota is 1 ms in the period of 100 ms.
		if !(o.CPUs >= 0.01 && o.CPUs <= 1<<16) {
			return fmt.Errorf("cpus %v is not between 0.01 and 65536", o.CPUs)
		}
		period, quota := uint64(100000), int64(o.CPUs*100000)
		r.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	return nil
}

func imageNetwork(s *specs.Spec, net string) error {
	switch {
	case net == "", net == "none":
		s.Linux.Namespaces = append(s.Linux.Namespaces, kinds("network")...)
	case net == "host":
		// The host's network without its names would be of little use.
		for _, file := range []string{"/etc/resolv.conf", "/etc/hosts"} {
			if _, err := os.Stat(file); err == nil {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: file, Source: file, Type: "bind",
					Options: []string{"bind", "rprivate", "nosuid", "nodev", "noexec", "ro"}})
			}
		}
	case filepath.IsAbs(net):
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: net})
	default:
		return fmt.Errorf("network %s is not none, host, or the absolute path of a network namespace", Quote(net))
	}
	return nil
}

// volume reads -v: SOURCE:TARGET[:OPTIONS]. A read-only one is so with all that is
// mounted below it; plain ro would leave that writable.
func volume(v string) (specs.Mount, error) {
	parts := strings.Split(v, ":")
	bad := fmt.Errorf("volume %s is not SOURCE:TARGET[:OPTIONS]", Quote(v))
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !filepath.IsAbs(parts[1]) {
		return specs.Mount{}, bad
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return specs.Mount{}, err
	}
	m := specs.Mount{Source: source, Destination: parts[1], Type: "bind", Options: []string{"rbind", "nosuid", "nodev"}}
	propagation := "rprivate"
	if len(parts) == 3 {
		for o := range strings.SplitSeq(parts[2], ",") {
			switch {
			case o == "ro":
				m.Options = append(m.Options, "rro")
			case o == "rw":
			case Propagation(o):
				propagation = o
			case oneOf(o, "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "relatime", "strictatime", "bind", "rbind"):
				m.Options = append(m.Options, o)
			default:
				return specs.Mount{}, fmt.Errorf("%w: %s is not an option of a volume", bad, Quote(o))
			}
		}
	}
	m.Options = append(m.Options, propagation)
	return m, nil
}

// dockerCapabilities is Docker's default set, changed as asked; ALL first, then names.
func dockerCapabilities(add, drop []string) ([]string, error) {
	set := map[string]bool{}
	for _, c := range []string{
		"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
		"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
	} {
		set[c] = true
	}
	change := func(list []string, to bool) error {
		for _, name := range list {
			full := strings.ToUpper(name)
			if full == "ALL" {
				continue
			}
			if !strings.HasPrefix(full, "CAP_") {
				full = "CAP_" + full
			}
			if Capability(full) < 0 {
				return fmt.Errorf("capability %s does not exist (see capabilities(7))", Quote(name))
			}
			set[full] = to
		}
		return nil
	}
	all := func(list []string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, "ALL") })
	}
	if all(add) || all(drop) {
		for _, c := range capabilityNames {
			set[c] = all(add) // --cap-add ALL --cap-drop ALL: Docker adds
		}
	}
	if err := change(add, true); err != nil {
		return nil, err
	}
	if err := change(drop, false); err != nil {
		return nil, err
	}
	out := []string{}
	for _, c := range capabilityNames {
		if set[c] {
			out = append(out, c)
		}
	}
	return out, nil
}
