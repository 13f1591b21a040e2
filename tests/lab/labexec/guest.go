package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// guestModules are loaded in every machine; those that are built in are skipped.
const guestModules = "loop dm_mod dm_thin_pool dm_snapshot dm_flakey dm_log_writes veth bridge dummy fuse ipv6 unix_diag"

// lab is where the guest keeps its own things.
const lab = "/run/lab"

// power ends the machine. Outer shows the log, because no exit code was reported.
func power(err error, what string) {
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "labexec: guest: %s: %v\n", what, err)
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// guest is pid 1 of the machine. It has the host's files as its root, and puts a tmpfs
// over them.
func guest() {
	if os.Args[2] == "qemu" {
		power(reachHost(), "reach the host's files")
	}
	power(unix.Mount("proc", "/proc", "proc", 0, ""), "mount proc")
	b, err := os.ReadFile(workDir + "/job.json")
	power(err, "job")
	var job Job
	power(json.Unmarshal(b, &job), "job")
	mods, err := readModules(job.Modules)
	power(err, "modules")
	power(mods.load("overlay"), "overlay")

	root := workDir + "/new"
	power(makeRoot(&job, root), "root")
	power(os.Mkdir(root+lab, 0700), lab)
	power(os.WriteFile(root+lab+"/job.json", b, 0600), "job")
	power(os.Mkdir(root+lab+"/old", 0700), lab)
	power(unix.PivotRoot(root, root+lab+"/old"), "pivot_root")
	power(os.Chdir("/"), "chdir")
	power(mods.loadAll(guestModules), "modules")
	power(unix.Unmount(lab+"/old", unix.MNT_DETACH), "unmount old root")
	power(unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""), "share mounts, as systemd does")
	power(unix.Sethostname([]byte("lab")), "hostname")
	power(linkUp("lo"), "lo")
	power(os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0), "ip_forward")
	power(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}), "rlimit")
	power(mountCgroups(job.Cgroup), "cgroups")

	// A copy of us runs the job as an ordinary process; pid 1 only reaps.
	child, err := os.StartProcess(job.Self, []string{job.Self, "__job"}, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &unix.SysProcAttr{Setsid: true}})
	power(err, "start job")
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		if err != nil && err != unix.EINTR {
			power(err, "wait")
		}
		if pid == child.Pid {
			power(fmt.Errorf("status %#x", ws), "job ended by itself")
		}
	}
}

// makeRoot mounts the machine's root file system on dir.
func makeRoot(job *Job, dir string) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	scratch := workDir + "/scratch"
	steps := []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
	}{
		{mark, scratch, "tmpfs", 0, "mode=0755,size=90%"},
		{mark, dir, "overlay", 0, "lowerdir=/,upperdir=" + scratch + "/upper,workdir=" + scratch + "/work"},
		{"proc", dir + "/proc", "proc", safe | unix.MS_NOEXEC, ""},
		{"sysfs", dir + "/sys", "sysfs", safe | unix.MS_NOEXEC, ""},
		{"devtmpfs", dir + "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"devpts", dir + "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"},
		{mark, dir + "/dev/shm", "tmpfs", safe, "mode=1777"},
		{"mqueue", dir + "/dev/mqueue", "mqueue", safe | unix.MS_NOEXEC, ""},
		{mark, dir + "/run", "tmpfs", safe, "mode=0755"},
		{disk(job, len(job.Disks)), dir + "/tmp", "ext4", 0, ""},
		{"bpf", dir + "/sys/fs/bpf", "bpf", safe, "mode=0700"},
	}
	for _, s := range steps {
		if err := os.MkdirAll(s.target, 0755); err != nil {
			return err
		}
		if err := unix.Mount(s.source, s.target, s.fstype, s.flags, s.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", s.fstype, s.target, err)
		}
		if s.target == scratch {
			for _, name := range []string{"upper", "work"} {
				if err := os.Mkdir(filepath.Join(scratch, name), 0755); err != nil {
					return err
				}
			}
		}
	}
	if err := os.Chmod(dir+"/tmp", 0777|os.ModeSticky); err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "", "stdin": "/0", "stdout": "/1", "stderr": "/2"} {
		if err := os.Symlink("/proc/self/fd"+target, filepath.Join(dir, "dev", name)); err != nil {
			return err
		}
	}
	for _, d := range job.Show {
		if err := show(d, dir+d, "", unix.MS_BIND); err != nil {
			return err
		}
	}
	for _, d := range job.RW {
		var err error
		if job.VM == "uml" { // its root is read-only as a whole: one more hostfs
			err = show(mark, dir+d, "hostfs", 0, d)
		} else {
			err = show(d, dir+d, "", unix.MS_BIND)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// disk names a block device of the machine, as its kernel does.
func disk(job *Job, i int) string {
	name := "/dev/ubd"
	if job.VM == "qemu" {
		name = "/dev/vd"
	}
	return name + string(rune('a'+i))
}

func show(source, target, fstype string, flags uintptr, data ...string) error {
	if err := os.MkdirAll(target, 0755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, flags, filepath.Join(data...)); err != nil {
		return fmt.Errorf("show %s: %w", target, err)
	}
	return nil
}
