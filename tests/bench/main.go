// Command bench measures thinrun beside the runc and crun that are installed, in one
// run and taking turns, and writes docs/bench: a table, a plot and the raw numbers.
//
//	make bench                              everything, a few minutes
//	go run ./tests/bench -rounds 10 -lab=false -out /tmp/b
//	make bench-storage                      beside containerd's devmapper snapshotter
//
// It needs root. All three run in the same private mount namespace with one cgroup2
// tree, their state on the same tmpfs, with the same bundles, and each proves that its
// container really ran before anything is timed. It asserts nothing: times are for
// people to read, on the machine where they were taken.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Report is what one run found out; bench.json is its text.
type Report struct {
	Date     string
	Machine  Machine
	Versions map[string]string
	Rounds   int
	Preload  Preload
	Tables   []Table
	Retried  map[string]int // deletes that had to be repeated, by runtime
}

// Table is a group of rows that were measured in the same place.
type Table struct {
	Name  string
	Place string // where, when it is not this machine's kernel
	Names []string
	Rows  []Row
	Lacks []string // what was not measured, each with its reason
}

// Row is one question asked of all that the table compares.
type Row struct {
	Case    string
	Unit    string
	Samples map[string][]float64
}

func main() {
	rounds := flag.Int("rounds", 60, "how often each case runs with each runtime")
	lab := flag.Bool("lab", true, "also measure memory limits and dm-thin in the lab kernel")
	out := flag.String("out", "docs/bench", "where the results go")
	binary := flag.String("thinrun", "./thinrun", "the binary to measure")
	onlyStorage := flag.Bool("storage", false, "measure the storage beside containerd's devmapper snapshotter instead")
	deepest := flag.Int("deepest", 1000, "with -storage: the most layers of an image")
	stage := flag.String("stage", "", "internal: native, lab or storage, the process that measures")
	flag.Parse()
	var err error
	switch *stage {
	case "":
		if *onlyStorage {
			err = outerStorage(*binary, *out, *rounds, *deepest)
		} else {
			err = outer(*rounds, *lab, *binary, *out)
		}
	case "storage":
		err = emit(inStorage(*binary, *rounds, *deepest))
	case "native":
		err = emit(native(*rounds, *binary))
	case "lab":
		err = emit(inLab(*rounds, *binary))
	default:
		err = fmt.Errorf("no stage %q", *stage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// outer starts the measuring processes and writes what they say.
func outer(rounds int, lab bool, binary, out string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: containers with all namespaces, a private cgroup2 mount")
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var rep Report
	// A mount namespace of its own: what is done to /sys/fs/cgroup and /run there is
	// nobody else's.
	cmd := exec.Command(self, "-stage", "native", "-rounds", fmt.Sprint(rounds), "-thinrun", binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := ask(cmd, &rep); err != nil {
		return err
	}
	rep.Date = time.Now().UTC().Format("2006-01-02 15:04 UTC")
	if lab {
		// Go puts what it runs below /tmp, and the lab has a /tmp of its own.
		inside, err := labTools(self, binary)
		if err != nil {
			return err
		}
		var more Report
		if err := ask(inside, &more); err != nil {
			return fmt.Errorf("in the lab kernel: %w", err)
		}
		rep.Tables = append(rep.Tables, more.Tables...)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	return write(&rep, out)
}

// ask runs a stage, which prints its report as JSON.
func ask(cmd *exec.Cmd, rep *Report) error {
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(cmd.Path), err)
	}
	return json.Unmarshal(text, rep)
}

func emit(rep *Report, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(rep)
}

// labTools builds what the lab needs and gives the command that measures there.
func labTools(self, binary string) (*exec.Cmd, error) {
	dir, err := filepath.Abs(".build/bin")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir+"/", "./tests/lab/labexec")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build labexec: %w", err)
	}
	bench := filepath.Join(dir, "bench")
	if err := copyFile(self, bench); err != nil {
		return nil, err
	}
	return exec.Command(filepath.Join(dir, "labexec"), "-vm", "uml", "-mem", "1G", "-disk", "6G", "-timeout", "10m",
		bench, "-stage", "lab", "-rounds", "15", "-thinrun", binary), nil
}
