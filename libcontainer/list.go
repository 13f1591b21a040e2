package libcontainer

import (
	"errors"
	"os/user"
	"strconv"

	"thinrun/libcontainer/state"
)

// List is the state of every container, sorted by id. Those that cannot be told are in the
// error; the others still come. briefly: without their disks.
func (rt *Runtime) List(briefly bool) ([]State, error) {
	store, err := state.Open(rt.Root)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	ids, err := store.List()
	if err != nil {
		return nil, err
	}
	var m *meters
	if !briefly {
		m = rt.meters()
		defer m.close()
	}
	var list []State
	var bad []error
	for _, id := range ids {
		st, err := rt.stateOf(store, id, m)
		if errors.Is(err, state.ErrNotExist) { // deleted while we read
			continue
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		list = append(list, *st)
	}
	return list, errors.Join(bad...)
}

// ownerName is the user's name, or the number when there is none.
func ownerName(uid int) string {
	if uid == 0 { // without reading /etc/passwd for the usual case
		return "root"
	}
	id := strconv.Itoa(uid)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}
