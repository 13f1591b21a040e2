package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/proc"
)

// Procs are the processes of the container, in its sub-cgroups too, sorted. Pids of
// processes that our own pid namespace does not see are left out.
func (c *Cgroup) Procs() ([]int, error) {
	for _, key := range []string{"", "devices", "pids", "freezer", "memory", "name=systemd"} {
		if dir := c.paths[key]; dir != "" {
			return procs(dir)
		}
	}
	return c.allProcs()
}

// allProcs are those of every hierarchy: a create that was killed between two of them
// left a process in some.
func (c *Cgroup) allProcs() ([]int, error) {
	var all []int
	for _, dir := range c.dirs() {
		pids, err := procs(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func procs(dir string) ([]int, error) {
	var pids []int
	err := walk(dir, func(at int, name string) error {
		text, err := readAt(at, name+"/cgroup.procs")
		if errors.Is(err, unix.EOPNOTSUPP) { // threaded: its domain, above, has the processes
			return nil
		}
		if err := ifThere(err); err != nil {
			return fmt.Errorf("cgroup: %s/cgroup.procs: %w", name, err)
		}
		for word := range strings.FieldsSeq(text) {
			if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	slices.Sort(pids)
	return slices.Compact(pids), err
}

// walk calls do for dir and every cgroup below, those below first, each by its name in the
// directory at: a container that may make cgroups makes them deeper than a path can say.
// Those that go away meanwhile are passed over.
func walk(dir string, do func(at int, name string) error) error {
	// Mostly there is none below, and the link count knows without a listing of forty files.
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err == nil && st.Nlink == 2 {
		return do(unix.AT_FDCWD, dir)
	}
	fd, err := openIn(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil {
		fd, err = walkBelow(fd, do)
		unix.Close(fd)
	}
	if err := ifThere(err); err != nil {
		return fmt.Errorf("cgroup: %s: %w", dir, err)
	}
	return do(unix.AT_FDCWD, dir)
}

// walkBelow is walk without the directory itself. However deep it goes it holds one open:
// on the way down it gives fd up, and comes back to it by "..", which also leads out of a
// directory that was removed.
func walkBelow(fd int, do func(at int, name string) error) (again int, err error) {
	names, err := below(fd)
	if err != nil {
		return fd, err
	}
	for _, name := range names {
		sub, err := openIn(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if ifThere(err) != nil {
			return fd, err
		}
		if err == nil {
			unix.Close(fd)
			if fd, err = walkBelow(sub, do); err != nil {
				return fd, err
			}
			sub = fd
			fd, err = openIn(sub, "..", unix.O_RDONLY|unix.O_DIRECTORY)
			unix.Close(sub)
			if err != nil {
				return -1, err
			}
		}
		if err := do(fd, name); err != nil {
			return fd, err
		}
	}
	return fd, nil
}

// below are the names of the directories in an open one.
func below(fd int) (names []string, err error) {
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	dir := os.NewFile(uintptr(own), "cgroup")
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, ifThere(err)
}

// Signal sends a signal to every process of the container.
func (c *Cgroup) Signal(sig unix.Signal) error {
	pids, err := c.Procs()
	if err != nil {
		return err
	}
	held := map[int]int{}
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil { // else it has ended
			held[pid] = fd
		}
	}
	// A pid of the first list may be another's by now; one that is in the list while we
	// hold it is the container's.
	if pids, err = c.Procs(); err != nil {
		return err
	}
	for _, pid := range pids {
		fd, ok := held[pid]
		if !ok {
			continue
		}
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal process %d: %w", pid, err)
		}
	}
	return nil
}

// Kill kills every process of the container, frozen ones too, in sub-cgroups too. It does
// not wait for their end.
func (c *Cgroup) Kill() error {
	// SIGKILL waits outside a v1 freezer, so what the container froze itself is thawed
	// (runc#2105: such a container could not be killed at all). cgroup2's does not hold it.
	defer c.thawAll()
	if dir := c.paths[""]; dir != "" {
		// cgroup.kill takes the tree at once: no fork escapes (Linux 5.14).
		err := ifThere(write(dir+"/cgroup.kill", "1"))
		if err == nil && c.host.V2 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // EOPNOTSUPP: threaded
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return c.killEach()
}

// killEach kills process by process, until none is found that was not killed already.
// Where the freezer takes them, they cannot fork in between, and one round is enough.
func (c *Cgroup) killEach() error {
	killed := map[int]bool{}
	for {
		pids, err := c.allProcs()
		if err != nil {
			return err
		}
		pids = slices.DeleteFunc(pids, func(pid int) bool { return killed[pid] })
		if len(pids) == 0 {
			return nil
		}
		if len(killed) == 0 && c.paths["freezer"] != "" && c.paths[""] == "" {
			// One write, no waiting: FREEZING keeps them from forking, which is the point.
			// In a hybrid cgroup.kill has seen to that.
			_ = write(c.paths["freezer"]+"/freezer.state", "FROZEN")
		}
		for _, pid := range pids {
			killed[pid] = true
			if err := c.killOne(pid); err != nil {
				return err
			}
		}
	}
}

// killOne makes sure that pid is still the container's after the pidfd holds it: in
// between it could have ended and its number gone to somebody else.
func (c *Cgroup) killOne(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil // ended; EINVAL while its number is still that of a group or session
	}
	if err != nil {
		return fmt.Errorf("cgroup: pidfd_open %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if ours, err := c.holds(pid); err != nil || !ours {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("cgroup: kill process %d: %w", pid, err)
	}
	return nil
}

// holds tells whether the process is in one of the container's cgroups, or below.
func (c *Cgroup) holds(pid int) (bool, error) {
	lines, err := read("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if errors.Is(err, unix.ENAMETOOLONG) { // see walk
		pids, err := c.allProcs()
		return slices.Contains(pids, pid), err
	}
	if err != nil {
		return false, fmt.Errorf("/proc/%d/cgroup: %w", pid, err)
	}
	for line := range strings.Lines(lines) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		names, path, _ := strings.Cut(rest, ":")
		for key := range strings.SplitSeq(names, ",") {
			own := strings.TrimPrefix(c.paths[key], c.host.mountOf(key))
			if own != "" && (path == own || strings.HasPrefix(path, own+"/")) {
				return true, nil
			}
		}
	}
	return false, nil
}

// thawAll thaws the container's v1 freezer and every one below.
func (c *Cgroup) thawAll() {
	if dir := c.paths["freezer"]; dir != "" {
		// What is not thawed here shows as a process that does not end: Destroy names it.
		_ = walk(dir, func(at int, name string) error {
			_ = writeAt(at, name+"/freezer.state", "THAWED")
			return nil
		})
	}
}

// Destroy kills what is left and removes the cgroup with all below it; nothing above.
// It is content to find nothing. Past the deadline it says what remains.
func (c *Cgroup) Destroy(deadline time.Time) error {
	var left []string
	for _, dir := range c.dirs() {
		if err := rmdir(unix.AT_FDCWD, dir); err != nil {
			left = append(left, dir)
		}
	}
	if len(left) == 0 {
		return nil
	}
	for {
		if err := c.Kill(); err != nil {
			return err
		}
		if err := c.waitEmpty(deadline); err != nil {
			return err
		}
		var errs []error
		for _, dir := range left {
			if err := walk(dir, rmdir); err != nil {
				errs = append(errs, err)
			}
		}
		if len(errs) == 0 {
			return nil
		}
		err := errors.Join(errs...)
		if !errors.Is(err, unix.EBUSY) || !time.Now().Before(deadline) {
			return c.remains(err)
		}
		// Nobody lives there and yet it is busy: the kernel is still burying the last one.
		// For that, and only that, there is no event.
		time.Sleep(time.Millisecond)
	}
}

// Sweep removes the directories that are empty, and kills nobody: for a create that was
// refused or killed before it knew whether the cgroup of that name was its own. What is
// in use then is another's.
func (c *Cgroup) Sweep() error {
	var errs []error
	for _, dir := range c.dirs() {
		if err := rmdir(unix.AT_FDCWD, dir); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, fmt.Errorf("cgroup: %w", err))
		}
	}
	return errors.Join(errs...)
}

func rmdir(at int, name string) error {
	for {
		err := unix.Unlinkat(at, name, unix.AT_REMOVEDIR)
		if err == unix.EINTR {
			continue
		}
		if err := ifThere(err); err != nil {
			return fmt.Errorf("rmdir %s: %w", name, err)
		}
		return nil
	}
}

// waitEmpty waits until the last process has ended, or the deadline.
func (c *Cgroup) waitEmpty(deadline time.Time) error {
	if dir := c.paths[""]; dir != "" {
		if _, err := waitEvent(dir, "populated 0", deadline); err != nil {
			return fmt.Errorf("cgroup: wait for %s to be empty: %w", dir, err)
		}
	}
	pids, err := c.allProcs() // v1 tells nothing, so the processes are asked
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := waitExit(pid, deadline); err != nil {
			return err
		}
	}
	return nil
}

func waitExit(pid int, deadline time.Time) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // ended
	}
	defer unix.Close(fd)
	for {
		left := max(0, time.Until(deadline).Milliseconds())
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, int(left)); err != unix.EINTR {
			return err
		}
	}
}

// remains names what keeps the cgroup: processes, with the state in which they hang.
func (c *Cgroup) remains(err error) error {
	pids, _ := c.allProcs()
	var who []string
	for _, pid := range pids {
		comm, _ := read("/proc/" + strconv.Itoa(pid) + "/comm")
		state := ""
		if stat, err := proc.Read(pid); err == nil {
			state = string(stat.State)
		}
		who = append(who, fmt.Sprintf("%d (%s, state %s)", pid, strings.TrimSpace(comm), state))
	}
	if len(who) > 0 {
		return fmt.Errorf("cgroup: processes do not end although they were killed: %s: %w", strings.Join(who, ", "), err)
	}
	return fmt.Errorf("cgroup: %w", err)
}
