package libcontainer

import (
	"errors"
	"os/user"
	"strconv"
	"sync"

	"thinrun/libcontainer/cgroup"
	"thinrun/libcontainer/state"
	"thinrun/rootfs/storage"
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
	detect := sync.OnceValues(cgroup.Detect)
	var list []State
	var claims []storage.Claim
	var bad []error
	for _, id := range ids {
		st, claim, err := stateOf(store, id, detect)
		if errors.Is(err, state.ErrNotExist) { // deleted while we read
			continue
		}
		if err != nil {
			bad = append(bad, err)
			continue
		}
		list, claims = append(list, st), append(claims, claim)
	}
	if !briefly {
		rt.measure(list, claims)
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
