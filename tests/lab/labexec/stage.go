package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// must ends a face that cannot go on. Its stderr is the log that outer shows.
func must(err error, what string) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "labexec: %s: %v\n", what, err)
		os.Exit(exitBroken)
	}
}

// stage is pid 1 of fresh namespaces on the host. Its end is the end of all that runs
// in them. Descriptors: 3 job, 4 stdout, 5 stderr, 6 control, 7 log.
func stage() {
	for fd := 3; fd <= 7; fd++ {
		unix.CloseOnExec(fd)
	}
	var job Job
	must(json.NewDecoder(os.NewFile(3, "job")).Decode(&job), "job")
	out, errw, ctl, log := os.NewFile(4, "stdout"), os.NewFile(5, "stderr"), os.NewFile(6, "control"), os.NewFile(7, "log")

	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), "make mounts private")
	switch job.VM {
	case "none":
		box(&job)
		fmt.Fprintf(ctl, "exit %d 0 0\n", boxed(&job, out, errw, ctl))
	case "uml":
		must(unix.Mount(mark, workDir, "tmpfs", 0, "mode=0755,size=100%"), "tmpfs on "+workDir)
		must(readOnly(append(job.RW, workDir)), "make the host's files read-only")
		must(unix.Mount("proc", "/proc", "proc", 0, ""), "mount proc")
		cmd := uml(&job)
		b, err := json.Marshal(job)
		must(err, "job")
		must(os.WriteFile(workDir+"/job.json", b, 0600), "job")
		cmd.ExtraFiles = []*os.File{out, errw, ctl, log} // 3 to 6 of the kernel
		cmd.Stdout, cmd.Stderr = log, log
		must(cmd.Run(), cmd.Path) // silence on the control channel makes outer show the log
	}
	os.Exit(0)
}

// readOnly makes every mount read-only except those at and below the given places.
func readOnly(except []string) error {
	for _, dir := range except {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	ro := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &ro); err != nil {
		return err
	}
	rw := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	for _, dir := range except {
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, unix.AT_RECURSIVE, &rw); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// box turns the stage's namespaces into the place for -vm none.
func box(job *Job) {
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
	must(readOnly(slices.DeleteFunc(slices.Clone(job.RW), hidden)), "make the host's files read-only")
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	must(unix.Mount(mark, "/tmp", "tmpfs", safe, "mode=1777"), "tmpfs on /tmp")
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

// execute starts the command, passes signals on and waits for it. It reaps orphans too,
// because pid 1 has to.
func execute(cmd *exec.Cmd, errw, ctl *os.File) int {
	if cmd.Err != nil {
		fmt.Fprintf(errw, "labexec: %v\n", cmd.Err)
		return 127
	}
	// A process group of its own, as under a shell. Not a session: the first tty it
	// opened would become its controlling terminal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(errw, "labexec: %v\n", err)
		return 126
	}
	go func() {
		var n int
		for {
			if _, err := fmt.Fscanf(ctl, "signal %d\n", &n); err != nil {
				return // outer is gone, and so are we in a moment
			}
			unix.Kill(cmd.Process.Pid, unix.Signal(n))
		}
	}()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err != nil && err != unix.EINTR:
			fmt.Fprintf(errw, "labexec: wait: %v\n", err)
			return exitBroken
		case pid == cmd.Process.Pid && ws.Signaled():
			return 128 + int(ws.Signal())
		case pid == cmd.Process.Pid:
			return ws.ExitStatus()
		}
	}
}
