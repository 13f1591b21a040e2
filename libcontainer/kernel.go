package libcontainer

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// checkKernel says in one line what an older kernel would say as the ENOSYS of some call
// in the middle: mount_setattr is Linux 5.12, cgroup.kill 5.14, and 5.15 the first
// long-term kernel with both.
func checkKernel() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	return checkRelease(unix.ByteSliceToString(name.Release[:]))
}

func checkRelease(release string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return nil // a name that is not a version tells nothing
	}
	if major < 5 || major == 5 && minor < 15 {
		return fmt.Errorf("this kernel is Linux %s; thinrun needs 5.15 or newer", release)
	}
	return nil
}
