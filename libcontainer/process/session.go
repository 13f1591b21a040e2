package process

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// NewSession leaves the caller's session. Without its own, a process could push input
// into the caller's terminal with TIOCSTI (CVE-2016-10124, CVE-2017-5226).
func (c *Config) NewSession() error {
	if _, err := unix.Setsid(); err != nil {
		return os.NewSyscallError("setsid", err)
	}
	return nil
}

// keyUserSearch is KEY_USR_SEARCH of <linux/keyctl.h>: a process that exec adds has the
// same uid but does not possess the ring, and finds it by name only with this bit.
const keyUserSearch = 0x00080000

// Keyring replaces the session keyring that came with the caller, so that the caller's
// keys stay out of the container. A kernel without keys has none to leak.
func (c *Config) Keyring() error {
	if c.KeyringName == "" {
		return nil
	}
	_, err := unix.KeyctlJoinSessionKeyring(c.KeyringName)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return nil
	case errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("join session keyring %q: %w (the user has no room for another; see /proc/sys/kernel/keys, or --no-new-keyring)", c.KeyringName, err)
	case err != nil:
		return fmt.Errorf("join session keyring %q: %w (--no-new-keyring keeps the caller's)", c.KeyringName, err)
	}
	const ring = unix.KEY_SPEC_SESSION_KEYRING // joining the one we have returns 0, not its id
	// type;uid;gid;permissions;name
	text, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, ring)
	if err != nil {
		return fmt.Errorf("describe session keyring %q: %w", c.KeyringName, err)
	}
	fields := strings.SplitN(text, ";", 5)
	if len(fields) < 5 {
		return fmt.Errorf("describe session keyring %q: the kernel says %q", c.KeyringName, text)
	}
	perm, err := strconv.ParseUint(fields[3], 16, 32)
	if err != nil {
		return fmt.Errorf("describe session keyring %q: the kernel says %q", c.KeyringName, text)
	}
	if perm&keyUserSearch != 0 { // exec, into a ring that create has opened
		return nil
	}
	if err := unix.KeyctlSetperm(ring, uint32(perm)|keyUserSearch); err != nil {
		return fmt.Errorf("make session keyring %q searchable: %w", c.KeyringName, err)
	}
	return nil
}

// TakeTerminal makes slave the controlling terminal and descriptors 0, 1 and 2. The
// caller has a new session and still owns slave.
func (c *Config) TakeTerminal(slave *os.File) error {
	fd := int(slave.Fd())
	if err := unix.IoctlSetInt(fd, unix.TIOCSCTTY, 0); err != nil {
		return fmt.Errorf("make %s the controlling terminal: %w", slave.Name(), err)
	}
	for std := range 3 {
		if fd == std { // dup3 refuses this; the descriptor must still survive execve
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
				return os.NewSyscallError("fcntl", err)
			}
			continue
		}
		if err := unix.Dup3(fd, std, 0); err != nil {
			return fmt.Errorf("make the terminal descriptor %d: %w", std, err)
		}
	}
	return nil
}
