package layer

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
)

// Size is the bytes in a tree's regular files, each hard link once.
func Size(ctx context.Context, root *os.File) (bytes int64, err error) {
	seen := make(map[inode]bool)
	err = walk(ctx, root, nil, func(_ string, x *unix.Statx_t) {
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
