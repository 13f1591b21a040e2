package libcontainer

import (
	"encoding/json"
	"errors"
	"io"
	"time"

	"thinrun/libcontainer/cgroup"
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
	st, claim, err := stateOf(store, id, cgroup.Detect)
	if err != nil {
		return nil, err
	}
	list := []State{st}
	rt.measure(list, []storage.Claim{claim})
	return &list[0], nil
}

// stateOf is a container's state but for its disk, and its claim, by which that is measured.
func stateOf(store *state.Store, id string, detect func() (cgroup.Host, error)) (st State, claim storage.Claim, err error) {
	rec, err := store.Read(id)
	if errors.Is(err, state.ErrNoRecord) {
		rec, err = unrecorded(id), nil
	}
	if err != nil {
		return st, claim, err
	}
	status, err := statusOn(detect, store, rec)
	if err != nil {
		return st, claim, err
	}
	st = State{
		OCIVersion: rec.OCIVersion, ID: rec.ID, Status: status, Bundle: rec.Bundle, Rootfs: rec.Rootfs,
		Created: rec.Created, Annotations: rec.Annotations, Owner: ownerName(rec.Owner),
	}
	if status != state.Stopped && status != state.Creating {
		st.PID = rec.Init.PID
	}
	return st, rec.Storage, nil
}

// measure adds the disks to states, whose claims come in the same order. Each driver is
// asked once for all. A disk is left out when there is none, or nobody who can tell: the
// state of a container does not depend on how its pool is.
func (rt *Runtime) measure(list []State, claims []storage.Claim) {
	groups := map[[2]string][]int{}
	for i, c := range claims {
		if c.Image != "" && list[i].Status != state.Creating {
			key := [2]string{c.Driver, c.Storage}
			groups[key] = append(groups[key], i)
		}
	}
	for key, at := range groups {
		d, err := rt.driver(key[0], key[1])
		if err != nil {
			continue
		}
		part := make([]storage.Claim, len(at))
		for k, i := range at {
			part[k] = claims[i]
		}
		disks, _ := d.DisksOf(part) // none with an error
		for k, disk := range disks {
			if disk != nil {
				list[at[k]].Disk = (*Disk)(disk)
			}
		}
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
	return statusOn(cgroup.Detect, store, rec)
}

func statusOn(detect func() (cgroup.Host, error), store *state.Store, rec *state.Record) (state.Status, error) {
	alive, err := store.Alive(rec.Init)
	if err != nil {
		return "", err
	}
	var held, frozen bool
	if alive {
		if held, err = store.GateHeld(rec.ID); err != nil {
			return "", err
		}
		cg, err := openCgroupOn(detect, rec)
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
