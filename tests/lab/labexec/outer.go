package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func outer() int {
	job, timeout, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return exitBroken
	}
	if err == nil {
		var code int
		if code, err = run(job, timeout); err == nil {
			return code
		}
	}
	fmt.Fprintf(os.Stderr, "labexec: %v\n", err)
	return exitBroken
}

// list is a flag that may be given more than once.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func parse(args []string) (*Job, time.Duration, error) {
	var job Job
	fl := flag.NewFlagSet("labexec", flag.ContinueOnError)
	fl.Usage = func() {
		fmt.Fprintln(fl.Output(), "usage: labexec [flags] command [args...]")
		fl.PrintDefaults()
	}
	fl.StringVar(&job.VM, "vm", "uml", "where: uml, qemu, or none for this kernel, boxed")
	kernel := fl.String("kernel", "", "directory with the kernel \"linux\" and its \"modules\" (default: what kernels.sh set up)")
	fl.StringVar(&job.Mem, "mem", "2G", "memory of the machine")
	fl.IntVar(&job.CPUs, "cpus", 2, "processors of the machine (qemu only)")
	fl.Var((*list)(&job.Disks), "disk", "size of a scratch disk, such as 4G; $LAB_DISKS names the devices (repeatable)")
	fl.StringVar(&job.Cgroup, "cgroup", "v2", "hierarchies of the machine: v2, v1 or hybrid")
	fl.Var((*list)(&job.RW), "rw", "host directory that stays writable (repeatable)")
	timeout := fl.Duration("timeout", 0, "end everything after this long, exit code 124; 0: never")
	fl.BoolVar(&job.Verbose, "v", false, "the machine's kernel log on stderr")
	if err := fl.Parse(args); err != nil {
		return nil, 0, flag.ErrHelp
	}
	job.Args = fl.Args()
	if len(job.Args) == 0 {
		fl.Usage()
		return nil, 0, flag.ErrHelp
	}
	return &job, *timeout, job.complete(*kernel)
}

// complete fills in what the flags leave open and checks what they say.
func (job *Job) complete(kernel string) (err error) {
	if job.Self, err = os.Executable(); err != nil {
		return err
	}
	if job.Dir, err = os.Getwd(); err != nil {
		return err
	}
	switch job.VM {
	case "none":
	case "uml", "qemu":
		if kernel == "" {
			cache, err := os.UserCacheDir()
			if err != nil {
				return err
			}
			kernel = filepath.Join(cache, "thinrun-lab", job.VM)
		}
		if job.Kernel, err = filepath.EvalSymlinks(filepath.Join(kernel, "linux")); err != nil {
			return fmt.Errorf("no kernel: %w (tests/lab/kernels.sh %s)", err, job.VM)
		}
		if job.Modules, err = filepath.EvalSymlinks(filepath.Join(kernel, "modules")); err != nil {
			return fmt.Errorf("no modules: %w (tests/lab/kernels.sh %s)", err, job.VM)
		}
	default:
		return fmt.Errorf("-vm %q: want uml, qemu or none", job.VM)
	}
	if !slices.Contains([]string{"v1", "v2", "hybrid"}, job.Cgroup) {
		return fmt.Errorf("-cgroup %q: want v2, v1 or hybrid", job.Cgroup)
	}
	for _, size := range job.Disks {
		if _, err := parseSize(size); err != nil {
			return fmt.Errorf("-disk: %w", err)
		}
	}
	// A command given by path is meant as a host file; others are looked up inside.
	if strings.Contains(job.Args[0], "/") {
		if job.Args[0], err = filepath.Abs(job.Args[0]); err != nil {
			return err
		}
		job.Show = append(job.Show, filepath.Dir(job.Args[0]))
	}
	job.Show = append(job.Show, treeTop(job.Dir), filepath.Dir(job.Self))
	job.Show = slices.DeleteFunc(job.Show, func(dir string) bool { return !hidden(dir) })
	job.RW = append(job.RW, writtenByTests(job.Args[1:])...)
	for i, dir := range job.RW {
		if job.RW[i], err = filepath.Abs(dir); err != nil {
			return err
		}
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return fmt.Errorf("-rw %s: not a directory", dir)
		}
	}
	job.Env = slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "TMPDIR=") || strings.HasPrefix(e, "LAB")
	})
	job.Env = append(job.Env, "TMPDIR=/tmp")
	return nil
}

// treeTop is the directory with go.mod at or above dir: tests read files of their tree.
func treeTop(dir string) string {
	for p := dir; p != "/"; p = filepath.Dir(p) {
		if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
			return p
		}
	}
	return dir
}

// writtenByTests lists the host directories that a test binary writes for `go test`.
func writtenByTests(args []string) (dirs []string) {
	for _, a := range args {
		name, path, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch name {
		case "test.testlogfile", "test.coverprofile", "test.cpuprofile", "test.memprofile", "test.blockprofile", "test.mutexprofile", "test.trace":
			dirs = append(dirs, filepath.Dir(path))
		case "test.gocoverdir", "test.outputdir":
			dirs = append(dirs, path)
		}
	}
	return dirs
}

