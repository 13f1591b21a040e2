package state

// Status is a container's status in the words of the runtime-spec, and runc's "paused".
type Status string

// The statuses.
const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped"
)

// StatusOf derives the status. Nothing that can be asked of the kernel is kept in the
// record, so there is nothing to fall out of date: alive and gateHeld are init's, frozen
// is the cgroup's. A nil record (ErrNoRecord) is a claim and no more.
func StatusOf(rec *Record, alive, gateHeld, frozen bool) Status {
	switch {
	case rec == nil, rec.Phase == PhaseCreating, rec.Phase == PhaseCommitting:
		return Creating
	case !alive:
		return Stopped
	case frozen:
		return Paused
	case gateHeld:
		return Created
	default:
		return Running
	}
}
