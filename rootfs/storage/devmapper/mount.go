package devmapper

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/fslog"
	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"
)

// mount makes a detached mount of the ext4 on a thin device: it is in no mount table and
// goes with its last descriptor. No discard option: it would burden every commit, and
// the blocks of a removed container come back when its id is deleted.
//
// thrownAway: no flush to the disk for an fsync inside. A container's disk does not outlive
// the boot that made it (its claim does not), so there is no power cut after which anybody
// reads it, and fsync costs a third (STORAGE 3.13).
func (p *pool) mount(dev dm.Device, thrownAway bool) (*os.File, error) {
	path, err := p.nodes.Path(dev.Node(), devnode.Block, dev.Major, dev.Minor)
	if err != nil {
		return nil, p.fail("%w", err)
	}
	fsfd, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, p.fail("fsopen ext4: %w", err)
	}
	defer unix.Close(fsfd)
	err = unix.FsconfigSetString(fsfd, "source", path)
	if err == nil && thrownAway {
		err = unix.FsconfigSetFlag(fsfd, "nobarrier")
	}
	if err == nil {
		err = unix.FsconfigCreate(fsfd)
	}
	if err != nil {
		return nil, p.fail("mount %s (ext4 on %s): %w", dev.Name, dev.Node(), fslog.Explain(fsfd, err))
	}
	mnt, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, p.fail("fsmount %s: %w", dev.Name, err)
	}
	return os.NewFile(uintptr(mnt), dev.Node()), nil
}

// openRoot opens the root directory of a detached mount, which itself is an O_PATH.
func openRoot(mnt *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(mnt.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root of %s: %w", mnt.Name(), err)
	}
	return os.NewFile(uintptr(fd), mnt.Name()), nil
}

// resizeFS is EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64).
const resizeFS = 0x40086610

// enlarging is how much of the pool enlarge takes for so many bytes more, at most: bitmaps
// and descriptors. It was 53 MiB for 1 TiB, 341 MiB for 4, 796 MiB for 8, 1.8 GiB for 15.
func enlarging(bytes uint64) uint64 {
	if bytes <= 4<<40 {
		return bytes / 8192
	}
	return bytes / 4096
}

// enlarge grows the mounted ext4 to its device.
func enlarge(mnt *os.File, bytes uint64) error {
	root, err := openRoot(mnt)
	if err != nil {
		return err
	}
	blocks := bytes / 4096
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), resizeFS, uintptr(unsafe.Pointer(&blocks)))
	if errno != 0 {
		err = fmt.Errorf("enlarge the file system on %s to %s: %w", mnt.Name(), size(bytes), errno)
	}
	return errors.Join(err, root.Close())
}
