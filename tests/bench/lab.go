package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// inLab measures what this machine's kernel may lack: memory limits in cgroup2, and
// thinrun's own roots on a dm-thin pool.
func inLab(rounds int, thinrun string) (*Report, error) {
	m := thisMachine()
	place := "Linux " + m.Kernel + ", User-Mode Linux, 1 CPU: starting a process costs 25 ms there, so compare the columns, not other tables"
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return nil, fmt.Errorf("mount a tmpfs on /run: %w", err)
	}
	list, b, done, err := setUp(thinrun)
	if err != nil {
		return nil, err
	}
	defer done()
	list, lacks := proven(list, b, nil)
	memory := Table{Name: "memory", Place: place, Lacks: lacks}
	for _, p := range list {
		memory.Names = append(memory.Names, p.name)
	}
	fmt.Fprintln(os.Stderr, "bench: lab: memory limits")
	if memory.Rows, err = limits(list, b); err != nil {
		return nil, err
	}
	roots, err := measureRoots(rounds, thinrun, b)
	if err != nil {
		return nil, err
	}
	roots.Place = place
	return &Report{Tables: []Table{memory, *roots}}, nil
}

// measureRoots compares thinrun with itself: the bundle's own directory as the root, a
// fresh overlay on an image, and a fresh thin snapshot of it. The difference to the
// bundle's column is what the root costs.
func measureRoots(rounds int, thinrun string, b *bundles) (*Table, error) {
	t := &Table{Name: "roots", Names: []string{"devmapper", "overlay", "bundle"}}
	var list []*peer
	flags := map[string][]string{"bundle": nil}
	for _, name := range t.Names {
		p := &peer{name: name, binary: thinrun, root: filepath.Join("/run", "bench-"+name), cwd: b.dir,
			env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}}
		list = append(list, p)
		if name == "bundle" {
			continue
		}
		p.globals = []string{"--storage", filepath.Join(b.dir, "storage-"+name), "--storage-driver", name}
		flags[name] = []string{"--image", "bench"}
		fmt.Fprintln(os.Stderr, "bench: lab: import the image,", name)
		if _, err := p.run("image", "import", "bench", b.rootfs); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(os.Stderr, "bench: lab: roots, %d rounds\n", rounds)
	rows, err := takeTurns(list, rounds, func(p *peer) (sample, error) {
		l, err := p.live(b.plain, nil, flags[p.name]...)
		if err == nil && l.status != 0 {
			err = fmt.Errorf("%s: true ended with %#x", p.name, int(l.status))
		}
		return sample{
			"1 true: create+start+wait+delete [ms]": ms(l.total.wall),
			"2 true: create [ms]":                   ms(l.create.wall),
			"3 true: delete [ms]":                   ms(l.delete.wall),
			"4 true: processor time, all [ms]":      ms(l.total.cpu),
		}, err
	})
	if err != nil {
		return nil, err
	}
	t.Rows = rows
	return t, nil
}
