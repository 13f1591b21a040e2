package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	fs1 "github.com/opencontainers/cgroups/fs"
	"golang.org/x/sys/unix"
)

// freezeWait bounds how long a process may take to reach the freezer: one that hangs in
// the kernel (NFS, a dead device) never does.
const freezeWait = 10 * time.Second

// freezer is the directory whose freezer holds all of the container.
func (c *Cgroup) freezer() (dir string, v2 bool) {
	if dir := c.paths["freezer"]; dir != "" {
		return dir, false
	}
	return c.paths[""], true
}

// Freeze stops every process and returns when all stand still; on failure they run.
func (c *Cgroup) Freeze() error {
	dir, v2 := c.freezer()
	if dir == "" {
		return errors.New("cgroup: cannot freeze: the container has no cgroup with a freezer")
	}
	if !v2 {
		// A v1 freezer can stay in FREEZING while processes are born in it; the library
		// knows how to insist, and thaws when it gives up.
		if err := (&fs1.FreezerGroup{}).Set(dir, &Resources{Freezer: cgroups.Frozen}); err != nil {
			return fmt.Errorf("cgroup: freeze %s: %w", dir, err)
		}
		return nil
	}
	if err := write(dir+"/cgroup.freeze", "1"); err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	done, err := waitEvent(dir, "frozen 1", time.Now().Add(freezeWait))
	if err == nil && !done {
		err = fmt.Errorf("some process does not reach the freezer within %v", freezeWait)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cgroup: freeze %s: %w", dir, err), c.Thaw())
	}
	return nil
}

// Thaw lets them run again. Content when they do, or when there is no cgroup.
func (c *Cgroup) Thaw() error {
	dir, v2 := c.freezer()
	if dir == "" {
		return nil
	}
	if err := thaw(dir, v2); err != nil {
		return fmt.Errorf("cgroup: thaw: %w", err)
	}
	return nil
}

func thaw(dir string, v2 bool) error {
	file, text := "/freezer.state", "THAWED"
	if v2 {
		file, text = "/cgroup.freeze", "0"
	}
	return ifThere(write(dir+file, text))
}

// Frozen tells whether the container was frozen; not whether one of its own
// sub-cgroups is.
func (c *Cgroup) Frozen() (bool, error) {
	dir, v2 := c.freezer()
	if dir == "" {
		return false, nil
	}
	return isFrozen(dir, v2)
}

// isFrozen asks for the wish, not for how far the kernel is: while that takes its time
// the container is paused already.
func isFrozen(dir string, v2 bool) (bool, error) {
	file := "/freezer.self_freezing"
	if v2 {
		file = "/cgroup.freeze"
	}
	text, err := read(dir + file)
	if err := ifThere(err); err != nil {
		return false, fmt.Errorf("cgroup: %s%s: %w", dir, file, err)
	}
	return strings.TrimSpace(text) == "1", nil
}

// ifThere takes away the errors of a cgroup that is gone, or has no such file: reading
// one that was removed after open is ENODEV.
func ifThere(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

// waitEvent waits until cgroup.events has the line; true also when the cgroup is gone.
// The kernel wakes poll(2) when the file changes: cgroups(7).
func waitEvent(dir, line string, deadline time.Time) (bool, error) {
	fd, err := open(dir+"/cgroup.events", unix.O_RDONLY)
	if err != nil {
		return ifThere(err) == nil, ifThere(err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(dir, "cgroup.events"))
	defer f.Close()
	buf := make([]byte, 256)
	for {
		n, err := f.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return ifThere(err) == nil, ifThere(err)
		}
		for got := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(got) == line {
				return true, nil
			}
		}
		left := time.Until(deadline)
		if left <= 0 {
			return false, nil
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return false, err
		}
	}
}
