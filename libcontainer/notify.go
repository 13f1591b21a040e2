package libcontainer

import (
	"encoding/json"
	"fmt"
	"os"

	"thinrun/libcontainer/process"
	"thinrun/libcontainer/seccomp"
	"thinrun/libcontainer/state"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// sendListener hands the seccomp notify descriptor to the agent that the config names,
// with the container process state that runtime-spec asks for.
func sendListener(cfg *seccomp.Config, rec *state.Record, pid int, listener *os.File) error {
	st := specs.ContainerProcessState{
		Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: cfg.ListenerMetadata,
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
