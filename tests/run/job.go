package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// tools are the absolute paths of what is run.
type tools struct{ top, labexec, thinrun, binaries, test2json string }

// pkg is a package with tests.
type pkg struct {
	path   string // below the module: "libcontainer/state"
	dir    string
	binary string
}

// build finds the packages and builds their test binaries.
func build(ctx context.Context, t *tools, only []string) (packages []pkg, err error) {
	golang := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // static, so it runs on any root
		var errw bytes.Buffer
		cmd.Stderr = &errw
		out, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("go %s: %w\n%s%s", strings.Join(args[:min(2, len(args))], " "), err, out, errw.Bytes())
		}
		return string(out), err
	}
	const tags = "-tags=urfave_cli_no_docs"
	if t.test2json, err = golang("tool", "-n", "test2json"); err != nil {
		return nil, err
	}
	t.test2json = strings.TrimSpace(t.test2json)
	list, err := golang("list", tags, "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}} {{.Dir}}{{end}}", "./...")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(list) {
		importPath, dir, found := strings.Cut(strings.TrimSpace(line), " ")
		_, p, _ := strings.Cut(importPath, "/")
		if p == "" {
			p = "."
		}
		if !found || len(only) > 0 && !slices.ContainsFunc(only, func(s string) bool { return p == s || strings.HasSuffix(p, "/"+s) }) {
			continue
		}
		packages = append(packages, pkg{p, dir, filepath.Join(t.binaries, strings.ReplaceAll(p, "/", "_")+".test")})
	}
	if len(packages) == 0 {
		return nil, fmt.Errorf("no package with tests matches %q", only)
	}
	// One go command per binary, because one for all refuses packages with the same
	// last name; two at a time, because much of it is linking.
	if err := os.MkdirAll(t.binaries, 0755); err != nil {
		return nil, err
	}
	errs := make([]error, len(packages))
	turns := make(chan bool, 2)
	var builds sync.WaitGroup
	for i, p := range packages {
		turns <- true
		builds.Go(func() {
			_, errs[i] = golang("test", "-c", "-trimpath", "-buildvcs=false", tags, "-o", p.binary, "./"+p.path)
			<-turns
		})
	}
	builds.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		return nil, errs[i]
	}
	return packages, nil
}

// job is one test binary in one place.
type job struct {
	pkg     pkg
	place   string // native, lab v2, ...
	flags   []string
	timeout time.Duration
}

func (j job) lab() bool { return j.place != "native" }

func nativeJob(p pkg) job {
	return job{p, "native", []string{"-vm", "none"}, limit(p)}
}

// labJobs are the places in the lab kernel for a package: v2 for all, the other
// hierarchies for those that see a difference.
func labJobs(p pkg) (jobs []job) {
	modes := []string{"v2"}
	switch p.path {
	case "libcontainer/cgroup":
		modes = []string{"v2", "v1", "hybrid"}
	case "libcontainer", "tests/lifecycle":
		modes = []string{"v2", "v1"}
	}
	for _, mode := range modes {
		// The disks are sparse: only what a test writes costs.
		flags := []string{"-vm", "uml", "-cgroup", mode, "-disk", "8G", "-disk", "4G"}
		jobs = append(jobs, job{p, "lab " + mode, flags, limit(p)})
	}
	return jobs
}

// limit is several times what a busy machine needs. It is there so that a hanging test
// costs an hour and not the day.
func limit(p pkg) time.Duration {
	switch {
	case strings.HasPrefix(p.path, "tests/"):
		return 45 * time.Minute
	case strings.HasPrefix(p.path, "rootfs/storage/"):
		return 30 * time.Minute
	}
	return 15 * time.Minute
}

// run runs a job to its end and reads what its tests said.
func (t *tools) run(ctx context.Context, j job) outcome {
	args := append(slices.Clone(j.flags), "-timeout", j.timeout.String(), j.pkg.binary,
		"-test.v=test2json", "-test.paniconexit0",
		// A little earlier than labexec: the stacks of a hanging test are worth seeing.
		"-test.timeout", (j.timeout - 20*time.Second).String())
	cmd := exec.CommandContext(ctx, t.labexec, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Dir = j.pkg.dir
	cmd.Env = append(os.Environ(), "THINRUN="+t.thinrun)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	o := outcome{job: j, err: err, elapsed: time.Since(start)}
	if ctx.Err() != nil {
		o.err = ctx.Err()
	}
	convert := exec.Command(t.test2json)
	convert.Stdin = &out
	events, err := convert.Output()
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("test2json: %w", err)
	}
	o.read(events)
	return o
}
