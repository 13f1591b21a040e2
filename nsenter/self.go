package nsenter

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Self opens our own binary so that no process that executes it, inside a container
// and with any capability there, can open it for writing: CVE-2019-5736 overwrote the
// host's runc through /proc/self/exe.
//
// The cheap way is a detached overlay mount without an upper layer, with the binary's
// directory below: opening /proc/PID/exe for writing is EROFS, the superblock cannot
// be made writable because there is nothing to write to, and the mount is in no mount
// table. Where the kernel or our rights do not allow it, a sealed memfd copy (about
// 2 ms) does the same. A read-only bind mount of the binary would not: its superblock
// is writable, so whoever may remount in the host's user namespace gets through.
func Self() (*os.File, error) {
	if f := resealed(); f != nil {
		return f, nil
	}
	if f, err := overlaySelf(); err == nil {
		return f, nil
	}
	f, err := memfdSelf()
	if err != nil {
		return nil, fmt.Errorf("seal our own binary: %w", err)
	}
	return f, nil
}

// sealedMark in the environment says that the process runs the sealed copy.
const sealedMark = "_THINRUN_SEALED"

// Reseal makes this process execute the sealed copy of its own binary, once; it returns
// nil when it does already. Whoever is about to join a pid namespace calls it first,
// before it holds anything: between fork and execve the child is in that namespace as a
// copy of us, and a tracer there (CAP_SYS_PTRACE) could open /proc/PID/exe, keep it, and
// write to the host's binary when nobody executes it any more (CVE-2019-5736). Our
// memory is in its reach too, so of the environment only keep comes along.
func Reseal(keep func(name string) bool) error {
	if f := resealed(); f != nil {
		// execve named the process by the number of a descriptor, for ps, top and pidof.
		_ = os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
		return f.Close()
	}
	exe, err := Self()
	if err != nil {
		return err
	}
	// The runtime starts fewer threads for one processor; more are of no use to us.
	env := []string{sealedMark + "=1", "GOMAXPROCS=1"}
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); keep(name) {
			env = append(env, e)
		}
	}
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", exe.Fd()), os.Args, env)
	return fmt.Errorf("execute our sealed binary: %w", err)
}

// resealed is the sealed copy that this process runs after Reseal; nil when it does not.
// A copy of the copy would be safe too, but our path does not lead to its file any more:
// it would be the memfd. The mark alone is not believed, it may be inherited.
func resealed() *os.File {
	if os.Getenv(sealedMark) == "" {
		return nil
	}
	fd, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "/proc/self/exe")
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err == nil && seals&unix.F_SEAL_WRITE != 0 {
		return f
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC && fs.Flags&unix.ST_RDONLY != 0 {
		return f
	}
	f.Close()
	return nil
}

func overlaySelf() (*os.File, error) {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	var want unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &want); err != nil {
		return nil, err
	}
	dir, err := unix.Open(filepath.Dir(exe), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	// Overlay without an upper layer wants two lower ones, before Linux 6.15 both in our
	// mount namespace (clone_private_mount). What is in the second does not matter: the
	// first hides it, and nobody gets a descriptor of a directory.
	// The first goes by descriptor, because a path may hold the separators ':' and ','.
	lower := fmt.Sprintf("/proc/self/fd/%d:/sys", dir)
	mnt, err := detached("overlay", map[string]string{"lowerdir": lower})
	if err != nil {
		return nil, err
	}
	defer mnt.Close()
	fd, err := unix.Openat(int(mnt.Fd()), filepath.Base(exe), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), exe)
	// The path may hold another file by now: an upgrade replaced the binary.
	var got unix.Stat_t
	if err := unix.Fstat(fd, &got); err != nil || got.Ino != want.Ino || got.Size != want.Size {
		f.Close()
		return nil, errors.New("the binary was replaced")
	}
	return f, nil
}

// detached makes a read-only mount that is in no mount table.
func detached(fstype string, options map[string]string) (*os.File, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	for k, v := range options {
		if err := unix.FsconfigSetString(fs, k, v); err != nil {
			return nil, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(m), fstype), nil
}

func memfdSelf() (*os.File, error) {
	src, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	defer src.Close()
	return sealedMemfd(src)
}

// sealedMemfd is an executable copy that nobody can write to.
func sealedMemfd(src io.Reader) (*os.File, error) {
	// MFD_EXEC is Linux 6.3; before it every memfd is executable.
	fd, err := unix.MemfdCreate("thinrun", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate("thinrun", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	dst := os.NewFile(uintptr(fd), "memfd:thinrun")
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		return nil, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		dst.Close()
		return nil, os.NewSyscallError("fcntl(F_ADD_SEALS)", err)
	}
	return dst, nil
}
