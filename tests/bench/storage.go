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
	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
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

// top finds out how thinrun calls the top layer of an image.
func (s *storageBench) top(image, chain string) error {
	infos, err := s.ours.Layers()
	if err != nil {
		return err
	}
	s.tops[image] = chain
	for _, i := range infos {
		if i.Chain == chain {
			s.layers[image] = i.ID
			return nil
		}
	}
	return fmt.Errorf("image %s: thinrun has no layer of chain %s", image, chain)
}

// userland unpacks Debian: from an archive's file to layers that can be run.
func (s *storageBench) userland(rounds int) (*Table, error) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	tar := filepath.Join(s.dir, "debian.tar")
	files, size, err := debianArchive(tar, filepath.Join(cache, "thinrun-lab/debian-bookworm.tar"))
	if err != nil {
		return nil, err
	}
	said("unpack Debian, %d files", files)
	row := fmt.Sprintf("1 import of an OCI archive: Debian, 3 layers, %d files, %d MiB [ms]", files, size>>20)
	t := &Table{Name: "unpack", Names: []string{"thinrun", "containerd"}}
	var blocks [2]int
	t.Rows, err = s.turns(rounds,
		func() (out sample, err error) {
			out, err = timed(row, func() error {
				_, err := s.thinrun.run("image", "import", "--quiet", "debian", "oci-archive:"+tar)
				return err
			})
			if err != nil {
				return nil, err
			}
			if blocks[0], err = s.ourBlocks(); err != nil {
				return nil, err
			}
			_, err = s.thinrun.run("image", "rm", "debian")
			return out, err
		},
		func() (out sample, err error) {
			out, err = timed(row, func() error {
				_, err := s.theirs.ctr("image", "import", "--snapshotter", snapshotter, tar)
				return err
			})
			if err != nil {
				return nil, err
			}
			if blocks[1], err = poolBlocks(ctdPool); err != nil {
				return nil, err
			}
			_, err = s.theirs.ctr("image", "rm", "--sync", ctdName("debian"))
			return out, err
		})
	if err != nil {
		return nil, err
	}
	t.Rows = append(t.Rows, Row{Case: "space that it takes in the pool", Unit: "MiB", Samples: map[string][]float64{
		"thinrun": {float64(blocks[0]) / 16}, "containerd": {float64(blocks[1]) / 16}}})
	// What of containerd's time is mkfs: a layer without a parent begins with one.
	var mkfs []float64
	for range rounds {
		took, err := timed("mkfs", func() error {
			return s.theirs.held(func(id string) error { _, err := s.theirs.prepare(id, ""); return err })
		})
		if err != nil {
			return nil, err
		}
		mkfs = append(mkfs, took["mkfs"])
		if err := s.theirs.collect(); err != nil {
			return nil, err
		}
	}
	t.Lacks = append(t.Lacks, fmt.Sprintf("of containerd's time %s ms are its mkfs.ext4 of a 10 GB disk for the bottom layer (median of %d); thinrun writes a prepared empty file system once, when the pool is made", short(quantile(mkfs, 0.5)), rounds))
	return t, nil
}

// unpacked is how many layers of the chain containerd unpacks itself. The rest are empty
// layers made through its API: at that pace unpacking would take most of the run.
const unpacked = 100

