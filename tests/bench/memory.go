package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// memoryOf looks at the init of a container that waits for start.
func memoryOf(bundle string) func(*peer) (sample, error) {
	return func(p *peer) (s sample, err error) {
		_, err = p.live(bundle, func(pid int) error {
			s, err = smaps(pid)
			return err
		})
		return s, err
	}
}

// smaps is what proc_pid_smaps(5) says of a process, in KiB.
func smaps(pid int) (sample, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return nil, err
	}
	s := sample{}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		kib, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			return nil, err
		}
		switch f[0] {
		case "Pss:":
			s["1 created container: PSS of init [KiB]"] = kib
		case "Anonymous:":
			s["2 created container: anonymous memory of init [KiB]"] = kib
		}
	}
	if len(s) != 2 {
		return nil, fmt.Errorf("smaps_rollup of pid %d lacks Pss or Anonymous", pid)
	}
	return s, nil
}

// limits answers with the smallest memory limit in the config under which a container
// runs to its end, and what its cgroup is charged between create and start. It needs
// the memory controller in cgroup2.
func limits(list []*peer, b *bundles) ([]Row, error) {
	held := Row{Case: "created container: memory.current of its cgroup", Unit: "KiB", Samples: map[string][]float64{}}
	least := Row{Case: "smallest memory limit in which true runs, 3 times of 3", Unit: "KiB", Samples: map[string][]float64{}}
	for _, p := range list {
		for range 5 {
			kib, err := charged(p, b)
			if err != nil {
				return nil, err
			}
			held.Samples[p.name] = append(held.Samples[p.name], kib)
		}
		kib, err := smallest(p, b)
		if err != nil {
			return nil, err
		}
		least.Samples[p.name] = []float64{kib}
	}
	return []Row{held, least}, nil
}

func (b *bundles) limited(name string, bytes int64) (string, error) {
	return b.write(name, []string{"true"}, func(s *specs.Spec) {
		s.Linux.CgroupsPath = "/" + name
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &bytes}
	})
}

func charged(p *peer, b *bundles) (kib float64, err error) {
	bundle, err := b.limited("bench-charged", 1<<30)
	if err != nil {
		return 0, err
	}
	_, err = p.live(bundle, func(int) error {
		text, err := os.ReadFile("/sys/fs/cgroup/bench-charged/memory.current")
		if err != nil {
			return err
		}
		bytes, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		kib = bytes / 1024
		return err
	})
	return kib, err
}

// smallest searches in steps of 128 KiB.
func smallest(p *peer, b *bundles) (float64, error) {
	const step = 128 << 10
	works := func(n int) bool {
		bundle, err := b.limited("bench-limited", int64(n*step))
		if err != nil {
			return false
		}
		for range 3 {
			l, err := p.live(bundle, nil)
			unix.Rmdir("/sys/fs/cgroup/bench-limited") // a failed create may leave it
			if err != nil || l.status != 0 {
				return false
			}
		}
		return true
	}
	low, high := 0, 512 // 64 MiB
	if !works(high) {
		return 0, fmt.Errorf("%s: does not run in 64 MiB", p.name)
	}
	for high-low > 1 {
		if mid := (low + high) / 2; works(mid) {
			high = mid
		} else {
			low = mid
		}
	}
	return float64(high*step) / 1024, nil
}
