package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// boxName begins the names of what a box has on the host; the pid of its labexec follows.
const boxName = "thinrun-box."

// makeBox makes what -vm none needs on the host. The answer takes it away again, also
// after an error.
func makeBox(job *Job) (remove func(), err error) {
	job.Box = fmt.Sprintf("%s%d", boxName, os.Getpid())
	tmp := os.Getenv("TMPDIR")
	if tmp == "" {
		tmp = "/var/tmp" // on a disk, where /tmp may be memory
	}
	var locks []*os.File
	remove = func() {
		for _, h := range job.Cgroups {
			removeCgroups(filepath.Join(h.Mount, job.Box))
		}
		if job.Tmp != "" {
			os.RemoveAll(job.Tmp)
		}
		for _, f := range locks {
			f.Close()
		}
	}
	removeDeadBoxes(tmp, func(dir string) { os.RemoveAll(dir) })
	lock, err := mkdirLocked(filepath.Join(tmp, job.Box))
	if err != nil {
		return remove, err
	}
	locks = append(locks, lock)
	job.Tmp = lock.Name()
	if err := os.Chmod(job.Tmp, 0777|os.ModeSticky); err != nil {
		return remove, err
	}
	mounted, err := mountedHierarchies()
	if err != nil {
		return remove, err
	}
	// One cgroup in each of the host's hierarchies, so that tests do not meet those of the
	// host. A host that lets us make none (a container with read-only cgroups) still runs
	// the tests that need none.
	for _, h := range mounted {
		removeDeadBoxes(h.Mount, removeCgroups)
		lock, err := mkdirLocked(filepath.Join(h.Mount, job.Box))
		if err != nil {
			continue
		}
		locks = append(locks, lock)
		job.Cgroups = append(job.Cgroups, h)
		if err := admit(h, lock.Name()); err != nil {
			return remove, err
		}
	}
	return remove, nil
}

// mkdirLocked makes a directory whose lock says that it is in use.
func mkdirLocked(dir string) (*os.File, error) {
	if err := os.Mkdir(dir, 0700); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	return f, err
}

// removeDeadBoxes removes what a labexec left in dir that was itself killed. Neither
// sign of life is enough: the lock comes a moment after the directory, and the process
// may be in another pid namespace.
func removeDeadBoxes(dir string, remove func(path string)) {
	left, _ := filepath.Glob(filepath.Join(dir, boxName+"*"))
	for _, path := range left {
		pid := strings.TrimPrefix(filepath.Base(path), boxName)
		if _, err := os.Stat("/proc/" + pid); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			remove(path)
		}
		f.Close()
	}
}

// enterBox turns the stage's namespaces into the place for -vm none.
func enterBox(job *Job) {
	must(joinBoxCgroup(job), "cgroup of the box")
	// What the command must see but /tmp or /run hide is cloned before they are covered
	// and moved on top after.
	shown := make(map[string]int)
	for _, dir := range append(slices.Clone(job.Show), job.RW...) {
		if hidden(dir) {
			fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
			must(err, "open "+dir)
			shown[dir] = fd
		}
	}
	// A disk and not a tmpfs, where the host has one: tests fill it and want direct I/O.
	tmp, err := unix.OpenTree(unix.AT_FDCWD, job.Tmp, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(err, "open "+job.Tmp)
	must(readOnly(slices.DeleteFunc(slices.Clone(job.RW), hidden)), "make the host's files read-only")
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	must(unix.MoveMount(tmp, "", unix.AT_FDCWD, "/tmp", unix.MOVE_MOUNT_F_EMPTY_PATH), "fresh /tmp")
	must(unix.Mount(mark, "/run", "tmpfs", safe, "mode=0755"), "tmpfs on /run")
	must(unix.Mount(mark, "/dev/shm", "tmpfs", safe, "mode=1777"), "tmpfs on /dev/shm")
	ro := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	for _, dir := range slices.Sorted(maps.Keys(shown)) { // parents first
		must(os.MkdirAll(dir, 0755), "show "+dir)
		must(unix.MoveMount(shown[dir], "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH), "show "+dir)
		if !slices.Contains(job.RW, dir) {
			must(unix.MountSetattr(unix.AT_FDCWD, dir, unix.AT_RECURSIVE, &ro), "show "+dir)
		}
	}
	must(unix.Mount("proc", "/proc", "proc", safe|unix.MS_NOEXEC, ""), "mount proc")
	must(unix.Mount("devpts", "/dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"), "mount devpts")
	must(mountBoxCgroups(job), "cgroups of the box")
	must(unix.Sethostname([]byte("lab")), "hostname")
	must(linkUp("lo"), "lo")
}

// hidden tells whether the fresh /tmp and /run cover a directory of the host.
func hidden(dir string) bool {
	return strings.HasPrefix(dir, "/tmp/") || strings.HasPrefix(dir, "/run/")
}

// boxed runs the command and answers with its exit code, as a shell would.
func boxed(job *Job, out, errw, ctl *os.File) int {
	cmd := exec.Command(job.Args[0], job.Args[1:]...)
	cmd.Dir, cmd.Env = job.Dir, append(job.Env, "THINRUN_BOX=1")
	cmd.Stdout, cmd.Stderr = out, errw
	return execute(cmd, errw, ctl)
}
