package bundle

import (
	"errors"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The kernel's numbers behind the spec's words.

// Capabilities in the kernel's numbering; Linux 5.15 has these 41 and no release since
// has added one.
var capabilityNames = [...]string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
	"CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// CapabilityNames lists what Capability knows, in the kernel's order.
func CapabilityNames() []string { return append([]string(nil), capabilityNames[:]...) }

// Capability is a capability's number, -1 for an unknown name.
func Capability(name string) int {
	for n, s := range capabilityNames {
		if s == name {
			return n
		}
	}
	return -1
}

// Rlimit is the number of an RLIMIT_ name, -1 for an unknown one.
func Rlimit(name string) int {
	switch name {
	case "RLIMIT_CPU":
		return unix.RLIMIT_CPU
	case "RLIMIT_FSIZE":
		return unix.RLIMIT_FSIZE
	case "RLIMIT_DATA":
		return unix.RLIMIT_DATA
	case "RLIMIT_STACK":
		return unix.RLIMIT_STACK
	case "RLIMIT_CORE":
		return unix.RLIMIT_CORE
	case "RLIMIT_RSS":
		return unix.RLIMIT_RSS
	case "RLIMIT_NPROC":
		return unix.RLIMIT_NPROC
	case "RLIMIT_NOFILE":
		return unix.RLIMIT_NOFILE
	case "RLIMIT_MEMLOCK":
		return unix.RLIMIT_MEMLOCK
	case "RLIMIT_AS":
		return unix.RLIMIT_AS
	case "RLIMIT_LOCKS":
		return unix.RLIMIT_LOCKS
	case "RLIMIT_SIGPENDING":
		return unix.RLIMIT_SIGPENDING
	case "RLIMIT_MSGQUEUE":
		return unix.RLIMIT_MSGQUEUE
	case "RLIMIT_NICE":
		return unix.RLIMIT_NICE
	case "RLIMIT_RTPRIO":
		return unix.RLIMIT_RTPRIO
	case "RLIMIT_RTTIME":
		return unix.RLIMIT_RTTIME
	}
	return -1
}

// SchedulerPolicy is SCHED_*; sched(7).
func SchedulerPolicy(p specs.LinuxSchedulerPolicy) (uint32, bool) {
	switch p {
	case specs.SchedOther:
		return 0, true
	case specs.SchedFIFO:
		return 1, true
	case specs.SchedRR:
		return 2, true
	case specs.SchedBatch:
		return 3, true
	case specs.SchedIdle:
		return 5, true
	case specs.SchedDeadline:
		return 6, true
	}
	return 0, false
}

// SchedulerFlag is SCHED_FLAG_*; linux/sched.h.
func SchedulerFlag(f specs.LinuxSchedulerFlag) (uint64, bool) {
	switch f {
	case specs.SchedFlagResetOnFork:
		return 0x01, true
	case specs.SchedFlagReclaim:
		return 0x02, true
	case specs.SchedFlagDLOverrun:
		return 0x04, true
	case specs.SchedFlagKeepPolicy:
		return 0x08, true
	case specs.SchedFlagKeepParams:
		return 0x10, true
	case specs.SchedFlagUtilClampMin:
		return 0x20, true
	case specs.SchedFlagUtilClampMax:
		return 0x40, true
	}
	return 0, false
}

// IOPriorityClass is IOPRIO_CLASS_*; ioprio_set(2).
func IOPriorityClass(c specs.IOPriorityClass) (int, bool) {
	switch c {
	case specs.IOPRIO_CLASS_RT:
		return 1, true
	case specs.IOPRIO_CLASS_BE:
		return 2, true
	case specs.IOPRIO_CLASS_IDLE:
		return 3, true
	}
	return 0, false
}

// MemoryPolicyMode is MPOL_*; linux/mempolicy.h.
func MemoryPolicyMode(m specs.MemoryPolicyModeType) (uint32, bool) {
	switch m {
	case specs.MpolDefault:
		return 0, true
	case specs.MpolPreferred:
		return 1, true
	case specs.MpolBind:
		return 2, true
	case specs.MpolInterleave:
		return 3, true
	case specs.MpolLocal:
		return 4, true
	case specs.MpolPreferredMany:
		return 5, true
	case specs.MpolWeightedInterleave:
		return 6, true
	}
	return 0, false
}

// MemoryPolicyFlag is MPOL_F_*.
func MemoryPolicyFlag(f specs.MemoryPolicyFlagType) (uint32, bool) {
	switch f {
	case specs.MpolFNumaBalancing:
		return 1 << 13, true
	case specs.MpolFRelativeNodes:
		return 1 << 14, true
	case specs.MpolFStaticNodes:
		return 1 << 15, true
	}
	return 0, false
}

// MemoryPolicyModes are the words of MemoryPolicyMode, for features.
func MemoryPolicyModes() []string {
	return words(specs.MpolDefault, specs.MpolPreferred, specs.MpolBind, specs.MpolInterleave, specs.MpolLocal,
		specs.MpolPreferredMany, specs.MpolWeightedInterleave)
}

// MemoryPolicyFlags are the words of MemoryPolicyFlag.
func MemoryPolicyFlags() []string {
	return words(specs.MpolFNumaBalancing, specs.MpolFRelativeNodes, specs.MpolFStaticNodes)
}

func words[T ~string](list ...T) []string {
	var names []string
	for _, w := range list {
		names = append(names, string(w))
	}
	return names
}

// ParseList reads a list of CPUs or memory nodes ("0-3,7"), as cpuset(7) writes it. The
// result is sorted and has no number twice.
func ParseList(s string) ([]int, error) {
	const most = 65535
	bad := func() error { return errors.New(Quote(s) + ` is not a list of numbers and ranges ("0-3,7")`) }
	if s == "" {
		return nil, nil
	}
	if len(s) > 1<<16 {
		return nil, bad()
	}
	var set [most/64 + 1]uint64
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
		if err != nil {
			return nil, bad()
		}
		to := from
		if isRange {
			if to, err = strconv.ParseUint(strings.TrimSpace(high), 10, 16); err != nil || to < from {
				return nil, bad()
			}
		}
		for n := from; n <= to; {
			// By words: a list may name the widest range thousands of times.
			if n%64 == 0 && to-n >= 63 {
				set[n/64] = ^uint64(0)
				n += 64
				continue
			}
			set[n/64] |= 1 << (n % 64)
			n++
		}
	}
	var out []int
	for n := range most + 1 {
		if set[n/64]&(1<<(n%64)) != 0 {
			out = append(out, n)
		}
	}
	return out, nil
}

