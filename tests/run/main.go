// Run builds every test binary of the module once and runs each in two kinds of
// places: on this kernel, boxed, and in the lab kernel. Then it prints one summary,
// whose last line is "N passed, N failed, N skipped".
//
//	run all|native|lab [import path or its end]...
//
// Nothing is skipped in silence. On this kernel a skip is listed with its reason; in
// the lab kernel, which has what tests need, it is a failure, unless its reason begins
// with "native only:" (box.NativeOnly).
//
// It wants to be called in the top of the tree, with .build/bin/labexec and thinrun
// built; make does that.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ok, err := run(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "tests/run: %v\n", err)
	}
	if !ok {
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (ok bool, err error) {
	if len(args) == 0 || !slices.Contains([]string{"all", "native", "lab"}, args[0]) {
		return false, errors.New("usage: run all|native|lab [import path or its end]")
	}
	top, err := os.Getwd()
	if err != nil {
		return false, err
	}
	if os.Geteuid() != 0 {
		return false, errors.New("needs root, for namespaces and mounts; without root: make test-unit")
	}
	tools := tools{
		top:      top,
		labexec:  filepath.Join(top, ".build/bin/labexec"),
		thinrun:  filepath.Join(top, "thinrun"),
		binaries: filepath.Join(top, ".build/test"),
	}
	start := time.Now()
	packages, err := build(ctx, &tools, args[1:])
	if err != nil {
		return false, err
	}
	fmt.Printf("built %d test binaries in %v\n", len(packages), time.Since(start).Round(time.Second))

	var native, lab []job
	for _, p := range packages {
		if args[0] != "lab" {
			native = append(native, nativeJob(p))
		}
		if args[0] != "native" {
			lab = append(lab, labJobs(p)...)
		}
	}
	// The longest first, so that no worker is left alone with them at the end.
	slices.SortStableFunc(lab, func(a, b job) int { return int(b.timeout - a.timeout) })
	slices.SortStableFunc(native, func(a, b job) int { return int(b.timeout - a.timeout) })
	outcomes := runJobs(ctx, &tools, native, lab)
	return summary(os.Stdout, outcomes, time.Since(start)), ctx.Err()
}

// runJobs has two workers. One begins with the native jobs, which go one by one: loop
// devices and the kernel's own limits are shared among them. Machines share nothing.
func runJobs(ctx context.Context, tools *tools, native, lab []job) (outcomes []outcome) {
	queue := make(chan job, len(lab))
	for _, j := range lab {
		queue <- j
	}
	close(queue)
	var mu sync.Mutex
	do := func(j job) {
		if ctx.Err() != nil {
			return
		}
		o := tools.run(ctx, j)
		mu.Lock()
		defer mu.Unlock()
		outcomes = append(outcomes, o)
		fmt.Println(o.line())
	}
	var workers sync.WaitGroup
	workers.Go(func() {
		runtime.LockOSThread() // PDEATHSIG follows the thread
		for _, j := range native {
			do(j)
		}
		for j := range queue {
			do(j)
		}
	})
	workers.Go(func() {
		runtime.LockOSThread()
		for j := range queue {
			do(j)
		}
	})
	workers.Wait()
	slices.SortStableFunc(outcomes, func(a, b outcome) int {
		return strings.Compare(a.pkg.path+" "+a.place, b.pkg.path+" "+b.place)
	})
	return outcomes
}
