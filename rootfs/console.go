package rootfs

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Console makes a terminal out of the container's own devpts and, if the configuration
// says so, shows its slave as /dev/console. rows and cols of 0 leave the size alone.
//
// The slave comes from the master by ioctl and its mount from the slave by descriptor:
// no name in /dev/pts is looked up, so none can be swapped (CVE-2025-52565).
func (r *Root) Console(rows, cols uint16) (master, slave *os.File, err error) {
	if err := r.openDev(); err != nil {
		return nil, nil, err
	}
	fd, err := r.openPtmx()
	if err != nil {
		return nil, nil, err
	}
	peer := -1
	defer func() {
		if err != nil {
			closeAll(fd, peer)
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock the terminal: %w", err)
	}
	if peer, err = openPeer(fd); err != nil {
		return nil, nil, err
	}
	if rows != 0 || cols != 0 {
		if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols}); err != nil {
			return nil, nil, fmt.Errorf("terminal size: %w", err)
		}
	}
	if r.cfg.Console {
		if err := r.bindConsole(peer); err != nil {
			return nil, nil, fmt.Errorf("/dev/console: %w", err)
		}
	}
	return os.NewFile(uintptr(fd), "/dev/pts/ptmx"), os.NewFile(uintptr(peer), "/dev/tty"), nil
}

// openPtmx opens the ptmx of the devpts on /dev/pts. Inside a devpts only the kernel
// makes names, so once the directory is proven to be one, ptmx is what it says.
func (r *Root) openPtmx() (int, error) {
	pts, err := r.open("/dev/pts", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, fmt.Errorf("/dev/pts: %w (a terminal needs a devpts there; see mounts)", err)
	}
	defer unix.Close(pts)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(pts, &fs); err != nil {
		return -1, fmt.Errorf("/dev/pts: %w", err)
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return -1, fmt.Errorf("/dev/pts is not a devpts, which a terminal needs; see mounts")
	}
	fd, err := below(pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
	if err != nil {
		return -1, fmt.Errorf("/dev/pts/ptmx: %w (its mode is the devpts option ptmxmode)", err)
	}
	st, err := fstat(fd)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2)) {
		err = fmt.Errorf("is not the device 5:2")
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("/dev/pts/ptmx: %w", err)
	}
	return fd, nil
}

// openPeer is open(ptsname(master)) without the name; ioctl_tty(2), Linux 4.13.
func openPeer(master int) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return -1, fmt.Errorf("open the terminal's slave: %w", errno)
	}
	return int(fd), nil
}

func (r *Root) bindConsole(slave int) error {
	mount, err := unix.OpenTree(slave, "", unix.OPEN_TREE_CLONE|unix.O_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(mount)
	target, err := placeFor(r.dev, "console")
	if err != nil {
		return err
	}
	defer unix.Close(target)
	return moveOnto(mount, target)
}
