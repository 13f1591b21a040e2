package layer

import (
	"context"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// walk shows each file below root, by its path; a directory before what is in it, the
// names in order. What skip says is not there.
func walk(ctx context.Context, root *os.File, skip func(path string) bool, each func(path string, x *unix.Statx_t)) error {
	return walkBelow(ctx, int(root.Fd()), "", 0, skip, each)
}

func walkBelow(ctx context.Context, dir int, at string, depth int, skip func(string) bool, each func(string, *unix.Statx_t)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		p := join(at, name)
		if skip != nil && skip(p) {
			continue
		}
		x, err := statx(dir, name)
		if err != nil {
			return fmt.Errorf("file %q: %w", p, err)
		}
		each(p, x)
		if x.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if depth == maxDepth {
			return fmt.Errorf("file %q: deeper than %d directories", p, maxDepth)
		}
		below, err := openSame(dir, name, unix.O_DIRECTORY, x)
		if err != nil {
			return fmt.Errorf("file %q: %w", p, err)
		}
		err = walkBelow(ctx, int(below.Fd()), p, depth+1, skip, each)
		below.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// list reads the names in a directory, in order. It opens it once more: a descriptor's
// position belongs to who else has it.
func list(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
