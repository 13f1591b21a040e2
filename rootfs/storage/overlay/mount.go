package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/fslog"
)

// fsconfig copies no more of a string than this, its NUL included (fs/fsopen.c).
const maxOption = 256

// mount makes a detached overlay. All directories are named by descriptor, so that
// neither ':' nor ',' nor '\' in --storage means anything to overlayfs, and so that the
// options, which the container can read in its own mountinfo, tell nothing of the host.
func (d Driver) mount(lower []*os.File, upper, work string) (*os.File, error) {
	var dirs [2]*os.File
	for i, path := range []string{upper, work} {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		dirs[i] = os.NewFile(uintptr(fd), path)
		defer dirs[i].Close()
	}
	for _, how := range []func([]*os.File) ([]option, bool){oneOption, optionEach} {
		options, fits := how(lower)
		if !fits {
			continue
		}
		mnt, err := d.tryMount(options, dirs[0], dirs[1])
		if !errors.Is(err, errOption) {
			return mnt, err
		}
	}
	return d.mountFromFDs(lower, dirs[0], dirs[1])
}

type option struct{ key, value string }

// errOption: this kernel does not know the option, or not in this form.
var errOption = errors.New("option refused")

func fdPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// oneOption is lowerdir=A:B:C; it holds some 14 layers.
func oneOption(lower []*os.File) ([]option, bool) {
	names := make([]string, len(lower))
	for i, f := range lower {
		names[i] = fdPath(f)
	}
	value := strings.Join(names, ":")
	return []option{{"lowerdir", value}}, len(value) < maxOption
}

// optionEach is lowerdir+=A, lowerdir+=B (Linux 6.7); it holds overlayfs's 500.
func optionEach(lower []*os.File) (options []option, fits bool) {
	for _, f := range lower {
		options = append(options, option{"lowerdir+", fdPath(f)})
	}
	return options, true
}

// mountFromFDs is for a long chain on a kernel without lowerdir+: with /proc/self/fd
// as the working directory the names are mere numbers, and some 63 to 85 fit. The
// working directory is a thread's own after unshare(CLONE_FS), and that thread ends
// with its goroutine.
func (d Driver) mountFromFDs(lower []*os.File, upper, work *os.File) (mnt *os.File, err error) {
	names := make([]string, len(lower))
	for i, f := range lower {
		names[i] = strconv.Itoa(int(f.Fd()))
	}
	value := strings.Join(names, ":")
	if len(value) >= maxOption {
		return nil, fmt.Errorf("a chain of %d layers is too long for overlay on this kernel (Linux 6.7 takes 500); flatten the image", len(lower))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread must not serve others
		if err = unix.Unshare(unix.CLONE_FS); err != nil {
			err = fmt.Errorf("unshare(CLONE_FS): %w", err)
			return
		}
		if err = unix.Chdir("/proc/self/fd"); err != nil {
			err = fmt.Errorf("chdir /proc/self/fd: %w", err)
			return
		}
		mnt, err = d.tryMount([]option{{"lowerdir", value}}, upper, work)
	}()
	<-done
	return mnt, err
}

func (d Driver) tryMount(lower []option, upper, work *os.File) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.ENODEV) {
		return nil, errors.New("this kernel has neither dm-thin nor the overlay file system: load module overlay")
	}
	if err != nil {
		return nil, fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range lower {
		if err := unix.FsconfigSetString(fs, o.key, o.value); err != nil {
			if errors.Is(err, unix.EINVAL) {
				return nil, fslog.Explain(fs, fmt.Errorf("%w: %s", errOption, o.key))
			}
			return nil, fmt.Errorf("overlay option %s=%s: %w", o.key, o.value, fslog.Explain(fs, err))
		}
	}
	// An upper directory may become a layer, which must hold its files' data itself,
	// whatever this kernel's default is.
	rest := []option{{"upperdir", fdPath(upper)}, {"workdir", fdPath(work)}, {"metacopy", "off"}}
	for _, o := range rest {
		if err := unix.FsconfigSetString(fs, o.key, o.value); err != nil {
			if why := unfit(upper); why != "" {
				return nil, errors.New(why)
			}
			return nil, fmt.Errorf("overlay option %s for %s: %w", o.key, upper.Name(), fslog.Explain(fs, err))
		}
	}
	if d.UserXattr {
		if err := unix.FsconfigSetFlag(fs, "userxattr"); err != nil {
			return nil, fmt.Errorf("overlay option userxattr: %w", fslog.Explain(fs, err))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		// Before Linux 6.5 an unknown option shows only here.
		if errors.Is(err, unix.EINVAL) && lower[0].key == "lowerdir+" {
			return nil, fmt.Errorf("%w: lowerdir+", errOption)
		}
		if why := unfit(upper); why != "" {
			return nil, errors.New(why)
		}
		return nil, fmt.Errorf("overlay on %s: %w", filepath.Dir(upper.Name()), fslog.Explain(fs, err))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("fsmount of overlay on %s: %w", filepath.Dir(upper.Name()), err)
	}
	return os.NewFile(uintptr(fd), "overlay on "+filepath.Dir(upper.Name())), nil
}

// unfit says why a directory cannot be an overlay's upper, if that is known.
func unfit(upper *os.File) string {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(upper.Fd()), &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Sprintf("%s is itself on an overlay, which cannot carry another: put --storage on ext4, xfs or tmpfs", filepath.Dir(upper.Name()))
	}
	return ""
}
