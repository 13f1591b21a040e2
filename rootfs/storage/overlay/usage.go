package overlay

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// DisksOf counts what each container's upper directory holds. Nothing limits it.
func (d Driver) DisksOf(claims []storage.Claim) ([]*storage.Disk, error) {
	disks := make([]*storage.Disk, len(claims))
	for i, c := range claims {
		name, err := d.container(c)
		if err != nil {
			continue
		}
		if used, err := blocks(d.path("containers", name, "upper")); err == nil {
			disks[i] = &storage.Disk{Used: used}
		}
	}
	return disks, nil
}

// Exclusive counts the groups' own layers. A layer on which one of outside the group
// stands would not come back: that one needs it.
func (d Driver) Exclusive(groups map[string][]string) (map[string]uint64, error) {
	above := map[string][]string{} // by layer: those that stand on it
	err := d.eachChain(func(chain []string) error {
		for _, below := range chain[1:] {
			above[below] = append(above[below], chain[0])
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	size := map[string]uint64{} // each layer is counted once
	sums := map[string]uint64{}
	for group, layers := range groups {
		layers = slices.Compact(slices.Sorted(slices.Values(layers)))
		var sum uint64
		for _, id := range layers {
			if slices.ContainsFunc(above[id], func(user string) bool { return !slices.Contains(layers, user) }) {
				continue
			}
			if !isID(id) {
				return nil, fmt.Errorf("layer %q: %w: an overlay layer's id has 32 hex digits", id, ErrNoLayer)
			}
			if _, known := size[id]; !known {
				if size[id], err = blocks(d.path("layers", id, "fs")); err != nil && !errors.Is(err, unix.ENOENT) { // removed meanwhile
					return nil, err
				}
			}
			sum += size[id]
		}
		sums[group] = sum
	}
	return sums, nil
}

// blocks is the disk space of a directory and all below it, each inode once. What a
// container removes meanwhile is passed over; one that keeps moving directories is tried
// again, a few times.
func blocks(path string) (sum uint64, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("disk use of %s: %w", path, err)
	}
	top := os.NewFile(uintptr(fd), path)
	defer top.Close()
	for range 5 {
		if sum, err = blocksOnce(top); !errors.Is(err, errMoved) {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("disk use of %s: %w", path, err)
	}
	return sum, nil
}

func blocksOnce(top *os.File) (sum uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(top.Fd()), &st); err != nil {
		return 0, err
	}
	sum = uint64(st.Blocks) * 512 // stat(2): in these units, whatever the file system
	seen := map[inode]bool{}
	w := walk{top: top, changing: true, entry: func(_ *os.File, _ string, st *unix.Stat_t) error {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			if at := (inode{st.Dev, st.Ino}); seen[at] {
				return nil
			} else {
				seen[at] = true
			}
		}
		sum += uint64(st.Blocks) * 512
		return nil
	}}
	return sum, w.run()
}
