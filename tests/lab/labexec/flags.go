package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

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
	fl.Var((*list)(&job.Disks), "disk", "size of a scratch disk, such as 4G, or path of a file that is the disk and keeps what is written; $LAB_DISKS names the devices (repeatable)")
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
	if cache, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(cache, "thinrun-lab")
		job.Show = append(job.Show, cache)
		kernel = cmp.Or(kernel, filepath.Join(cache, job.VM))
	}
	switch job.VM {
	case "none":
	case "uml", "qemu":
		if job.Kernel, err = filepath.EvalSymlinks(filepath.Join(kernel, "linux")); err != nil {
			return fmt.Errorf("no kernel: %w (tests/lab/kernels.sh %s)", err, job.VM)
		}
		if job.Modules, err = filepath.EvalSymlinks(filepath.Join(kernel, "modules")); err != nil {
			return fmt.Errorf("no modules: %w (tests/lab/kernels.sh %s)", err, job.VM)
		}
		job.Show = append(job.Show, job.Modules)
	default:
		return fmt.Errorf("-vm %q: want uml, qemu or none", job.VM)
	}
	if !slices.Contains([]string{"v1", "v2", "hybrid"}, job.Cgroup) {
		return fmt.Errorf("-cgroup %q: want v2, v1 or hybrid", job.Cgroup)
	}
	for i, disk := range job.Disks {
		if job.Disks[i], err = parseDisk(disk); err != nil {
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
	job.Show = slices.DeleteFunc(job.Show, func(dir string) bool {
		_, err := os.Stat(dir)
		return err != nil || !hidden(dir)
	})
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

// parseDisk checks a size, and makes a path absolute: what has a slash is a path.
func parseDisk(s string) (string, error) {
	if !diskFile(s) {
		_, err := parseSize(s)
		return s, err
	}
	path, err := filepath.Abs(s)
	if err != nil {
		return "", err
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s: not a regular file", s)
	}
	return path, nil
}

// diskFile tells a file that is a disk from the size of one.
func diskFile(s string) bool { return strings.Contains(s, "/") }

func parseSize(s string) (int64, error) {
	shift := map[byte]int{'M': 20, 'G': 30, 'T': 40}[(s + " ")[max(0, len(s)-1)]]
	n, err := strconv.ParseInt(s[:max(0, len(s)-1)], 10, 32)
	if err != nil || n <= 0 || shift == 0 {
		return 0, fmt.Errorf("size %q: want a number and M, G or T", s)
	}
	return n << shift, nil
}
