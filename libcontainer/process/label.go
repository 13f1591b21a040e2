package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Labels asks the security module for the confinement that the next execve takes on.
// It needs no other privilege than to be the thread itself, but /proc of our own pid
// namespace, and comes before Become, which makes our /proc entries root's.
func (c *Config) Labels() error {
	if c.AppArmorProfile == "" && c.SELinuxLabel == "" {
		return nil
	}
	proc, err := openProc()
	if err != nil {
		return err
	}
	defer proc.Close()
	if c.AppArmorProfile != "" {
		if err := c.appArmor(proc); err != nil {
			return err
		}
	}
	if c.SELinuxLabel == "" {
		return nil
	}
	return c.seLinux(proc, "exec")
}

// KeyLabel labels the keyring that Keyring is about to make; it comes right before it.
func (c *Config) KeyLabel() error {
	if c.SELinuxLabel == "" || c.KeyringName == "" {
		return nil
	}
	proc, err := openProc()
	if err != nil {
		return err
	}
	defer proc.Close()
	return c.seLinux(proc, "keycreate")
}

// appArmor uses AppArmor's own file (5.8), never attr/exec: that one belongs to whichever
// module came first, and a SELinux without policy swallows any text there.
func (c *Config) appArmor(proc *os.File) error {
	const name = "apparmor/exec"
	attr, err := openAttr(proc, name, unix.O_WRONLY)
	if err == nil {
		err = writeAttr(attr, name, "exec "+c.AppArmorProfile)
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("apparmorProfile %q: %w (is the profile loaded? see /sys/kernel/security/apparmor/profiles)", c.AppArmorProfile, err)
		}
	}
	if err != nil {
		return fmt.Errorf("apparmorProfile %q: %w (is AppArmor on? see /sys/module/apparmor/parameters/enabled)", c.AppArmorProfile, err)
	}
	return nil
}

// seLinux first looks whether there is a policy: without one the kernel accepts any
// label and means nothing by it. Our own context is then the word "kernel".
func (c *Config) seLinux(proc *os.File, name string) error {
	current, err := openAttr(proc, "current", unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("selinuxLabel %q: %w", c.SELinuxLabel, err)
	}
	defer unix.Close(current)
	var context [256]byte
	if n, err := unix.Read(current, context[:]); err != nil || bytes.IndexByte(context[:n], ':') < 0 {
		return fmt.Errorf("selinuxLabel %q: `/proc/thread-self/attr/%s` is not SELinux's: it is off or has no policy", c.SELinuxLabel, name)
	}
	attr, err := openAttr(proc, name, unix.O_WRONLY)
	if err == nil {
		err = writeAttr(attr, name, c.SELinuxLabel)
	}
	if err != nil {
		return fmt.Errorf("selinuxLabel %q: %w", c.SELinuxLabel, err)
	}
	return nil
}

// openAttr opens a file of /proc/thread-self/attr. The image may have put anything over
// it (CVE-2019-16884, CVE-2025-52881): no other mount and no magic link is followed
// below proc.
func openAttr(proc *os.File, name string, flags uint64) (int, error) {
	fd, err := unix.Openat2(int(proc.Fd()), "thread-self/attr/"+name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("open `/proc/thread-self/attr/%s`: %w", name, err)
	}
	return fd, nil
}

// writeAttr also closes attr. Podman knows the error by the path in backquotes.
func writeAttr(attr int, name, value string) error {
	defer unix.Close(attr)
	if _, err := unix.Write(attr, []byte(value)); err != nil {
		return fmt.Errorf("write `/proc/thread-self/attr/%s`: %w", name, err)
	}
	return nil
}

// openProc is a procfs that nobody has mounted anything on: an own instance where the
// kernel lets us make one, else /proc if it really is the root of one.
func openProc() (*os.File, error) {
	if proc, err := ownProc(); err == nil {
		return proc, nil
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, "/proc", &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, fmt.Errorf("open `/proc/thread-self/attr`: %w (a security label needs /proc in the container)", err)
	}
	proc := os.NewFile(uintptr(fd), "/proc")
	var fs unix.Statfs_t
	var st unix.Stat_t
	const rootInode = 1 // PROC_ROOT_INO; a bind of one of its directories has another
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != unix.PROC_SUPER_MAGIC || unix.Fstat(fd, &st) != nil || st.Ino != rootInode {
		proc.Close()
		return nil, errors.New("open `/proc/thread-self/attr`: /proc in the container is not procfs (a security label would be lost there)")
	}
	return proc, nil
}

func ownProc() (*os.File, error) {
	fs, err := unix.Fsopen("proc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "subset", "pid"); err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "proc"), nil
}
