package rootfs

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Dev fills /dev with nodes and links, unless it is a bind of somebody's /dev.
//
// Whatever the image has there, a symlink to anywhere included, is resolved below the
// root, and every node is one name below a descriptor (CVE-2026-41579, CVE-2026-47766:
// an image's /dev -> /dev had runtimes make nodes on the host).
func (r *Root) Dev() error {
	if !r.cfg.SetupDev {
		return nil
	}
	defer unix.Umask(unix.Umask(0))
	if err := r.openDev(); err != nil {
		return err
	}
	for i := range r.cfg.Devices {
		if err := r.node(&r.cfg.Devices[i]); err != nil {
			return fmt.Errorf("%s: %w", r.cfg.Devices[i].Path, err)
		}
	}
	return r.links()
}

func (r *Root) openDev() (err error) {
	if r.dev < 0 {
		if r.dev, _, err = r.makeDir("/dev"); err != nil {
			return fmt.Errorf("/dev: %w", err)
		}
	}
	return nil
}

func (r *Root) node(d *Device) error {
	dir, name := r.dev, strings.TrimPrefix(d.Path, "/dev/")
	if name == d.Path || strings.Contains(name, "/") || name == "" || name == "." || name == ".." {
		var err error
		if dir, name, err = r.parent(d.Path); err != nil {
			return err
		}
		defer unix.Close(dir)
	}
	mode, number := d.Mode&0o7777, 0
	switch d.Type {
	case "b":
		mode |= unix.S_IFBLK
	case "c", "u":
		mode |= unix.S_IFCHR
	case "p":
		mode |= unix.S_IFIFO
	default:
		return fmt.Errorf("BUG: device of type %q", d.Type)
	}
	if d.Type != "p" {
		number = int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	}
	if r.cfg.BindDevices && d.Type != "p" {
		return bindNode(d, dir, name, mode, number)
	}
	err := unix.Mknodat(dir, name, mode, number)
	switch {
	case err == unix.EEXIST:
		return sameNode(d, dir, name, mode, number)
	case err == unix.EPERM && d.Type != "p":
		// No CAP_MKNOD, or somebody else's user namespace around us.
		return bindNode(d, dir, name, mode, number)
	case err != nil:
		return fmt.Errorf("mknod: %w", err)
	case d.UID == 0 && d.GID == 0:
		return nil
	}
	if err := unix.Fchownat(dir, name, int(d.UID), int(d.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner %d:%d: %w", d.UID, d.GID, err)
	}
	// chown drops setuid and setgid, and nothing else here can carry them back.
	return nil
}

// sameNode accepts what is there already if it is the same device; anything else would
// make the container talk to the wrong one, and runtime-spec asks for an error.
func sameNode(d *Device, dir int, name string, mode uint32, number int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != mode&unix.S_IFMT || int(st.Rdev) != number {
		return fmt.Errorf("%w in the image or a mount and is not device %s %d:%d", unix.EEXIST, d.Type, d.Major, d.Minor)
	}
	return nil
}

// bindNode shows the host's node, because a user namespace may not make any. It works
// before pivot_root only, when "/" is still the host's tree.
func bindNode(d *Device, dir int, name string, mode uint32, number int) error {
	source, err := openSource(d.Path, false, false)
	if err != nil {
		return fmt.Errorf("bind the host's node: %w", err)
	}
	defer unix.Close(source)
	st, err := fstat(source)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != mode&unix.S_IFMT || int(st.Rdev) != number {
		return fmt.Errorf("the host's node is not device %s %d:%d", d.Type, d.Major, d.Minor)
	}
	if err := setattr(source, false, unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return err
	}
	target, err := placeFor(dir, name)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return moveOnto(source, target)
}

// placeFor opens dir/name to mount a node on, made if it is missing. A symlink there is
// not followed but covered.
func placeFor(dir int, name string) (int, error) {
	err := unix.Mknodat(dir, name, unix.S_IFREG|0o600, 0)
	if err != nil && err != unix.EEXIST {
		return -1, err
	}
	return unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// links makes the symlinks of runtime-spec, "Dev symbolic links". Those that exist stay
// as the image has them, but for ptmx: it must be the one of the container's devpts.
func (r *Root) links() error {
	for _, l := range [...]struct{ name, text string }{
		{"fd", "/proc/self/fd"},
		{"stdin", "/proc/self/fd/0"},
		{"stdout", "/proc/self/fd/1"},
		{"stderr", "/proc/self/fd/2"},
		{"core", "/proc/kcore"},
	} {
		if l.name == "core" && !r.hasKcore() {
			continue
		}
		if err := unix.Symlinkat(l.text, r.dev, l.name); err != nil && err != unix.EEXIST {
			return fmt.Errorf("/dev/%s: %w", l.name, err)
		}
	}
	err := unix.Symlinkat("pts/ptmx", r.dev, "ptmx")
	if err == unix.EEXIST {
		if old, lerr := readlink(r.dev, "ptmx"); lerr == nil && (old == "pts/ptmx" || old == "/dev/pts/ptmx") {
			return nil
		}
		if err = unix.Unlinkat(r.dev, "ptmx", 0); err == nil {
			err = unix.Symlinkat("pts/ptmx", r.dev, "ptmx")
		}
	}
	if err != nil {
		return fmt.Errorf("/dev/ptmx: %w", err)
	}
	return nil
}

func (r *Root) hasKcore() bool {
	if r.proc < 0 {
		return false
	}
	var st unix.Stat_t
	return unix.Fstatat(r.proc, "kcore", &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}
