package rootfs

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Sysctl writes the configured values. Each goes through a procfs of ours, and the walk
// below it refuses symlinks and other mounts: a write that is redirected to another file
// of procfs, sysrq-trigger say, is a break-out (CVE-2025-52881).
func (r *Root) Sysctl() error {
	for i := range r.cfg.Sysctl {
		kv := &r.cfg.Sysctl[i]
		if err := r.sysctl(kv.Key, kv.Value); err != nil {
			return fmt.Errorf("%q = %q: %w", kv.Key, kv.Value, err)
		}
	}
	return nil
}

func (r *Root) sysctl(key, value string) error {
	path, err := sysctlPath(key)
	if err != nil {
		return err
	}
	if strings.ContainsAny(strings.TrimSuffix(value, "\n"), "\n\x00") {
		return errors.New("the value has a newline or NUL in it")
	}
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV
	fd, err := below(r.proc, path, unix.O_WRONLY|unix.O_NOFOLLOW, resolve)
	if err == unix.EROFS || err == unix.ENOENT {
		// The container's own /proc may be read-only or have no sys (subset=pid).
		proc, perr := openProc()
		if perr == nil {
			closeAll(r.proc)
			r.proc, r.procDev = proc, 0
			fd, err = below(r.proc, path, unix.O_WRONLY|unix.O_NOFOLLOW, resolve)
		}
	}
	switch {
	case err == unix.ENOENT:
		return fmt.Errorf("%w (this kernel, or this namespace, has no /proc/%s)", err, path)
	case err == unix.EXDEV:
		return fmt.Errorf("%w (something is mounted over a part of /proc/sys)", err)
	case err == unix.EACCES || err == unix.EPERM:
		return fmt.Errorf("%w (it belongs to a namespace that is not the container's)", err)
	case err != nil:
		return err
	}
	defer unix.Close(fd)
	// In one write: procfs takes each write for a whole value.
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return err
	}
	return nil
}

// sysctlPath turns a key into its path below /proc. As sysctl(8) has it, the first
// separator says which one separates, so that an interface eth0.100 can be named.
func sysctlPath(key string) (string, error) {
	path := key
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '.' {
		path = strings.Map(func(c rune) rune {
			switch c {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return c
		}, key)
	}
	for _, name := range strings.Split(path, "/") {
		if name == "" || name == "." || name == ".." || strings.Contains(name, "\x00") {
			return "", errors.New("is not the name of a sysctl")
		}
	}
	return "sys/" + path, nil
}
