package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// peer is one of the runtimes that are compared.
type peer struct {
	name    string
	binary  string
	globals []string // ahead of the command
	root    string   // its state
	env     []string
	cwd     string
	next    int
	retried int // deletes that had to be repeated
}

// Debian's two, if they are there.
func peers(dir, thinrun string) []*peer {
	var list []*peer
	for _, name := range []string{"thinrun", "crun", "runc"} {
		binary := thinrun
		if name != "thinrun" {
			var err error
			if binary, err = exec.LookPath(name); err != nil {
				continue
			}
		}
		list = append(list, &peer{name: name, binary: binary, root: filepath.Join("/run", "bench-"+name), cwd: dir,
			env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}})
	}
	return list
}

// version is the first line of --version, and how thinrun was built.
func (p *peer) version() string {
	out, err := exec.Command(p.binary, "--version").Output()
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(out), "\n")
	v := lines[0]
	for _, l := range lines[1:] {
		if strings.HasPrefix(l, "commit: ") {
			v += ", " + l
		}
	}
	return v
}

func (p *peer) id() string {
	p.next++
	return fmt.Sprintf("bench-%s-%d", p.name, p.next)
}

// cost is what a command took: as the caller sees it, and of the processors.
type cost struct{ wall, cpu time.Duration }

func (c *cost) add(o cost) { c.wall += o.wall; c.cpu += o.cpu }

// run runs a command of the runtime to its end. Its standard streams are /dev/null, as a
// container keeps what it was born with, and standard error is a file: a pipe would
// stay open as long as the container lives.
func (p *peer) run(args ...string) (cost, error) {
	return p.runTo(nil, args...)
}

func (p *peer) runTo(stdout *os.File, args ...string) (cost, error) {
	cmd := exec.Command(p.binary, append(append([]string{"--root", p.root}, p.globals...), args...)...)
	cmd.Env, cmd.Dir = p.env, p.cwd
	said, err := memfile("stderr")
	if err != nil {
		return cost{}, err
	}
	defer said.Close()
	cmd.Stderr = said
	if stdout != nil {
		cmd.Stdout = stdout
	}
	began := time.Now()
	err = cmd.Run()
	took := cost{wall: time.Since(began)}
	if cmd.ProcessState != nil {
		took.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	if err != nil {
		text := make([]byte, 2000)
		n, _ := said.ReadAt(text, 0)
		return took, fmt.Errorf("%s %s: %w: %s", p.name, strings.Join(args, " "), err, bytes.TrimSpace(text[:n]))
	}
	return took, nil
}

func memfile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// life is a container from create to delete, as a manager goes through it.
type life struct {
	create, start, delete cost
	total                 cost // with the container's own processor time
	status                unix.WaitStatus
}

// live makes a container, waits for its end and deletes it. flags are create's. held,
// when given, looks at the container between create and start.
func (p *peer) live(bundle string, held func(pid int) error, flags ...string) (life, error) {
	var l life
	id := p.id()
	pidFile := filepath.Join(p.root, "..", id+".pid")
	defer os.Remove(pidFile)
	began := time.Now()
	var err error
	if l.create, err = p.run(append(append([]string{"create", "--bundle", bundle, "--pid-file", pidFile}, flags...), id)...); err != nil {
		p.run("delete", "--force", id)
		return l, err
	}
	init, err := openInit(pidFile)
	if err != nil {
		return l, err
	}
	defer init.close()
	if held != nil {
		if err := held(init.pid); err != nil {
			return l, err
		}
	}
	if l.start, err = p.run("start", id); err != nil {
		p.run("delete", "--force", id)
		return l, err
	}
	used, err := init.wait()
	if err != nil {
		return l, err
	}
	l.status = init.status
	if l.delete, err = p.delete(id); err != nil {
		return l, err
	}
	l.total.wall = time.Since(began)
	l.total.cpu = l.create.cpu + l.start.cpu + l.delete.cpu + used
	return l, nil
}

// delete repeats a delete that fails, and remembers it: the program has ended and was
// reaped, so one that is right the first time needs no second.
func (p *peer) delete(id string) (cost, error) {
	var sum cost
	for n := 0; ; n++ {
		took, err := p.run("delete", id)
		sum.add(took)
		if err == nil {
			return sum, nil
		}
		if n == 20 {
			return sum, err
		}
		p.retried++
	}
}

// initProcess is a container's first process. We are the subreaper, so it is our child as
// soon as create has ended, as it is a shim's.
type initProcess struct {
	pid    int
	fd     int
	status unix.WaitStatus
}

func openInit(pidFile string) (*initProcess, error) {
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return nil, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, err
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return &initProcess{pid: pid, fd: fd}, nil
}

// wait waits in the kernel for the end and returns the processor time of the container.
func (i *initProcess) wait() (time.Duration, error) {
	fds := []unix.PollFd{{Fd: int32(i.fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			if err != nil {
				return 0, os.NewSyscallError("poll", err)
			}
			break
		}
	}
	var ru unix.Rusage
	if _, err := unix.Wait4(i.pid, &i.status, 0, &ru); err != nil {
		return 0, os.NewSyscallError("wait4", err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), nil
}

func (i *initProcess) close() { unix.Close(i.fd) }

// prove makes sure that the runtime runs what it is told to: a program's exit code and
// its output come back. A runtime that did nothing would win every race.
func (p *peer) prove(b *bundles) error {
	l, err := p.live(b.exit7, nil)
	if err != nil {
		return err
	}
	if !l.status.Exited() || l.status.ExitStatus() != 7 {
		return fmt.Errorf("%s: the program that exits with 7 did not: %#x", p.name, int(l.status))
	}
	out, err := memfile("stdout")
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := p.runTo(out, "run", "--bundle", b.marker, p.id()); err != nil {
		return err
	}
	text := make([]byte, 64)
	n, _ := out.ReadAt(text, 0)
	if got := string(text[:n]); got != "marker 1\n" {
		return fmt.Errorf("%s: the program that prints its marker and pid 1 printed %q", p.name, got)
	}
	// The filter is really there: this profile answers mkdir(2) with EDOM.
	l, err = p.live(b.filtered, nil)
	if err != nil {
		return err
	}
	if !l.status.Exited() || l.status.ExitStatus() != 33 {
		return fmt.Errorf("%s: the seccomp profile does not act: %#x", p.name, int(l.status))
	}
	return nil
}
