package layer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// made says what of a new file is as it shall be, by the way it was made.
type made struct{ owner, mode bool }

// asMade: a new file has our ids, and the mode that was asked for without the umask's
// bits, but not in a directory that passes something on.
func (t *tree) asMade(e *entry) made {
	if t.at.inherits {
		return made{}
	}
	return made{owner: ids{e.uid, e.gid} == t.us, mode: e.mode&0o7000 == 0 && e.mode&t.umask == 0}
}

// umask reads our own, which there is no other way to read without setting it: all of
// the process's threads share it.
func umask() uint32 {
	status, _ := os.ReadFile("/proc/self/status") // Umask is of Linux 4.7
	_, rest, _ := bytes.Cut(status, []byte("\nUmask:\t"))
	octal, _, found := bytes.Cut(rest, []byte("\n"))
	mask, err := strconv.ParseUint(string(octal), 8, 32)
	if !found || err != nil {
		return 0o777 // nothing is trusted
	}
	return uint32(mask)
}

// meta sets owner, attributes, mode and times of the new file at name, in this order:
// chown takes setuid bits and file capabilities away. Directories' times come in finish.
func (t *tree) meta(name string, e *entry) error {
	have := t.asMade(e)
	if !have.owner {
		if err := unix.Fchownat(t.at.fd, name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("owner %d:%d: %w", e.uid, e.gid, err)
		}
	}
	kind := e.kind()
	if t.at.acl && kind != unix.S_IFLNK {
		if err := dropACLs(func(acl string) error { return unix.Lremovexattr(procFile(t.at.fd, name), acl) }); err != nil {
			return err
		}
	}
	err := t.setXattrs(e, func(name2, value string) error {
		return unix.Lsetxattr(procFile(t.at.fd, name), name2, []byte(value), 0)
	})
	if err != nil {
		return err
	}
	if kind != unix.S_IFLNK && !have.mode {
		if err := unix.Fchmodat(t.at.fd, name, e.mode&0o7777, 0); err != nil {
			return fmt.Errorf("mode %o: %w", e.mode&0o7777, err)
		}
	}
	if kind == unix.S_IFDIR {
		return nil
	}
	if err := unix.UtimesNanoAt(t.at.fd, name, e.times[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// fmeta is meta for an open file.
func (t *tree) fmeta(fd int, e *entry, have made) error {
	if !have.owner {
		if err := unix.Fchown(fd, int(e.uid), int(e.gid)); err != nil {
			return fmt.Errorf("owner %d:%d: %w", e.uid, e.gid, err)
		}
	}
	if t.at.acl {
		if err := dropACLs(func(name string) error { return unix.Fremovexattr(fd, name) }); err != nil {
			return err
		}
	}
	err := t.setXattrs(e, func(name, value string) error { return unix.Fsetxattr(fd, name, []byte(value), 0) })
	if err != nil {
		return err
	}
	if !have.mode {
		if err := unix.Fchmod(fd, e.mode&0o7777); err != nil {
			return fmt.Errorf("mode %o: %w", e.mode&0o7777, err)
		}
	}
	if e.kind() == unix.S_IFDIR {
		return nil
	}
	if err := futimens(fd, &e.times); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// futimens is utimensat(2) without a path: the descriptor's own file.
func futimens(fd int, times *[2]unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(times)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// adopt gives a directory that is there already all that e says, and takes away what e
// does not say.
func (t *tree) adopt(fd int, e *entry) error {
	t.later(e)
	names, err := grow(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("extended attributes: %w", err)
	}
	for name := range strings.SplitSeq(string(names), "\x00") {
		if take, err := foreign(name); name == "" || !take || err != nil {
			continue
		}
		if err := unix.Fremovexattr(fd, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("extended attribute %q: %w", name, err)
		}
	}
	return t.fmeta(fd, e, made{})
}

// adoptRoot: the root's own descriptor may be a mount's (fsmount(2)), which is O_PATH, and
// good for nothing but to start from.
func (t *tree) adoptRoot(e *entry) error {
	fd, err := unix.Openat(t.root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return t.adopt(fd, e)
}

// The extended attributes that hold an ACL, as acl(5) has them.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// dropACLs takes away what a new file has from its directory's default ACL: an archive
// says all that a file has, and chmod alone would only change the ACL's mask. umoci does so
// too; containerd leaves it.
func dropACLs(remove func(name string) error) error {
	for _, name := range []string{aclAccess, aclDefault} {
		if err := remove(name); err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("access control list of its directory: %w", err)
		}
	}
	return nil
}

func (t *tree) setXattrs(e *entry, set func(name, value string) error) error {
	for _, x := range e.xattrs {
		take, err := foreign(x.name)
		if err != nil {
			return err
		}
		if !take {
			continue
		}
		err = set(x.name, x.value)
		if errors.Is(err, unix.ENOTSUP) { // a Mac's com.apple.*, an NFS ACL
			t.say("xattr", fmt.Sprintf("left out: extended attributes that this file system does not have, the first %q of %q", x.name, e.path))
			continue
		}
		if err != nil {
			return fmt.Errorf("extended attribute %q: %w", x.name, err)
		}
	}
	return nil
}

// foreign tells whether an extended attribute is to be taken over: not a label of the
// host's security module, which another host reads otherwise; and overlayfs's own words
// are refused, because in a layer they redirect and hide files.
func foreign(name string) (take bool, err error) {
	switch name {
	case "security.selinux", "security.ima", "security.evm", "security.apparmor":
		return false, nil
	}
	if strings.HasPrefix(name, "security.SMACK64") {
		return false, nil
	}
	if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
		return false, fmt.Errorf("extended attribute %q belongs to overlayfs, not into an image", name)
	}
	return true, nil
}
