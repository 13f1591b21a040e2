// Package devnode opens device nodes by number. It prefers /dev, where devtmpfs or udev
// keeps them, and makes a node of its own where /dev has none or has a wrong one: a
// container's /dev, a chroot, a kernel without devtmpfs.
//
// Own nodes live in a tmpfs that is in no mount table: /run is usually nodev, and a node
// below /dev would be somebody else's to explain.
package devnode

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Kinds of nodes.
const (
	Block = unix.S_IFBLK
	Char  = unix.S_IFCHR
)

// Nodes finds and makes nodes. The zero value is ready.
type Nodes struct {
	mu  sync.Mutex
	own *os.File // the tmpfs, once one was needed
}

// Path is a path that opens the device: want itself when it is that device, else an own
// node below /proc/self/fd, good as long as n is not closed. The string can be given to
// the kernel, as in fsconfig(2)'s source.
func (n *Nodes) Path(want string, kind uint32, major, minor uint32) (string, error) {
	dev := unix.Mkdev(major, minor)
	var st unix.Stat_t
	if unix.Stat(want, &st) == nil && st.Mode&unix.S_IFMT == kind && st.Rdev == dev {
		return want, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.own == nil {
		own, err := tmpfs()
		if err != nil {
			return "", fmt.Errorf("a node for device %d:%d (%s is not it): %w", major, minor, want, err)
		}
		n.own = own
	}
	name := fmt.Sprintf("%o-%d:%d", kind, major, minor)
	if err := unix.Mknodat(int(n.own.Fd()), name, kind|0o600, int(dev)); err != nil && err != unix.EEXIST {
		return "", fmt.Errorf("mknod %d:%d (%s is not it): %w", major, minor, want, err)
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", n.own.Fd(), name), nil
}

// Open opens the device.
func (n *Nodes) Open(want string, kind uint32, major, minor uint32, flags int) (*os.File, error) {
	path, err := n.Path(want, kind, major, minor)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s (%d:%d): %w", want, major, minor, err)
	}
	return os.NewFile(uintptr(fd), want), nil
}

// Close takes the own nodes away.
func (n *Nodes) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.own == nil {
		return nil
	}
	err := n.own.Close()
	n.own = nil
	return err
}

func tmpfs() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("tmpfs: %w", err)
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsmount tmpfs: %w", err)
	}
	return os.NewFile(uintptr(mnt), "nodes"), nil
}