// chains imports images of many layers.
func (s *storageBench) chains(depths []int) (*Table, error) {
	t := &Table{Name: "import", Names: []string{"thinrun", "containerd"}}
	few := slices.DeleteFunc(slices.Clone(depths), func(d int) bool { return d > unpacked })
	layers, err := s.importChain(t, "few.tar", few, few)
	if err != nil {
		return nil, err
	}
	if len(few) < len(depths) {
		if layers, err = s.importChain(t, "many.tar", depths, depths[len(few):]); err != nil {
			return nil, err
		}
	}
	for _, d := range depths {
		if err := s.top(imageOf(d), layers[d-1].chain); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// importChain has both import an archive; new are the depths that they do not have yet.
func (s *storageBench) importChain(t *Table, file string, depths, new []int) ([]*packed, error) {
	tar := filepath.Join(s.dir, file)
	layers, err := chainArchive(tar, depths)
	if err != nil {
		return nil, err
	}
	have := 0
	if depths[0] != new[0] {
		have = unpacked
	}
	what := plural(len(layers)-have, "layer")
	said("import %s, thinrun", what)
	row := Row{Case: "import of " + what + " of one small file each", Unit: "s", Samples: map[string][]float64{}}
	began := time.Now()
	for _, d := range new {
		if _, err := s.thinrun.run("image", "import", "--quiet", imageOf(d), "oci-archive:"+tar+":"+imageOf(d)); err != nil {
			return nil, err
		}
	}
	row.Samples["thinrun"] = []float64{time.Since(began).Seconds()}
	said("import %s, containerd", what)
	began = time.Now()
	if have == 0 {
		_, err = s.theirs.ctr("image", "import", "--snapshotter", snapshotter, tar)
	} else {
		row.Case += " (containerd: empty layers, by its API)"
		_, err = s.theirs.ctr("image", "import", "--no-unpack", tar)
		for i := have; i < len(layers) && err == nil; i++ {
			err = s.theirs.seal(layers[i-1].chain, layers[i].chain)
		}
	}
	row.Samples["containerd"] = []float64{time.Since(began).Seconds()}
	t.Rows = append(t.Rows, row)
	return layers, err
}

// space counts the blocks that containers take which write 1 MiB each.
func (s *storageBench) space(image string) (*Table, error) {
	said("%d containers that write 1 MiB", writers)
	at := filepath.Join(s.dir, "mnt")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return nil, err
	}
	written := 0
	write := func(root string) error {
		data := make([]byte, 1<<20)
		for i := range data {
			data[i] = byte(i*7 + written)
		}
		written++
		f, err := os.Create(filepath.Join(root, "written"))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(data); err != nil {
			return err
		}
		return unix.Syncfs(int(f.Fd()))
	}
	before, err := s.ourBlocks()
	if err != nil {
		return nil, err
	}
	var claims []storage.Claim
	for range writers {
		src, err := s.ours.Prepare(storage.Request{ContainerID: s.thinrun.id(), Image: image, Layer: s.layers[image]},
			func(c storage.Claim) error {
				if len(claims) == 0 || claims[len(claims)-1].Key != c.Key {
					claims = append(claims, c)
				}
				claims[len(claims)-1] = c
				return nil
			})
		if err != nil {
			return nil, err
		}
		err = write(fmt.Sprintf("/proc/self/fd/%d", src.Mount.Fd()))
		src.Mount.Close()
		if err != nil {
			return nil, err
		}
	}
	after, err := s.ourBlocks()
	if err != nil {
		return nil, err
	}
	for _, c := range claims {
		if err := s.ours.Remove(c); err != nil {
			return nil, err
		}
	}
	ours := after - before

	if err := s.theirs.collect(); err != nil {
		return nil, err
	}
	if before, err = poolBlocks(ctdPool); err != nil {
		return nil, err
	}
	err = s.theirs.held(func(id string) error {
		for n := range writers {
			m, err := s.theirs.prepare(fmt.Sprintf("%s-%d", id, n), s.tops[image])
			if err != nil {
				return err
			}
			if err := unix.Mount(m.source, at, m.kind, 0, m.data); err != nil {
				return fmt.Errorf("mount %s: %w", m.source, err)
			}
			err = write(at)
			if e := unix.Unmount(at, 0); err == nil {
				err = e
			}
			if err != nil {
				return err
			}
		}
		after, err = poolBlocks(ctdPool)
		return err
	})
	if err == nil {
		err = s.theirs.collect()
	}
	return &Table{Name: "space", Names: []string{"thinrun", "containerd"}, Rows: []Row{
		{Case: fmt.Sprintf("pool blocks of 64 KiB, per container of %d that write 1 MiB (16 blocks)", writers), Unit: "blocks",
			Samples: map[string][]float64{"thinrun": {float64(ours) / writers}, "containerd": {float64(after-before) / writers}}},
	}}, err
}

func (s *storageBench) ourBlocks() (int, error) {
	st, err := s.ours.Status()
	if err != nil {
		return 0, err
	}
	return poolBlocks(st.Name)
}

// crowd puts snapshots of an image into both pools by device-mapper's own message, and
// not through either system: containerd would take an hour for as many.
func (s *storageBench) crowd(image string) error {
	var nodes devnode.Nodes
	defer nodes.Close()
	ctl, err := dm.Open(&nodes)
	if err != nil {
		return err
	}
	defer ctl.Close()
	st, err := s.ours.Status()
	if err != nil {
		return err
	}
	var thin uint64
	if _, err := fmt.Sscanf(s.layers[image], "%x-", &thin); err != nil {
		return fmt.Errorf("layer %q: %w", s.layers[image], err)
	}
	for _, p := range []struct {
		name   string
		origin uint64
	}{{st.Name, thin}, {ctdPool, 1}} { // containerd counts its ids from 1
		for n := range others {
			err := ctl.Message(p.name, fmt.Sprintf("create_snap %d %d", 1<<20+n, p.origin))
			if err != nil && !errors.Is(err, unix.EEXIST) {
				return err
			}
		}
	}
	return nil
}
