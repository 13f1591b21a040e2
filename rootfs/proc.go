package rootfs

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// trustProc remembers what was put on /proc if it is a procfs, root and all. Sysctl
// writes through it, and nothing may be mounted over parts of it.
func (r *Root) trustProc(mount int) error {
	if !isProcRoot(mount) {
		return nil
	}
	st, err := fstat(mount)
	if err != nil {
		return err
	}
	fd, err := unix.FcntlInt(uintptr(mount), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	closeAll(r.proc)
	r.proc, r.procDev = fd, st.Dev
	return nil
}

func isProcRoot(fd int) bool {
	const rootInode = 1 // PROC_ROOT_INO, the same since Linux 2.4
	st, err := fstat(fd)
	return err == nil && st.Ino == rootInode && isProc(fd)
}

func isProc(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PROC_SUPER_MAGIC
}

// guardProc refuses a mount that would hide a part of /proc: a process reads and writes
// its own labels there, and an image's volume must not answer for the kernel
// (CVE-2019-16884). It judges where the destination really is, not how it is spelled.
func (r *Root) guardProc(m *Mount, target int, at unix.Stat_t) error {
	clean := path.Clean("/" + m.Destination)
	ours := r.proc >= 0 && at.Dev == r.procDev
	switch {
	case clean == "/proc":
		if m.Type != "proc" && m.Kind != KindBind {
			return errors.New("only a procfs may be mounted on /proc")
		}
	case emulated(clean):
		if !isProc(target) {
			return errors.New("the destination is not on a procfs; mount proc on /proc first")
		}
	case ours, strings.HasPrefix(clean, "/proc/"):
		return errors.New("the destination is inside /proc, where only the files that lxcfs emulates may be covered")
	}
	return nil
}

// guardProcBind is guardProc for a bind: /proc itself may be covered by another procfs,
// the host's when the container has its pid namespace.
func (r *Root) guardProcBind(m *Mount, source, target int, at unix.Stat_t) error {
	if path.Clean("/"+m.Destination) == "/proc" && !isProcRoot(source) {
		return errors.New("only a procfs may be mounted on /proc")
	}
	return r.guardProc(m, target, at)
}

// emulated are the files below /proc that lxcfs and the like provide.
func emulated(path string) bool {
	switch path {
	case "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps",
		"/proc/uptime", "/proc/loadavg", "/proc/slabinfo",
		"/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled":
		return true
	}
	return false
}

// openProc makes a procfs that nobody else can reach, so nothing can be mounted over
// it. Where a user namespace may not have a new one, the host's is cloned; that works
// before pivot_root only.
func openProc() (int, error) {
	fd, err := newFS("proc", "proc", nil, 0, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err == nil || !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	fd, cerr := openSource("/proc", true, true)
	if cerr != nil {
		return -1, errors.Join(err, cerr)
	}
	if !isProcRoot(fd) {
		unix.Close(fd)
		return -1, fmt.Errorf("%w, and the host's /proc is not a procfs", err)
	}
	return fd, nil
}
