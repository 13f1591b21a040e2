package libcontainer

import (
	"encoding/json"
	"fmt"
	"os"

	"thinrun/libcontainer/process"
	"thinrun/libcontainer/seccomp"
	"thinrun/libcontainer/state"
	"thinrun/nsenter"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sendListener takes the seccomp notify descriptor out of init, where its number is fd,
// and hands it to the agent that the config names, with the container process state
// that runtime-spec asks for.
func sendListener(cfg *seccomp.Config, rec *state.Record, child *nsenter.Child, fd int) error {
	n, err := unix.PidfdGetfd(int(child.PidFD.Fd()), fd, 0)
	if err != nil {
		return fmt.Errorf("take the seccomp listener: pidfd_getfd: %w", err)
	}
	listener := os.NewFile(uintptr(n), "seccomp listener")
	defer listener.Close()
	st := specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: child.PID, Metadata: cfg.ListenerMetadata,
		State: specs.State{Version: rec.OCIVersion, ID: rec.ID, Status: specs.StateCreating, Pid: rec.Init.PID, Bundle: rec.Bundle, Annotations: rec.Annotations},
	}
	data, err := json.Marshal(st)
	if err != nil {
		return err
	}
	if err := process.SendFile(cfg.ListenerPath, data, listener); err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: %w", err)
	}
	return nil
}
