package libcontainer

import (
	"encoding/json"
	"errors"
	"time"

	"thinrun/libcontainer/state"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// State is what `state` prints and `list` collects: runc's fields in runc's order,
// because buildkit, CRI-O and Podman read them.
type State struct {
	OCIVersion  string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"` // 0 when stopped
	Status      state.Status      `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

// State tells what a container is now: record plus kernel, without the lock.
func (rt *Runtime) State(id string) (*State, error) {
	store, err := state.Open(rt.Root)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	rec, err := store.Read(id)
	if errors.Is(err, state.ErrNoRecord) {
		rec, err = unrecorded(id), nil
	}
	if err != nil {
		return nil, err
	}
	status, err := statusOf(store, rec)
	if err != nil {
		return nil, err
	}
	st := &State{
		OCIVersion: rec.OCIVersion, ID: rec.ID, Status: status, Bundle: rec.Bundle, Rootfs: rec.Rootfs,
		Created: rec.Created, Annotations: rec.Annotations, Owner: ownerName(rec.Owner),
	}
	if status != state.Stopped && status != state.Creating {
		st.PID = rec.Init.PID
	}
	return st, nil
}

// unrecorded stands for an id that is claimed and whose record is not there: create is
// about to write it, or was killed before.
func unrecorded(id string) *state.Record {
	return &state.Record{Version: state.Version, ID: id, OCIVersion: specs.Version, Phase: state.PhaseCreating}
}

// statusOf gathers the kernel's part of the truth and leaves the decision to state.
func statusOf(store *state.Store, rec *state.Record) (state.Status, error) {
	alive, err := rec.Init.Alive()
	if err != nil {
		return "", err
	}
	var held, frozen bool
	if alive {
		if held, err = store.GateHeld(rec.ID); err != nil {
			return "", err
		}
		cg, err := openCgroup(rec)
		if err != nil {
			return "", err
		}
		if cg != nil {
			if frozen, err = cg.Frozen(); err != nil {
				return "", err
			}
		}
	}
	return state.StatusOf(rec, alive, held, frozen), nil
}

// ociState is the state that hooks read on their standard input.
func ociState(rec *state.Record, status state.Status) ([]byte, error) {
	st := specs.State{
		Version: rec.OCIVersion, ID: rec.ID, Status: specs.ContainerState(status),
		Bundle: rec.Bundle, Annotations: rec.Annotations,
	}
	if status != state.Stopped {
		st.Pid = rec.Init.PID
	}
	return json.Marshal(st)
}
