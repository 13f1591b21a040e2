package rootfs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenSource clones the tree at path into a detached mount: the source of a bind, or a
// root that is a plain directory. It is for the side that sees the host's tree, so
// symlinks are followed as the host means them; noFollow clones a final symlink itself.
func OpenSource(path string, recursive, noFollow bool) (*os.File, error) {
	fd, err := openSource(path, recursive, noFollow)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openSource(path string, recursive, noFollow bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.O_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if noFollow {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err == nil {
		return fd, nil
	}
	why := ""
	switch {
	case err == unix.EINVAL && recursive:
		why = " (is it a mount of this namespace, and not unbindable?)"
	case err == unix.EINVAL:
		why = " (an unbindable mount, or mounts below it that a user namespace may not uncover; rbind takes those along)"
	case err == unix.EPERM:
		why = " (cloning a mount takes CAP_SYS_ADMIN over the mount namespace)"
	case err == unix.ENOSYS:
		why = " (open_tree: needs Linux 5.15)"
	}
	return -1, fmt.Errorf("source %q: %w%s", path, err, why)
}

// Apply turns a tree that OpenSource made into an id-mapped one. The ids come from
// mount's own mappings (see UserNamespace) or are the container's: userns is either's
// user namespace. It must happen before the tree is attached, by a caller with
// CAP_SYS_ADMIN where the file system was mounted: in the parent.
func (m *IDMap) Apply(tree, userns *os.File) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(int(tree.Fd()), "", flags, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd()),
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("id-map %q: %w (this kernel cannot id-map its file system, or a mount below it)", tree.Name(), err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("id-map %q: %w (takes CAP_SYS_ADMIN where the file system was mounted, and a tree that is not id-mapped yet)", tree.Name(), err)
	}
	return fmt.Errorf("id-map %q: %w", tree.Name(), err)
}

// UserNamespace makes a user namespace with these mappings and nobody in it.
//
// A user namespace needs a process to be born in. Ours is stopped by ptrace at its
// execve, before its first instruction, and killed as soon as the namespace is open:
// nothing of it runs, so it does not matter what the program is.
func UserNamespace(uids, gids []Mapping) (*os.File, error) {
	// The tracer is a thread, and only that thread may wait for the stop.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"userns"}, &syscall.ProcAttr{
		Env: []string{},
		Sys: &syscall.SysProcAttr{
			Cloneflags:                 unix.CLONE_NEWUSER,
			UidMappings:                idMap(uids),
			GidMappings:                idMap(gids),
			GidMappingsEnableSetgroups: true,
			Ptrace:                     true,
			Pdeathsig:                  syscall.SIGKILL,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("user namespace of an id-mapped mount: %w", err)
	}
	defer func() {
		unix.Kill(pid, unix.SIGKILL)
		for {
			// The first report may be the stop; the end is what must be reaped.
			var status unix.WaitStatus
			if _, err := unix.Wait4(pid, &status, 0, nil); err != unix.EINTR && (err != nil || status.Exited() || status.Signaled()) {
				return
			}
		}
	}()
	path := fmt.Sprintf("/proc/%d/ns/user", pid)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("user namespace of an id-mapped mount: open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func idMap(list []Mapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(list))
	for i, m := range list {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	return out
}
