package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// jobMain runs the command in the machine and tells outer how it ended. Outer ends the
// machine when it has that many bytes of each stream: no shut-down to wait for.
func jobMain() {
	b, err := os.ReadFile(lab + "/job.json")
	power(err, "job")
	var job Job
	power(json.Unmarshal(b, &job), "job")
	var line [3]*os.File // to outer: stdout, stderr, control
	for i := range line {
		if job.VM == "qemu" {
			line[i], err = openPort(fmt.Sprintf("lab%d", i+1))
		} else {
			line[i], err = openTTY(fmt.Sprintf("/dev/tty%d", i+1))
		}
		power(err, "line to the host")
	}
	var outputs [2]output
	for i := range outputs {
		outputs[i].dst = line[i]
		power(outputs[i].open(), "pipe")
	}
	code := runJob(&job, outputs[0].w, outputs[1].w, line[2])
	for i := range outputs {
		outputs[i].finish()
	}
	fmt.Fprintf(line[2], "exit %d %d %d\n", code, outputs[0].n, outputs[1].n)
	select {}
}

func runJob(job *Job, out, errw, ctl *os.File) int {
	if err := os.Chdir(job.Dir); err != nil {
		fmt.Fprintf(errw, "labexec: %v\n", err)
		return exitBroken
	}
	for _, e := range job.Env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			os.Setenv("PATH", path) // where exec.Command looks
		}
	}
	var disks []string
	for i := range job.Disks {
		disks = append(disks, disk(job, i))
	}
	cmd := exec.Command(job.Args[0], job.Args[1:]...)
	cmd.Stdout, cmd.Stderr = out, errw
	cmd.Env = append(job.Env, "LAB=1", "LAB_VM="+job.VM, "LAB_DISKS="+strings.Join(disks, " "),
		"DM_DISABLE_UDEV=1") // nobody would answer dmsetup's cookie
	return execute(cmd, errw, ctl)
}

// output passes what the command writes on to outer. The command gets a pipe, because
// programs ask isatty.
type output struct {
	dst, r, w *os.File
	n         int64
	done      sync.WaitGroup
}

func (o *output) open() (err error) {
	if o.r, o.w, err = os.Pipe(); err != nil {
		return err
	}
	o.done.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := o.r.Read(buf)
			o.write(buf[:n])
			if err != nil {
				return // the deadline of finish
			}
		}
	})
	return nil
}

func (o *output) write(b []byte) {
	n, err := o.dst.Write(b)
	power(err, "line to the host")
	o.n += int64(n)
}

// finish returns when all is passed on that was written before. Daemons may hold the
// pipe for ever, so its end is not awaited: all the command wrote is in the pipe now,
// and reading until it is empty gets it.
func (o *output) finish() {
	o.r.SetReadDeadline(time.Unix(1, 0))
	o.done.Wait()
	conn, err := o.r.SyscallConn()
	power(err, "pipe")
	buf := make([]byte, 64<<10)
	power(conn.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buf) // non-blocking, as os.Pipe made it
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return
			}
			o.write(buf[:n])
		}
	}), "pipe")
}
