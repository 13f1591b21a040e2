package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const dockerProfile = "libcontainer/seccomp/testdata/docker.json"

// sample is what one turn of a case gives: numbers by row.
type sample map[string]float64

// native is the comparison on this machine's kernel.
func native(rounds int, thinrun string) (*Report, error) {
	rep := &Report{Machine: thisMachine(), Versions: map[string]string{}, Retried: map[string]int{}, Rounds: rounds}
	if err := private(&rep.Machine); err != nil {
		return nil, err
	}
	list, b, done, err := setUp(thinrun)
	if err != nil {
		return nil, err
	}
	defer done()
	lib, reason, err := preload(b.dir)
	if err != nil {
		return nil, err
	}
	rep.Preload.Reason = reason
	if lib != "" {
		rep.Preload.Used = true
		for _, p := range list {
			p.env = append(p.env, "LD_PRELOAD="+lib) // the same for all, though only crun needs it
		}
	}
	lacks := []string{}
	list, lacks = proven(list, b, lacks)
	for _, p := range list {
		rep.Versions[p.name] = p.version()
	}
	t := Table{Name: "this kernel", Lacks: lacks}
	for _, p := range list {
		t.Names = append(t.Names, p.name)
	}

	count, why := newCounter(unix.PERF_TYPE_HARDWARE, unix.PERF_COUNT_HW_INSTRUCTIONS)
	if why != nil {
		t.Lacks = append(t.Lacks, "instructions retired: not measured: "+why.Error())
	} else {
		defer count.close()
	}
	for _, c := range []struct {
		what   string
		rounds int
		turn   func(*peer) (sample, error)
	}{
		{"life", rounds, lifeOf(b.plain, "true, runc's default spec", count)},
		{"life with the profile", rounds, lifeOf(b.profile, "true, Docker's seccomp profile", count)},
		{"run", rounds, runOf(b.plain)},
		{"state", rounds, stateOf(b.sleep)},
		{"exec", rounds, execOf(b.sleep)},
		{"memory", max(3, rounds/6), memoryOf(b.plain)},
		{"many", max(3, rounds/8), manyOf(b.plain, 16, 3)},
	} {
		fmt.Fprintf(os.Stderr, "bench: %s, %d rounds\n", c.what, c.rounds)
		rows, err := takeTurns(list, c.rounds, c.turn)
		if err != nil {
			return nil, err
		}
		t.Rows = append(t.Rows, rows...)
	}
	if lib != "" {
		if rep.Preload.CostMS, err = preloadCost(list, rounds, lib); err != nil {
			return nil, err
		}
	}
	for _, p := range list {
		rep.Retried[p.name] = p.retried
	}
	rep.Tables = []Table{t}
	return rep, nil
}

// setUp makes bundles and a copy of the binary, which nobody rebuilds meanwhile.
func setUp(thinrun string) ([]*peer, *bundles, func(), error) {
	// What create and run leave behind becomes our child, as it becomes a shim's.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
	}
	docker, err := os.ReadFile(dockerProfile)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w (run the benchmark from the top of the tree)", err)
	}
	dir, err := os.MkdirTemp("", "thinrun-bench-")
	if err != nil {
		return nil, nil, nil, err
	}
	done := func() { os.RemoveAll(dir) }
	b, err := makeBundles(dir, docker)
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "bin"), 0o755)
	}
	binary := filepath.Join(dir, "bin/thinrun")
	if err == nil {
		err = copyFile(thinrun, binary)
	}
	if err != nil {
		done()
		return nil, nil, nil, err
	}
	return peers(dir, binary), b, done, nil
}

// proven keeps the runtimes whose containers really run, and says why the others do not.
func proven(list []*peer, b *bundles, lacks []string) ([]*peer, []string) {
	var good []*peer
	for _, p := range list {
		if err := p.prove(b); err != nil {
			lacks = append(lacks, fmt.Sprintf("%s: not measured, it does not run a container here: %v", p.name, err))
			continue
		}
		good = append(good, p)
	}
	return good, lacks
}

// takeTurns runs a case with each runtime in each round, and begins every round with
// another one: a machine that gets slower, or a neighbour that follows a rhythm, hits
// all alike. The first round warms caches and does not count.
func takeTurns(list []*peer, rounds int, turn func(*peer) (sample, error)) ([]Row, error) {
	var rows []Row
	at := map[string]int{}
	for n := -1; n < rounds; n++ {
		for k := range list {
			p := list[(n+1+k)%len(list)]
			s, err := turn(p)
			if err != nil {
				return nil, err
			}
			if n < 0 {
				continue
			}
			for _, name := range rowOrder(s) {
				i, ok := at[name]
				if !ok {
					i = len(rows)
					at[name] = i
					title, unit := splitUnit(name)
					rows = append(rows, Row{Case: title, Unit: unit, Samples: map[string][]float64{}})
				}
				rows[i].Samples[p.name] = append(rows[i].Samples[p.name], s[name])
			}
		}
	}
	return rows, nil
}

