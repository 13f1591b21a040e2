package nsenter

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ExecCarried executes a program that is not a file, from a sealed memfd, with our
// arguments and environment.
func ExecCarried(program string) error {
	f, err := sealedMemfd(strings.NewReader(program))
	if errors.Is(err, unix.EACCES) {
		// Linux 6.3 and later, admin-guide/sysctl/vm.rst: 2 refuses what may be executed.
		return fmt.Errorf("the program for this command: %w (vm.memfd_noexec is 2? thinrun needs 0 or 1, or a binary built by plain go build)", err)
	}
	if err != nil {
		return fmt.Errorf("the program for this command: %w", err)
	}
	err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.Args, os.Environ())
	return fmt.Errorf("execute the program for this command: %w", err)
}
