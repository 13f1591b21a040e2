package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper"
)

const (
	poolBytes = 6 << 30
	metaBytes = 128 << 20
	others    = 20000 // snapshots that nobody uses
	writers   = 100   // containers that write
)

// storageBench is one machine with both systems on one scratch disk, each with a pool of
// its own.
type storageBench struct {
	dir     string
	thinrun *peer
	ours    *devmapper.Driver
	theirs  *containerd
	bundle  string
	tops    map[string]string // image: its chain id
	layers  map[string]string // image: thinrun's name of its top layer
}

// outerStorage measures in the lab and writes down what it says.
func outerStorage(binary, out string, rounds, deepest int) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: the lab's disks, Debian's packages")
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	inside, err := labTools(self, binary)
	if err != nil {
		return err
	}
	inside.Args = []string{inside.Args[0], "-vm", "uml", "-mem", "1500M", "-disk", "20G", "-timeout", "40m",
		filepath.Join(filepath.Dir(inside.Path), "bench"), "-stage", "storage", "-thinrun", binary, "-rounds", fmt.Sprint(rounds), "-deepest", fmt.Sprint(deepest)}
	var rep Report
	if err := ask(inside, &rep); err != nil {
		return fmt.Errorf("in the lab kernel: %w", err)
	}
	rep.Date = time.Now().UTC().Format("2006-01-02 15:04 UTC")
	return writeStorage(&rep, out)
}

// inStorage measures, in the lab.
func inStorage(binary string, rounds, deepest int) (*Report, error) {
	depths := slices.DeleteFunc([]int{1, 10, 100, 1000}, func(d int) bool { return d > deepest })
	s, done, err := setUpStorage(binary)
	if err != nil {
		return nil, err
	}
	defer done()
	rep := &Report{Machine: thisMachine(), Rounds: rounds, Versions: map[string]string{"thinrun": s.thinrun.version()}}
	for name, args := range map[string][]string{"containerd": {"containerd", "--version"}, "runc": {"runc", "--version"}} {
		out, err := command(args[0], args[1:]...)
		if err != nil {
			return nil, err
		}
		rep.Versions[name], _, _ = strings.Cut(out, "\n")
	}

	unpack, err := s.userland(min(3, rounds))
	if err != nil {
		return nil, err
	}
	deep, err := s.chains(depths)
	if err != nil {
		return nil, err
	}
	space, err := s.space(imageOf(1))
	if err != nil {
		return nil, err
	}
	lives := Table{Name: "lives", Names: []string{"thinrun", "containerd"}}
	for _, d := range depths {
		if err := s.measure(&lives, imageOf(d), plural(d, "layer"), rounds); err != nil {
			return nil, err
		}
	}
	said("%d more snapshots in each pool", others)
	if err := s.crowd(imageOf(1)); err != nil {
		return nil, err
	}
	if err := s.measure(&lives, imageOf(1), fmt.Sprintf("1 layer, %d other snapshots", others), rounds); err != nil {
		return nil, err
	}
	slices.SortStableFunc(lives.Rows, func(a, b Row) int { return strings.Compare(a.Case[:1], b.Case[:1]) })
	for i := range lives.Rows {
		lives.Rows[i].Case = lives.Rows[i].Case[2:]
	}
	rep.Tables = []Table{lives, *unpack, *deep, *space}
	return rep, nil
}

func said(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().UTC().Format("15:04:05")+" bench: storage: "+format+"\n", args...)
}