func ms(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// lifeOf is create, start, wait and delete.
func lifeOf(bundle, title string, count *counter) func(*peer) (sample, error) {
	return func(p *peer) (sample, error) {
		var insns float64
		var l life
		err := count.around(&insns, func() (err error) {
			l, err = p.live(bundle, nil)
			return err
		})
		if err != nil {
			return nil, err
		}
		if !l.status.Exited() || l.status.ExitStatus() != 0 {
			return nil, fmt.Errorf("%s: true ended with %#x", p.name, int(l.status))
		}
		s := sample{
			"1 " + title + ": create+start+wait+delete [ms]": ms(l.total.wall),
			"2 " + title + ": create [ms]":                   ms(l.create.wall),
			"3 " + title + ": start [ms]":                    ms(l.start.wall),
			"4 " + title + ": delete [ms]":                   ms(l.delete.wall),
			"5 " + title + ": processor time, all [ms]":      ms(l.total.cpu),
		}
		if count != nil {
			s["6 "+title+": instructions, user and kernel [M]"] = insns / 1e6
		}
		return s, nil
	}
}

// runOf is the foreground command, alone.
func runOf(bundle string) func(*peer) (sample, error) {
	return func(p *peer) (sample, error) {
		took, err := p.run("run", "--bundle", bundle, p.id())
		if err != nil {
			return nil, err
		}
		return sample{"1 run of true, foreground [ms]": ms(took.wall), "2 run of true, foreground: processor time [ms]": ms(took.cpu)}, nil
	}
}

// withRunning gives turn a container that runs, and takes it away afterwards.
func withRunning(p *peer, bundle string, turn func(id string) error) (err error) {
	id := p.id()
	pidFile := filepath.Join(p.root, "..", id+".pid")
	defer os.Remove(pidFile)
	if _, err := p.run("create", "--bundle", bundle, "--pid-file", pidFile, id); err != nil {
		return err
	}
	init, err := openInit(pidFile)
	if err != nil {
		return err
	}
	defer init.close()
	if _, err = p.run("start", id); err == nil {
		err = turn(id)
	}
	if e := unix.PidfdSendSignal(init.fd, unix.SIGKILL, nil, 0); err == nil {
		err = e
	}
	if _, e := init.wait(); err == nil {
		err = e
	}
	if _, e := p.delete(id); err == nil {
		err = e
	}
	return err
}

func stateOf(bundle string) func(*peer) (sample, error) {
	return func(p *peer) (s sample, err error) {
		err = withRunning(p, bundle, func(id string) error {
			took, err := p.run("state", id)
			s = sample{"1 state of a running container [ms]": ms(took.wall)}
			return err
		})
		return s, err
	}
}

func execOf(bundle string) func(*peer) (sample, error) {
	return func(p *peer) (s sample, err error) {
		err = withRunning(p, bundle, func(id string) error {
			took, err := p.run("exec", id, "/bin/true")
			s = sample{"1 exec of true in a running container [ms]": ms(took.wall), "2 exec of true: processor time [ms]": ms(took.cpu)}
			return err
		})
		return s, err
	}
}

// manyOf keeps so many containers in the making at once, each worker a few in a row.
func manyOf(bundle string, workers, each int) func(*peer) (sample, error) {
	return func(p *peer) (sample, error) {
		// Ids and the count of retries are not made for several at once.
		list := make([]*peer, workers)
		for i := range list {
			one := *p
			one.next, one.retried = p.next+i*each, 0
			list[i] = &one
		}
		p.next += workers * each
		errs := make([]error, workers)
		var wg sync.WaitGroup
		began := time.Now()
		for i, one := range list {
			wg.Go(func() {
				for range each {
					if _, err := one.live(bundle, nil); err != nil {
						errs[i] = err
						return
					}
				}
			})
		}
		wg.Wait()
		took := time.Since(began)
		for i, one := range list {
			p.retried += one.retried
			if errs[i] != nil {
				return nil, errs[i]
			}
		}
		return sample{fmt.Sprintf("1 lives per second, %d at once [1/s]", workers): float64(workers*each) / took.Seconds()}, nil
	}
}

// preloadCost is the processor time that the preload adds to one invocation of crun,
// which alone needs it.
func preloadCost(list []*peer, rounds int, lib string) (float64, error) {
	for _, p := range list {
		if p.name != "crun" {
			continue
		}
		with, without := *p, *p
		with.name, without.name = "with", "without"
		without.env = without.env[:len(without.env)-1]
		rows, err := takeTurns([]*peer{&with, &without}, rounds, func(p *peer) (sample, error) {
			took, err := p.run("--version")
			return sample{"1 version [ms]": ms(took.cpu)}, err
		})
		if err != nil {
			return 0, err
		}
		return quantile(rows[0].Samples["with"], 0.5) - quantile(rows[0].Samples["without"], 0.5), nil
	}
	return 0, nil
}
