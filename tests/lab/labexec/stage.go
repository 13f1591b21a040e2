package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

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
		enterBox(&job)
		fmt.Fprintf(ctl, "exit %d 0 0\n", boxed(&job, out, errw, ctl))
	default:
		must(unix.Mount(mark, workDir, "tmpfs", 0, "mode=0755,size=100%"), "tmpfs on "+workDir)
		writable := append(slices.Clone(job.RW), workDir)
		for _, d := range job.Disks {
			if diskFile(d) {
				writable = append(writable, d)
			}
		}
		must(readOnly(writable), "make the host's files read-only")
		must(unix.Mount("proc", "/proc", "proc", 0, ""), "mount proc")
		cmd := machine(&job)
		cmd.ExtraFiles = []*os.File{out, errw, ctl, log} // 3 to 6 of the machine
		cmd.Stdout, cmd.Stderr = log, log
		must(cmd.Start(), cmd.Path)
		if job.VM == "uml" {
			go tick(cmd.Process)
		}
		must(cmd.Wait(), cmd.Path) // silence on the control channel makes outer show the log
	}
	os.Exit(0)
}

// tick sends the machine an alarm every second. Its timer is a one-shot SIGALRM of the
// host, and on a busy host 6.1 lost one about once in twenty runs: the machine was idle
// for ever. An alarm too many only makes it look at its clock.
func tick(machine *os.Process) {
	for range time.Tick(time.Second) {
		// Until it has its handler, the signal would end it.
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", machine.Pid))
		if err != nil {
			return
		}
		_, caught, _ := strings.Cut(string(status), "SigCgt:\t")
		mask, err := strconv.ParseUint(caught[:min(16, len(caught))], 16, 64)
		if err == nil && mask&(1<<(unix.SIGALRM-1)) != 0 {
			machine.Signal(unix.SIGALRM)
		}
	}
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
