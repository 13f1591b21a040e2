package process

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Environment makes Env what the program gets: of two values of a name the last counts,
// and a missing or empty HOME is the one the container's /etc/passwd gives the user.
// Become calls it; calling it twice changes nothing.
func (c *Config) Environment() error {
	env, err := lastOfEach(c.Env)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") })
	if at < 0 || env[at] == "HOME=" {
		home := "HOME=" + homeOr(c.home)
		if c.home == "" {
			home = "HOME=" + homeOf(c.User.UID, passwdFile)
		}
		if at < 0 {
			env = append(env, home)
		} else {
			env[at] = home
		}
	}
	c.Env = env
	return nil
}

// lastOfEach drops all but the last value of a name. Shells take the first of two and
// programs mostly the last: passing both on would be asking for confusion.
func lastOfEach(env []string) ([]string, error) {
	seen := make(map[string]bool, len(env))
	out := make([]string, 0, len(env)+1)
	for i := len(env) - 1; i >= 0; i-- {
		name, _, ok := strings.Cut(env[i], "=")
		switch {
		case !ok:
			return nil, fmt.Errorf("process.env: %q has no =", env[i])
		case name == "":
			return nil, fmt.Errorf("process.env: %q has no name", env[i])
		case strings.IndexByte(env[i], 0) >= 0:
			return nil, fmt.Errorf("process.env: the value of %q has a NUL", name)
		case seen[name]:
			continue
		}
		seen[name] = true
		out = append(out, env[i])
	}
	slices.Reverse(out)
	return out, nil
}

// tryCwd goes to the working directory with the rights we still have. Root may enter
// what the user may not; the other way round (NFS with root_squash) Chdir tries again.
func (c *Config) tryCwd() { c.inCwd = unix.Chdir(c.Cwd) == nil }

// Chdir goes to the working directory as the user, unless Become got there already, and
// makes sure that it is a place inside the container's root: /proc/self/fd/7 may lead
// out of it (CVE-2024-21626).
func (c *Config) Chdir() error {
	if !c.inCwd {
		if err := unix.Chdir(c.Cwd); err != nil {
			return fmt.Errorf("process.cwd: %w", &os.PathError{Op: "chdir", Path: c.Cwd, Err: err})
		}
	}
	// getcwd(2) answers "(unreachable)..." for what is not below our root; x/sys makes
	// that ENOENT, which the kernel also says of a directory that is deleted.
	dir, err := unix.Getwd()
	if errors.Is(err, unix.ENOENT) || err == nil && !strings.HasPrefix(dir, "/") {
		return fmt.Errorf("process.cwd: %q is outside of the container's root or deleted", c.Cwd)
	}
	if err != nil {
		return fmt.Errorf("process.cwd: %q: getcwd: %w", c.Cwd, err)
	}
	return nil
}