func parseSize(s string) (int64, error) {
	shift := map[byte]int{'M': 20, 'G': 30, 'T': 40}[(s + " ")[max(0, len(s)-1)]]
	n, err := strconv.ParseInt(s[:max(0, len(s)-1)], 10, 32)
	if err != nil || n <= 0 || shift == 0 {
		return 0, fmt.Errorf("size %q: want a number and M, G or T", s)
	}
	return n << shift, nil
}

// stream copies one output and knows how much has arrived.
type stream struct {
	mu      sync.Mutex
	changed sync.Cond
	n       int64
	ended   bool
}

func (s *stream) relay(dst io.Writer, src io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		dst.Write(buf[:n]) // a reader that went away is no reason to stop draining
		s.mu.Lock()
		s.n += int64(n)
		s.ended = err != nil
		s.mu.Unlock()
		s.changed.Broadcast()
		if err != nil {
			return
		}
	}
}

// wait returns when n bytes have been passed on, or there will be no more.
func (s *stream) wait(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.n < n && !s.ended {
		s.changed.Wait()
	}
}

// tail keeps the end of the kernel log, shown only when the machine breaks.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 16<<10 {
		t.b = slices.Clone(t.b[len(t.b)-4<<10:])
	}
	return len(p), nil
}

// channels are the pipes between outer and the other faces.
type channels struct{ job, out, err, log, ctl [2]*os.File } // [0] is ours

func openChannels(vm string) (ch channels, err error) {
	stream := pipe
	if vm == "qemu" { // it drops what does not fit into a pipe
		stream = socket
	}
	for _, c := range []struct {
		ends *[2]*os.File
		make func() ([2]*os.File, error)
	}{{&ch.out, stream}, {&ch.err, stream}, {&ch.log, pipe}, {&ch.job, pipe}, {&ch.ctl, socket}} {
		if *c.ends, err = c.make(); err != nil {
			return ch, err
		}
	}
	ch.job[0], ch.job[1] = ch.job[1], ch.job[0] // the only one that we write
	return ch, nil
}

func pipe() (ends [2]*os.File, err error) {
	ends[0], ends[1], err = os.Pipe()
	return ends, err
}

// socket is a socketpair. Our end does not block; the other is a machine's device.
func socket() (ends [2]*os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ends, err
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return ends, err
	}
	return [2]*os.File{os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")}, nil
}

// run starts the stage and returns the command's exit code.
func run(job *Job, timeout time.Duration) (int, error) {
	if job.VM == "none" {
		remove, err := makeBox(job)
		defer remove()
		if err != nil {
			return 0, err
		}
	}
	ch, err := openChannels(job.VM)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(job.Self, "__stage")
	cmd.ExtraFiles = []*os.File{ch.job[1], ch.out[1], ch.err[1], ch.ctl[1], ch.log[1]} // 3 to 7
	cmd.Stdout, cmd.Stderr = ch.log[1], ch.log[1]
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
		Setsid:     true, // a Ctrl-C reaches us alone, and we end the rest
	}
	sig := make(chan os.Signal, 8)
	signal.Notify(sig, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("new namespaces: %w (labexec needs root)", err)
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	if err := json.NewEncoder(ch.job[0]).Encode(job); err != nil {
		return 0, err
	}
	ch.job[0].Close()

	var streams [2]stream
	var log tail
	var relays sync.WaitGroup
	for i, p := range [][2]*os.File{ch.out, ch.err} {
		streams[i].changed.L = &streams[i].mu
		relays.Go(func() { streams[i].relay([]*os.File{os.Stdout, os.Stderr}[i], p[0]) })
	}
	relays.Go(func() {
		if job.Verbose {
			io.Copy(io.MultiWriter(&log, os.Stderr), ch.log[0])
		} else {
			io.Copy(&log, ch.log[0])
		}
	})
	// The control channel says once "exit CODE STDOUT STDERR", the last two in bytes.
	exit := make(chan int, 1)
	relays.Go(func() {
		var code int
		var n [2]int64
		if _, err := fmt.Fscanf(ch.ctl[0], "exit %d %d %d\n", &code, &n[0], &n[1]); err == nil {
			streams[0].wait(n[0])
			streams[1].wait(n[1])
			exit <- code
		}
		close(exit)
	})
	code, err := await(exit, sig, ch.ctl[0], timeout)
	cmd.Process.Kill()
	thawBox(job)
	cmd.Wait()    // returns when the whole pid namespace is empty
	relays.Wait() // nobody is left who holds a pipe's other end
	if errors.Is(err, errVanished) && !job.Verbose {
		os.Stderr.WriteString(strings.ReplaceAll(string(log.b), "\r", ""))
	}
	return code, err
}

var errVanished = errors.New("the machine ended without reporting an exit code")

// await returns when the command has ended, or must not go on.
func await(exit <-chan int, sig <-chan os.Signal, ctl *os.File, timeout time.Duration) (int, error) {
	var expired <-chan time.Time
	if timeout > 0 {
		expired = time.After(timeout)
	}
	for {
		select {
		case code, ok := <-exit:
			if !ok {
				return 0, errVanished
			}
			return code, nil
		case <-expired:
			fmt.Fprintf(os.Stderr, "labexec: timeout after %v\n", timeout)
			return 124, nil
		case s := <-sig:
			if s == unix.SIGQUIT { // go test asks for a stack dump this way
				fmt.Fprintf(ctl, "signal %d\n", s)
				continue
			}
			return 128 + int(s.(syscall.Signal)), nil
		}
	}
}
