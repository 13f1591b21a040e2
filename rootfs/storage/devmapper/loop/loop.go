// Package loop makes block devices out of files: /dev/loop-control and the ioctls of
// loop(4), nothing else. A device is always configured with LO_FLAGS_AUTOCLEAR, so it
// goes with its last user and a killed runtime leaves none.
package loop

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/devnode"
)

const (
	major       = 7
	controlMisc = 237 // LOOP_CTRL_MINOR; opening 10:237 loads the module
	blockSize   = 4096
)

// Device is a configured loop device; it lives as long as File, or what was put on it.
type Device struct {
	File         *os.File
	Major, Minor uint32
}

// Attach puts a loop device on file. Between asking for a free number and taking it
// somebody else may have it; the kernel says EBUSY then, and the next one is asked for.
func Attach(nodes *devnode.Nodes, file *os.File) (*Device, error) {
	control, err := nodes.Open("/dev/loop-control", devnode.Char, 10, controlMisc, unix.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("loop device for %s: %w", file.Name(), err)
	}
	defer control.Close()
	for range 1000 { // each round lost means that another one got a device
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("loop device for %s: LOOP_CTL_GET_FREE: %w", file.Name(), err)
		}
		d, err := configure(nodes, uint32(n), file)
		if errors.Is(err, unix.EBUSY) {
			continue
		}
		return d, err
	}
	return nil, fmt.Errorf("loop device for %s: others take every free one: %w", file.Name(), unix.EBUSY)
}

func configure(nodes *devnode.Nodes, n uint32, file *os.File) (*Device, error) {
	path := "/dev/loop" + strconv.Itoa(int(n))
	f, err := nodes.Open(path, devnode.Block, major, n, unix.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("loop device for %s: %w", file.Name(), err)
	}
	// 4096 rather than 512: direct I/O needs the file system's own block at least, and
	// all that lies on it works in 4 KiB. Where the file system has no direct I/O the
	// kernel leaves it out without an error.
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Size: blockSize}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:len(config.Info.File_name)-1], file.Name())
	if err := unix.IoctlLoopConfigure(int(f.Fd()), &config); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s on %s: LOOP_CONFIGURE: %w", path, file.Name(), err)
	}
	return &Device{f, major, n}, nil
}

// Open opens an attached device by its number.
func Open(nodes *devnode.Nodes, minor uint32) (*Device, error) {
	f, err := nodes.Open("/dev/loop"+strconv.Itoa(int(minor)), devnode.Block, major, minor, unix.O_RDWR)
	if err != nil {
		return nil, err
	}
	return &Device{f, major, minor}, nil
}

// Grow makes the device as large as its file has become.
func (d *Device) Grow() error {
	if err := unix.IoctlSetInt(int(d.File.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("%s: LOOP_SET_CAPACITY: %w", d.File.Name(), err)
	}
	return nil
}

func (d *Device) Close() error { return d.File.Close() }

// Find lists the devices whose backing file is file, by device and inode: the path in
// sysfs is what the file was once called.
func Find(nodes *devnode.Nodes, file *os.File) ([]uint32, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &want); err != nil {
		return nil, fmt.Errorf("stat %s: %w", file.Name(), err)
	}
	dirs, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var found []uint32
	for _, path := range dirs {
		number := strings.TrimPrefix(strings.Split(path, "/")[3], "loop")
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			continue
		}
		f, err := nodes.Open("/dev/loop"+number, devnode.Block, major, uint32(n), unix.O_RDONLY)
		if err != nil {
			continue // gone meanwhile
		}
		info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
		f.Close()
		// lo_device is in the kernel's new_encode_dev form, which stat's st_dev shares for
		// the small numbers in use.
		if err == nil && info.Inode == want.Ino && info.Device == want.Dev {
			found = append(found, uint32(n))
		}
	}
	return found, nil
}

// DirectIO tells if the device goes around the host's page cache.
func DirectIO(minor uint32) bool {
	b, err := os.ReadFile("/sys/block/loop" + strconv.Itoa(int(minor)) + "/loop/dio")
	return err == nil && bytes.HasPrefix(b, []byte("1"))
}
