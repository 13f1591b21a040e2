package process

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Become makes the calling thread the container's user: names, environment, umask, groups,
// ids and the five capability sets.
//
// Every call is raw and concerns this thread only. Go's syscall.Setuid would first
// stop and change all threads of the runtime; they end at the execve anyway. The caller
// has locked itself to the thread that will call Execve.
//
// A change of ids or a loss of capabilities clears the parent death signal
// (commit_creds in the kernel): the caller re-arms it after this. It also sets dumpable
// to fs.suid_dumpable, which may be 1; we are what an attacker in the same pid
// namespace would like to look into (CVE-2016-9962), so it goes back to 0. The execve
// makes the program dumpable as usual.
func (c *Config) Become() error {
	if err := c.lookup(passwdFile, groupFile); err != nil {
		return err
	}
	if c.User.UID == math.MaxUint32 || c.User.GID == math.MaxUint32 {
		// setresuid(2) takes -1 as "leave it": that would be root (CVE-2016-3697's kin).
		return fmt.Errorf("user %d:%d: 4294967295 is not an id", c.User.UID, c.User.GID)
	}
	if err := c.Environment(); err != nil {
		return err
	}
	c.tryCwd()
	if err := c.ownStdio(); err != nil {
		return err
	}
	umask := 0o022 // runc's, and so Docker's: the caller's is that of whatever shell it was
	if c.User.Umask != nil {
		umask = int(*c.User.Umask)
	}
	unix.Umask(umask)
	// While we are still allowed to.
	if err := dropBounding(c.Capabilities.Bounding); err != nil {
		return err
	}
	// Leaving uid 0 empties the permitted set unless this is on; execve turns it off.
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_KEEPCAPS): %w (the caller's securebits forbid it)", err)
	}
	if err := c.User.become(); err != nil {
		return err
	}
	if err := c.Capabilities.set(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_KEEPCAPS)", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_DUMPABLE)", err)
	}
	return nil
}

// become sets groups first, then the gid, then the uid: each step gives up the right to
// the one before. Groups are always set, to none if need be: the caller's may open
// doors (CVE-2022-36109).
func (u *User) become() error {
	if !u.KeepGroups {
		groups := append([]uint32{}, u.AdditionalGIDs...)
		var first unsafe.Pointer
		if len(groups) > 0 {
			first = unsafe.Pointer(&groups[0])
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(first), 0); errno != 0 {
			return fmt.Errorf("setgroups %v: %w%s", groups, errno, whyNoID(errno, "linux.gidMappings"))
		}
	}
	gid, uid := uintptr(u.GID), uintptr(u.UID)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); errno != 0 {
		return fmt.Errorf("setresgid %d: %w%s", gid, errno, whyNoID(errno, "linux.gidMappings"))
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
		return fmt.Errorf("setresuid %d: %w%s", uid, errno, whyNoID(errno, "linux.uidMappings"))
	}
	return nil
}

func whyNoID(errno unix.Errno, mappings string) string {
	switch errno {
	case unix.EINVAL:
		return " (it has no mapping in this user namespace; see " + mappings + ")"
	case unix.EPERM:
		return " (not allowed to the caller, or setgroups is denied in this user namespace)"
	}
	return ""
}

// ownStdio gives the pipes and terminals at descriptors 0 to 2 to the user: /dev/stdout
// is opened anew through /proc, and then their owner counts. A file on the host keeps
// its owner, whatever was redirected from it. The group stays: a terminal has its own.
func (c *Config) ownStdio() error {
	for fd := range 3 {
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		if errors.Is(err, unix.EBADF) {
			continue // closed by the caller
		}
		if err != nil {
			return fmt.Errorf("fstat descriptor %d: %w", fd, err)
		}
		kind := st.Mode & unix.S_IFMT
		ours := kind == unix.S_IFIFO || kind == unix.S_IFSOCK || kind == unix.S_IFCHR && isTerminal(fd)
		if st.Uid == c.User.UID || !ours {
			continue
		}
		err = unix.Fchown(fd, int(c.User.UID), -1)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EPERM), errors.Is(err, unix.EROFS):
			// An owner that has no mapping here, or a FIFO on a read-only file system:
			// the descriptor itself still works.
		default:
			return fmt.Errorf("give descriptor %d to uid %d: %w", fd, c.User.UID, err)
		}
	}
	return nil
}

// dropBounding keeps only what is in keep. The first number the kernel does not know
// ends the list.
func dropBounding(keep uint64) error {
	for n := range uintptr(64) {
		if keep&(1<<n) != 0 {
			continue
		}
		_, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, n, 0)
		if errno == unix.EINVAL {
			return nil
		}
		if errno == unix.EPERM { // no CAP_SETPCAP; fine where there is nothing to drop
			has, _, _ := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_READ, n, 0)
			if has == 0 {
				continue
			}
		}
		if errno != 0 {
			return fmt.Errorf("drop %s from the bounding set: %w", capName(int(n)), errno)
		}
	}
	return nil
}

// set applies the sets after the ids have changed. Inheritable is exactly what was
// asked for, by default nothing: with more, a file's inheritable capabilities would
// raise privileges (CVE-2022-24769 and its kin). Ambient can only be what is permitted
// and inheritable (capabilities(7)); the rest of what was asked for cannot be had.
func (s *Capabilities) set() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := [2]unix.CapUserData{
		{Effective: uint32(s.Effective), Permitted: uint32(s.Permitted), Inheritable: uint32(s.Inheritable)},
		{Effective: uint32(s.Effective >> 32), Permitted: uint32(s.Permitted >> 32), Inheritable: uint32(s.Inheritable >> 32)},
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return s.explain(err)
	}
	err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("clear the ambient set: %w", err)
	}
	ambient := s.Ambient & s.Permitted & s.Inheritable
	for n := range 64 {
		if ambient&(1<<n) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0); err != nil {
			return fmt.Errorf("make %s ambient: %w", capName(n), err)
		}
	}
	return nil
}

// explain names the capabilities that made capset fail: those the caller has not.
func (s *Capabilities) explain(err error) error {
	var have [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if unix.Capget(&header, &have[0]) != nil {
		return fmt.Errorf("capset: %w", err)
	}
	permitted := uint64(have[0].Permitted) | uint64(have[1].Permitted)<<32
	if s.Effective&^s.Permitted != 0 {
		return fmt.Errorf("capset: %w (effective but not permitted:%s)", err, capNames(s.Effective&^s.Permitted))
	}
	if missing := s.Permitted &^ permitted; missing != 0 {
		return fmt.Errorf("capset: %w (the caller itself has no%s)", err, capNames(missing))
	}
	return fmt.Errorf("capset: %w (inheritable but not in the bounding set:%s)", err, capNames(s.Inheritable&^s.Bounding))
}

func capNames(set uint64) string {
	text := ""
	for n := range 64 {
		if set&(1<<n) != 0 {
			text += " " + capName(n)
		}
	}
	return text
}

func capName(n int) string {
	names := [...]string{
		"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
		"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
		"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
		"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
		"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
		"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
	}
	if n < len(names) {
		return "CAP_" + names[n]
	}
	return "capability " + strconv.Itoa(n)
}
