package bundle

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func (o *ImageOptions) limits(s *specs.Spec) error {
	r := s.Linux.Resources
	pids := o.PidsLimit
	if pids == 0 {
		pids = defaultPids
	}
	r.Pids = &specs.LinuxPids{Limit: &pids}
	if o.Memory != "" {
		n, err := ParseSize(o.Memory)
		if err != nil || n > math.MaxInt64 || n == 0 {
			return fmt.Errorf("memory limit %s is not a size (512m, 2G)", Quote(o.Memory))
		}
		limit := int64(n)
		r.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	switch {
	case o.MemorySwap == "":
	case r.Memory == nil:
		return fmt.Errorf("memory-swap %s needs --memory too: it is memory and swap together", Quote(o.MemorySwap))
	case o.MemorySwap == "-1":
		none := int64(-1)
		r.Memory.Swap = &none
	default:
		n, err := ParseSize(o.MemorySwap)
		if err != nil || n > math.MaxInt64 || int64(n) < *r.Memory.Limit {
			return fmt.Errorf("memory-swap %s is not -1, nor a size of memory and swap together (512m, 2G)", Quote(o.MemorySwap))
		}
		both := int64(n)
		r.Memory.Swap = &both
	}
	if o.CPUs != 0 {
		// The kernel's smallest quota is 1 ms in the period of 100 ms.
		if !(o.CPUs >= 0.01 && o.CPUs <= 1<<16) {
			return fmt.Errorf("cpus %v is not between 0.01 and 65536", o.CPUs)
		}
		period, quota := uint64(100000), int64(o.CPUs*100000)
		r.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	}
	for _, word := range o.Ulimits {
		l, err := ulimit(word)
		if err != nil {
			return err
		}
		s.Process.Rlimits = append(s.Process.Rlimits, l)
	}
	return nil
}

// ulimit reads --ulimit NAME=SOFT[:HARD], the name as in ulimits of Docker ("nofile").
func ulimit(word string) (specs.POSIXRlimit, error) {
	name, value, _ := strings.Cut(word, "=")
	l := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(name)}
	soft, hard, two := strings.Cut(value, ":")
	if !two {
		hard = soft
	}
	number := func(text string) (uint64, bool) {
		if oneOf(text, "-1", "unlimited") {
			return math.MaxUint64, true // RLIM_INFINITY
		}
		n, err := strconv.ParseUint(text, 10, 63)
		return n, err == nil
	}
	var ok, ok2 bool
	l.Soft, ok = number(soft)
	l.Hard, ok2 = number(hard)
	if !ok || !ok2 || Rlimit(l.Type) < 0 || l.Soft > l.Hard {
		return l, fmt.Errorf("ulimit %s is not NAME=SOFT[:HARD] (nofile=1024:4096; see getrlimit(2))", Quote(word))
	}
	return l, nil
}

// security applies --security-opt: what can be honoured. Seccomp is our caller's.
func (o *ImageOptions) security(s *specs.Spec) error {
	for _, word := range o.Security {
		key, value, given := strings.Cut(word, "=")
		if !given {
			key, value, given = strings.Cut(word, ":") // Docker's older spelling
		}
		switch {
		case key == "no-new-privileges" && (!given || oneOf(value, "true", "false")):
			s.Process.NoNewPrivileges = value != "false"
		case key == "apparmor" && value != "":
			s.Process.ApparmorProfile = value
		case key == "systempaths" && value == "unconfined":
			s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		case key == "seccomp" && value == "unconfined":
		default:
			return fmt.Errorf("security-opt %s is not no-new-privileges[=false], apparmor=PROFILE, seccomp=unconfined or systempaths=unconfined", Quote(word))
		}
	}
	return nil
}

// Unfiltered tells whether --security-opt asks for no seccomp filter.
func (o *ImageOptions) Unfiltered() bool {
	return slices.Contains(o.Security, "seccomp=unconfined") || slices.Contains(o.Security, "seccomp:unconfined")
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
