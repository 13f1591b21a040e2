package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// writeStorage makes docs/bench/storage.md and the numbers behind it.
func writeStorage(rep *Report, dir string) error {
	raw, err := json.MarshalIndent(rep, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := storageText(rep)
	if err := os.WriteFile(filepath.Join(dir, "storage.json"), append(shorten(raw), '\n'), 0o644); err != nil {
		return err
	}
	fmt.Print(text)
	return os.WriteFile(filepath.Join(dir, "storage.md"), []byte(text), 0o644)
}

func storageText(rep *Report) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("# Storage, beside containerd's devmapper snapshotter\n")
	p("Written by `make bench-storage`; the numbers behind it are in `storage.json`.\n")
	p("| | |\n|---|---|\n| date | %s |", rep.Date)
	p("| machine | Linux %s, User-Mode Linux, 1 CPU, %d MiB: starting a process costs 25 ms there, so compare the columns |", rep.Machine.Kernel, rep.Machine.MemoryMiB)
	for _, name := range []string{"thinrun", "containerd", "runc"} {
		p("| %s | %s |", name, rep.Versions[name])
	}
	for _, t := range rep.Tables {
		p("\n## %s\n", storageTitles()[t.Name])
		table(&b, t)
		for _, l := range t.Lacks {
			p("\n- %s", l)
		}
	}
	p("\n"+storageMethod, rep.Rounds)
	return b.String()
}

func storageTitles() map[string]string {
	return map[string]string{
		"lives":  "From image to running process, and back",
		"unpack": "Unpacking a userland",
		"import": "Many layers",
		"space":  "Space",
	}
}

const storageMethod = `## Method

- Both have a pool of their own on one scratch disk, with preallocated files of the same size on loop devices with
  direct I/O, blocks of 64 KiB, and disks of 10 GB with ext4. containerd's pool is made with dmsetup as its
  documentation says; the rest is its default configuration.
- They take turns, %d rounds, each begun by the other one; a first round warms caches and does not count.
- *From a command line*: each starts a program. thinrun's snapshot is gone when it returns; ` + "`ctr run --rm`" + ` returns when the
  snapshot is marked as removed, and containerd's collector removes it later. (Between two samples the collector runs,
  outside of the measured time.)
- *Step by step*: four commands of thinrun, each a process; for containerd the calls that its client makes, over a
  connection that is open already: lease, Snapshots.Prepare, Containers.Create, Tasks.Create, Start, Wait, Delete,
  Containers.Delete, Snapshots.Remove. It starts a shim and runc, thinrun starts itself.
- *The storage alone*: the driver's Prepare and Remove as create and delete call them, in one process; for containerd
  Snapshots.Prepare and Remove over its socket, and mount(2) and umount(2) of the result. *Until its space is free
  again* adds what makes containerd's collector run: the removal of a lease with sync.
- The images of 1 to 1000 layers are beginnings of one chain: busybox, then one small file per layer, imported from one OCI
  archive by each. containerd unpacks the first 10; its further layers are empty ones, made by Snapshots.Prepare and
  Commit under the right names, because unpacking them would take longer than all the rest.
- The other snapshots are made with device-mapper's create_snap, in each pool: containerd's own records do not know
  them, which only spares it work.
- Debian's userland is the one of ` + "`make demo`" + `, in three gzip layers cut by directories. The import is a whole command: read,
  verify, unpack, sync. The image is removed again between rounds.
- Other work on the machine makes all numbers larger and spreads them; the two systems take turns, so it hits both.
- thinrun's containers have its default seccomp profile, containerd's have none, as ctr's default is.
`
