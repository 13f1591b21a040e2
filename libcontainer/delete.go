package libcontainer

import (
	"errors"
	"fmt"
	"time"

	"thinrun/libcontainer/state"
)

// Delete gives everything of a container back. Without force it refuses a running one;
// with force it kills first, and an id that does not exist is no error. It returns nil
// only when all is verified gone.
func (rt *Runtime) Delete(id string, force bool) error {
	store, err := state.Open(rt.Root)
	if err != nil {
		return err
	}
	defer store.Close()
	c, err := store.Lock(id)
	if errors.Is(err, state.ErrNotExist) && force {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return rt.delete(store, c, force)
}

func (rt *Runtime) delete(store *state.Store, c *state.Container, force bool) error {
	rec, err := c.Load()
	if errors.Is(err, state.ErrNoRecord) {
		// Claimed, and killed before the record: nothing was made yet.
		return c.Remove()
	}
	if err != nil {
		return err
	}
	status, err := statusOf(store, rec)
	if err != nil {
		return err
	}
	if !force && (status == state.Running || status == state.Paused) {
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", rec.ID, status)
	}
	return rt.teardown(c, rec)
}

func deadlineNow() time.Time { return time.Now().Add(teardownWait) }
