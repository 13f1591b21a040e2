package libcontainer

import (
	"encoding/json"
	"errors"
	"io"
	"time"

	"thinrun/libcontainer/state"
	"thinrun/rootfs/storage"

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
	// Disk is thinrun's own addition: the container's disk, if its root is of an image.
	Disk *Disk `json:"disk,omitempty"`
}

// Disk is how large a container's root may become, and what it takes besides its image.
type Disk struct {
	Size uint64 `json:"size,omitempty"` // 0: no limit of its own
	Used uint64 `json:"used"`
}

// State tells what a container is now: record plus kernel, without the lock.
func (rt *Runtime) State(id string) (*State, error) {
	store, err := state.Open(rt.Root)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	m := rt.meters()
	defer m.close()
	return rt.stateOf(store, id, m)
}

func (rt *Runtime) stateOf(store *state.Store, id string, m *meters) (*State, error) {
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
	if status != state.Creating && m != nil {
		st.Disk = m.disk(rec.Storage)
	}
	return st, nil
}

// meters measure disks, each driver opened once.
type meters struct {
	rt   *Runtime
	open map[[2]string]imageDriver
}

func (rt *Runtime) meters() *meters { return &meters{rt, map[[2]string]imageDriver{}} }

// disk is nil when there is none, or nobody who can tell: the state of a container does
// not depend on how its pool is.
func (m *meters) disk(claim storage.Claim) *Disk {
	if claim.Image == "" {
		return nil
	}
	key := [2]string{claim.Driver, claim.Storage}
	d, known := m.open[key]
	if !known {
		d, _ = m.rt.driver(claim.Driver, claim.Storage)
		m.open[key] = d
	}
	if d == nil {
		return nil
	}
	disk, err := d.DiskOf(claim)
	if err != nil {
		return nil
	}
	return &Disk{Size: disk.Size, Used: disk.Used}
}

func (m *meters) close() {
	for _, d := range m.open {
		if c, ok := d.(io.Closer); ok {
			c.Close()
		}
	}
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
