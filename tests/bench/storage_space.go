package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
)

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
