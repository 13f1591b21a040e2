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