// ParseSize reads bytes with a unit, as Docker's and Podman's options spell them: 512m,
// 20G, 1.5GiB, 1048576. Units are powers of 1024.
func ParseSize(s string) (uint64, error) {
	bad := errors.New(Quote(s) + ` is not a size (a number with k, m, g or t: "512m", "20G")`)
	t := strings.ToLower(strings.TrimSpace(s))
	t = strings.TrimSuffix(t, "b")
	t = strings.TrimSuffix(t, "i")
	shift := 0
	if len(t) > 0 {
		if n := strings.IndexByte("kmgtp", t[len(t)-1]); n >= 0 {
			shift, t = 10*(n+1), t[:len(t)-1]
		} else if strings.HasSuffix(strings.ToLower(s), "ib") {
			return 0, bad
		}
	}
	if n, err := strconv.ParseUint(t, 10, 64); err == nil {
		if n<<shift>>shift != n || n<<shift > 1<<62 {
			return 0, bad
		}
		return n << shift, nil
	}
	whole, frac, point := strings.Cut(t, ".")
	if !point || shift == 0 || strings.Trim(whole+frac, "0123456789") != "" || whole == "" || frac == "" {
		return 0, bad
	}
	f, err := strconv.ParseFloat(t, 64)
	if err != nil || f < 0 || f*float64(uint64(1)<<shift) > 1<<62 {
		return 0, bad
	}
	return uint64(f * float64(uint64(1)<<shift)), nil
}

// ParseUser reads UID[:GID], in decimal digits only: every slip of this parser has been
// a way to root (CVE-2016-3697, CVE-2024-40635, CVE-2026-30892; `exec -u 4294967296` ran
// as root under runc 1.5.1 and crun 1.8).
func ParseUser(s string) (uid, gid uint32, hasGID bool, err error) {
	bad := errors.New("user " + Quote(s) + " is not UID or UID:GID (numbers from 0 to 4294967294)")
	id := func(t string) (uint32, bool) {
		n, err := strconv.ParseUint(t, 10, 32)
		return uint32(n), err == nil && n != 1<<32-1
	}
	u, g, hasGID := strings.Cut(s, ":")
	uid, ok := id(u)
	if ok && hasGID {
		gid, ok = id(g)
	}
	if !ok {
		return 0, 0, false, bad
	}
	return uid, gid, hasGID, nil
}

// CheckUser checks USER[:GROUP], each a number or a name that only the container's own
// files can make a number of. What looks like a number must be an id.
func CheckUser(s string) error {
	u, g, hasGroup := strings.Cut(s, ":")
	if !hasGroup {
		g = u
	}
	for _, word := range []string{u, g} {
		if word == "" || len(word) > 256 || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r == ':' || r == 0x7f || r == ',' }) {
			return errors.New("user " + Quote(s) + " is not USER or USER:GROUP")
		}
		if strings.Trim(word, "+-0123456789") == "" {
			if _, _, _, err := ParseUser(word); err != nil {
				_, _, _, err = ParseUser(s)
				return err
			}
		}
	}
	return nil
}