func setUpStorage(binary string) (*storageBench, func(), error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, os.NewSyscallError("prctl(PR_SET_CHILD_SUBREAPER)", err)
	}
	disk, _, _ := strings.Cut(os.Getenv("LAB_DISKS"), " ")
	dir, err := os.MkdirTemp("", "bench-storage-")
	if err != nil {
		return nil, nil, err
	}
	if _, err := command("mkfs.ext4", "-q", "-F", disk); err != nil {
		return nil, nil, err
	}
	if err := unix.Mount(disk, dir, "ext4", 0, ""); err != nil {
		return nil, nil, fmt.Errorf("mount %s: %w", disk, err)
	}
	copied := filepath.Join(dir, "thinrun")
	if err := copyFile(binary, copied); err != nil {
		return nil, nil, err
	}
	storageDir := filepath.Join(dir, "storage")
	s := &storageBench{dir: dir, tops: map[string]string{}, layers: map[string]string{}}
	s.thinrun = &peer{name: "thinrun", binary: copied, root: "/run/bench-thinrun", cwd: dir,
		env:     []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		globals: []string{"--storage", storageDir, "--storage-driver", "devmapper"}}
	if _, err := s.thinrun.run("pool", "create", "--data-size", fmt.Sprint(poolBytes), "--metadata-size", fmt.Sprint(metaBytes), "--low-water", "256M"); err != nil {
		return nil, nil, err
	}
	if s.ours, err = devmapper.Open(storageDir, devmapper.Options{}); err != nil {
		return nil, nil, err
	}
	b := &bundles{dir: filepath.Join(dir, "bundles"), rootfs: "rootfs"}
	if s.bundle, err = b.write("true", []string{"true"}, nil); err != nil {
		return nil, nil, err
	}
	said("containerd and its pool")
	if s.theirs, err = startContainerd(filepath.Join(dir, "containerd"), poolBytes, metaBytes); err != nil {
		return nil, nil, err
	}
	return s, s.theirs.stop, nil
}

// turns is takeTurns between the two.
func (s *storageBench) turns(rounds int, ours, theirs func() (sample, error)) ([]Row, error) {
	return takeTurns([]*peer{s.thinrun, {name: "containerd"}}, rounds, func(p *peer) (sample, error) {
		if p == s.thinrun {
			return ours()
		}
		return theirs()
	})
}

// timed is a sample of one number: what act took.
func timed(name string, act func() error) (sample, error) {
	began := time.Now()
	err := act()
	return sample{name: ms(time.Since(began))}, err
}

// measure adds the rows of one image to the table.
func (s *storageBench) measure(t *Table, image, where string, rounds int) error {
	at := filepath.Join(s.dir, "mnt")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	for _, c := range []struct {
		name         string
		ours, theirs func() error
	}{
		{"1 from a command line: `thinrun run --image`, `ctr run --rm`",
			func() error {
				_, err := s.thinrun.run("run", "--image", image, s.thinrun.id(), "true")
				return err
			},
			func() error {
				_, err := s.theirs.ctr("run", "--snapshotter", snapshotter, "--rm", ctdName(image), s.theirs.id(), "true")
				return err
			}},
		{"2 step by step: thinrun's create, start, wait, delete; containerd's API, the same steps",
			func() error {
				l, err := s.thinrun.live(s.bundle, nil, "--image", image)
				if err == nil && (!l.status.Exited() || l.status.ExitStatus() != 0) {
					err = fmt.Errorf("true ended with %#x", int(l.status))
				}
				return err
			},
			func() error { return s.theirs.life(s.tops[image]) }},
		{"3 the storage alone: snapshot, device, mount, unmount, remove",
			func() error { return s.snapshot(image, nothing) },
			func() error { return s.theirs.snapshot(s.tops[image], at, nothing) }},
		{"4 the storage alone, until its space is free again",
			func() error { return s.snapshot(image, nothing) },
			func() error {
				if err := s.theirs.snapshot(s.tops[image], at, nothing); err != nil {
					return err
				}
				return s.theirs.collect()
			}},
	} {
		said("%s: %s", where, c.name[2:])
		row := c.name + ": " + where + " [ms]"
		rows, err := s.turns(rounds,
			func() (sample, error) { return timed(row, c.ours) },
			func() (sample, error) {
				// What is only marked as removed is another's time: it starts clean.
				defer s.theirs.collect()
				return timed(row, c.theirs)
			})
		if err != nil {
			return err
		}
		for i := range rows {
			rows[i].Case = c.name[:2] + rows[i].Case
		}
		t.Rows = append(t.Rows, rows...)
	}
	return nil
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func nothing(string) error { return nil }

// snapshot is the storage's part of a container: what create and delete ask the driver
// for, in this process.
func (s *storageBench) snapshot(image string, use func(root string) error) error {
	var claim storage.Claim
	src, err := s.ours.Prepare(storage.Request{ContainerID: s.thinrun.id(), Image: image, Layer: s.layers[image]},
		func(c storage.Claim) error { claim = c; return nil })
	if err != nil {
		return errors.Join(err, s.ours.Remove(claim))
	}
	err = use(fmt.Sprintf("/proc/self/fd/%d", src.Mount.Fd()))
	src.Mount.Close()
	return errors.Join(err, s.ours.Remove(claim))
}
