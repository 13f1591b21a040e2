package layer

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// Size is the bytes in a tree's regular files, each hard link once.
func Size(ctx context.Context, root *os.File) (bytes int64, err error) {
	seen := make(map[inode]bool)
	err = walk(ctx, root, func(_ string, x *unix.Statx_t) {
		if x.Mode&unix.S_IFMT != unix.S_IFREG {
			return
		}
		if x.Nlink > 1 {
			key := inode{dev(x), x.Ino}
			if seen[key] {
				return
			}
			seen[key] = true
		}
		bytes += int64(x.Size)
	})
	return bytes, err
}

// walk shows each file below root, by its path; a directory before what is in it, the
// names in order.
func walk(ctx context.Context, root *os.File, each func(path string, x *unix.Statx_t)) error {
	return walkBelow(ctx, int(root.Fd()), "", each)
}

func walkBelow(ctx context.Context, dir int, at string, each func(string, *unix.Statx_t)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	names, err := list(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		x, err := statx(dir, name)
		if err != nil {
			return err
		}
		p := join(at, name)
		each(p, x)
		if x.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		below, err := openSame(dir, name, unix.O_DIRECTORY, x)
		if err != nil {
			return err
		}
		err = walkBelow(ctx, int(below.Fd()), p, each)
		below.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
