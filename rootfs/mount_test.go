package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	ro, nosuid, nodev, noexec = unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOSUID, unix.MOUNT_ATTR_NODEV, unix.MOUNT_ATTR_NOEXEC
)

func fsMount(fstype, at string, attr uint64, options ...string) Mount {
	return Mount{Kind: KindFS, Type: fstype, Source: fstype, Destination: at, Attr: attr, Options: options, File: -1}
}

// bindMount's File of 0 is what start replaces.
func bindMount(source, at string, change ...func(*Mount)) Mount {
	m := Mount{Kind: KindBind, Source: source, Destination: at}
	for _, f := range change {
		f(&m)
	}
	return m
}

func recursive(m *Mount) { m.Recursive = true }

// usual are the mounts of runc's default config.
func usual() []Mount {
	return []Mount{
		fsMount("proc", "/proc", 0),
		fsMount("tmpfs", "/dev", nosuid, "mode=755", "size=65536k"),
		fsMount("devpts", "/dev/pts", nosuid|noexec, "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
		fsMount("tmpfs", "/dev/shm", nosuid|noexec|nodev, "mode=1777", "size=65536k"),
		fsMount("mqueue", "/dev/mqueue", nosuid|noexec|nodev),
		fsMount("sysfs", "/sys", nosuid|noexec|nodev|ro),
		{Kind: KindCgroup2, Type: "cgroup2", Source: "cgroup", Destination: "/sys/fs/cgroup", Attr: nosuid | noexec | nodev | ro, File: -1},
	}
}

// devices are the ones every container has; runtime-spec, "Default Devices".
func devices(more ...Device) []Device {
	return append([]Device{
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, Mode: 0o666},
		{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, Mode: 0o666},
		{Path: "/dev/full", Type: "c", Major: 1, Minor: 7, Mode: 0o666},
		{Path: "/dev/random", Type: "c", Major: 1, Minor: 8, Mode: 0o666},
		{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9, Mode: 0o666},
		{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0, Mode: 0o666},
	}, more...)
}

func TestRoot(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	for _, userns := range []bool{false, true} {
		for _, noPivot := range []bool{false, true} {
			t.Run(fmt.Sprintf("userns=%v,noPivot=%v", userns, noPivot), func(t *testing.T) {
				h := &host{t, h.work}
				root := h.root("etc/hostname=here")
				h.own(root, userns)
				host := mountTable(t)
				cfg := &Config{
					SetupDev: true, Devices: devices(), BindDevices: userns, UserNS: userns, NoPivot: noPivot, Readonly: true,
					Mounts:        usual(),
					MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi", "/proc/scsi", "/sys/firmware", "/nonexistent"},
					ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
					Sysctl:        []KeyValue{{"net.ipv4.ip_unprivileged_port_start", "81"}, {"kernel/shm_rmid_forced", "1"}},
				}
				c := h.start(root, cfg, opts{userns: userns})
				fds := c.text("fds")
				must(t, c.setup())
				if now := mountTable(t); now != host {
					t.Errorf("mounts leaked to the host:\n%s\nbefore:\n%s", now, host)
				}
				if now := c.text("fds"); now != fds {
					t.Errorf("descriptors leaked:\n%s\nbefore:\n%s", now, fds)
				}
				if got := c.text("read", "/etc/hostname"); got != "here" {
					t.Errorf("/etc/hostname: %q", got)
				}
				c.wantErr(unix.EROFS, "write", "/etc/hostname", "x")
				c.wantErr(unix.ENOENT, "read", h.work)
				if !noPivot && strings.Contains(c.text("mountinfo"), h.work+" ") {
					t.Errorf("the host's tree is in the mount table:\n%s", c.text("mountinfo"))
				}
				for path, want := range map[string]uint64{
					"/dev/null": unix.Mkdev(1, 3), "/dev/zero": unix.Mkdev(1, 5), "/dev/full": unix.Mkdev(1, 7),
					"/dev/random": unix.Mkdev(1, 8), "/dev/urandom": unix.Mkdev(1, 9), "/dev/tty": unix.Mkdev(5, 0),
				} {
					if st := c.stat(path); st.Mode != unix.S_IFCHR|0o666 || st.Rdev != want {
						t.Errorf("%s: mode %o, device %x", path, st.Mode, st.Rdev)
					}
				}
				must(t, c.do("write", "/dev/null", "x").err())
				for link, want := range map[string]string{
					"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
					"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
				} {
					if got := c.text("readlink", "/dev/"+link); got != want {
						t.Errorf("/dev/%s -> %q, want %q", link, got, want)
					}
				}
				if st := c.stat("/dev/shm"); st.Mode&0o7777 != 0o1777 {
					t.Errorf("/dev/shm has mode %o", st.Mode)
				}
				// Masked, read-only, and not to be undone by opening or changing modes.
				if got := c.text("read", "/proc/keys") + c.text("read", "/proc/timer_list"); got != "" {
					t.Errorf("masked files say %q", got)
				}
				if st := c.stat("/proc/keys"); st.Rdev != unix.Mkdev(1, 3) {
					t.Errorf("/proc/keys is device %x", st.Rdev)
				}
				c.wantErr(unix.EROFS, "chmod", "/proc/keys")
				if _, err := os.Stat("/sys/firmware"); err == nil {
					if got := c.text("ls", "/sys/firmware"); got != "" {
						t.Errorf("masked directory shows %q", got)
					}
					c.wantErr(unix.EROFS, "mkdir", "/sys/firmware/x")
				}
				c.wantErr(unix.EROFS, "write", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "82")
				c.wantErr(unix.EROFS, "mkdir", "/sys/fs/cgroup/x")
				if got := c.text("read", "/proc/sys/net/ipv4/ip_unprivileged_port_start"); got != "81\n" {
					t.Errorf("sysctl: %q", got)
				}
				if got := c.text("read", "/proc/sys/kernel/shm_rmid_forced"); got != "1\n" {
					t.Errorf("sysctl: %q", got)
				}
				if !noPivot {
					must(t, c.do("umount", "/dev/shm").err())
					c.wantErr(unix.ENOENT, "escape", h.work)
				}
			})
		}
	}
}

// Images come without /etc/hosts, with an empty one, with one of their own, or with
// something else of that name; the link leads to the container's file.
func TestLocalhost(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	const ours = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, x := range []struct {
		file, read, want string
	}{
		{"etc/hostname=here", "/etc/hosts", ours},
		{"etc/hosts=", "/etc/hosts", ours},
		{"etc/hosts=10.0.0.1 db", "/etc/hosts", "10.0.0.1 db"},
		{"etc/hosts->/h/hosts", "/h/hosts", ours},
		{"etc/hosts/x=", "/etc/hosts/x", ""},
	} {
		for _, userns := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,userns=%v", x.file, userns), func(t *testing.T) {
				h := &host{t, h.work}
				root := h.root(x.file)
				h.own(root, userns)
				c := h.start(root, &Config{SetupDev: true, UserNS: userns, BindDevices: userns, Readonly: true, Localhost: true, Mounts: usual()}, opts{userns: userns})
				must(t, c.setup())
				if got := c.text("read", x.read); got != x.want {
					t.Errorf("%s: %q, want %q", x.read, got, x.want)
				}
			})
		}
	}
}

func TestMountFlags(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	src := filepath.Join(h.work, "src")
	h.tree(src, "file=text", "sub/")
	must(t, unix.Mount("sub", filepath.Join(src, "sub"), "tmpfs", 0, ""))
	must(t, unix.Mount("locked", h.root(), "tmpfs", 0, ""))
	const atime = unix.MOUNT_ATTR__ATIME
	for _, tt := range []struct {
		name     string
		m        Mount
		top, sub string // per-mount options of /dst and /dst/sub
	}{
		{"bind", bindMount(src, "/dst"), "rw,relatime", ""},
		{"rbind", bindMount(src, "/dst", recursive), "rw,relatime", "rw,relatime"},
		{"ro", bindMount(src, "/dst", recursive, func(m *Mount) { m.Attr = ro }), "ro,relatime", "rw,relatime"},
		{"rro", bindMount(src, "/dst", recursive, func(m *Mount) { m.RecAttr = ro }), "ro,relatime", "ro,relatime"},
		{"rro,rw", bindMount(src, "/dst", recursive, func(m *Mount) { m.AttrClear, m.RecAttr = ro, ro }), "ro,relatime", "ro,relatime"},
		{"all", bindMount(src, "/dst", func(m *Mount) { m.Attr = ro | nosuid | nodev | noexec | unix.MOUNT_ATTR_NODIRATIME }), "ro,nosuid,nodev,noexec,nodiratime,relatime", ""},
		{"recursive all", bindMount(src, "/dst", recursive, func(m *Mount) {
			m.RecAttr = nosuid | nodev | noexec | unix.MOUNT_ATTR_NOATIME
		}), "rw,nosuid,nodev,noexec,noatime", "rw,nosuid,nodev,noexec,noatime"},
		{"noatime", bindMount(src, "/dst", func(m *Mount) { m.Attr = unix.MOUNT_ATTR_NOATIME }), "rw,noatime", ""},
		{"strictatime", bindMount(src, "/dst", func(m *Mount) { m.Attr = unix.MOUNT_ATTR_STRICTATIME }), "rw", ""},
		{"noatime then rstrictatime", bindMount(src, "/dst", func(m *Mount) {
			m.Attr, m.RecAttr = unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR_STRICTATIME
		}), "rw", ""},
		{"relatime", bindMount(src, "/dst", func(m *Mount) { m.AttrClear = atime }), "rw,relatime", ""},
		{"nosymfollow", bindMount(src, "/dst", func(m *Mount) { m.Attr = unix.MOUNT_ATTR_NOSYMFOLLOW }), "rw,relatime,nosymfollow", ""},
		{"file", bindMount(src+"/file", "/dst", func(m *Mount) { m.Attr = ro }), "ro,relatime", ""},
		{"tmpfs", fsMount("tmpfs", "/dst", nosuid|noexec), "rw,nosuid,noexec,relatime", ""},
		{"tmpfs ro", fsMount("tmpfs", "/dst", ro|nodev), "ro,nodev,relatime", ""},
		{"tmpfs rro", Mount{Kind: KindFS, Type: "tmpfs", Destination: "/dst", RecAttr: ro, File: -1}, "ro,relatime", ""},
		{"tmpfs superblock ro", Mount{Kind: KindFS, Type: "tmpfs", Destination: "/dst", SuperFlags: unix.MS_RDONLY, File: -1}, "ro,relatime", ""},
	} {
		for _, userns := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,userns=%v", tt.name, userns), func(t *testing.T) {
				h := &host{t, h.work}
				root := h.root()
				h.own(root, userns)
				c := h.run(root, &Config{Mounts: []Mount{tt.m}, UserNS: userns}, opts{userns: userns})
				if got, _, _, _ := c.mountLine("/dst"); got != tt.top {
					t.Errorf("/dst is %q, want %q", got, tt.top)
				}
				if tt.sub != "" {
					if got, _, _, _ := c.mountLine("/dst/sub"); got != tt.sub {
						t.Errorf("/dst/sub is %q, want %q", got, tt.sub)
					}
				} else if strings.Contains(c.text("mountinfo"), " /dst/sub ") {
					t.Error("bind took the mounts below along")
				}
			})
		}
	}
	t.Run("superblock", func(t *testing.T) {
		h := &host{t, h.work}
		c := h.run(h.root(), &Config{Mounts: []Mount{
			{Kind: KindFS, Type: "tmpfs", Destination: "/dst", File: -1, Options: []string{"size=4k", "mode=700"},
				SuperFlags: unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_LAZYTIME},
			{Kind: KindRemount, Destination: "/dst", Attr: noexec, Options: []string{"size=8k"}},
		}}, opts{})
		got, _, _, super := c.mountLine("/dst")
		if got != "rw,noexec,relatime" || !strings.HasPrefix(super, "rw,sync,dirsync,lazytime,size=8k,mode=700") {
			t.Errorf("/dst is %q, super block %q", got, super)
		}
	})
}

func TestPropagation(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	for _, tt := range []struct {
		name          string
		root          uint64
		words         []uint64
		userns        bool
		toHost, toCtr bool
		optional      string // prefix of mountinfo's field of /vol
	}{
		{"nothing said", 0, nil, false, false, true, "master:"},
		{"rprivate", 0, []uint64{unix.MS_PRIVATE | unix.MS_REC}, false, false, false, ""},
		{"private", 0, []uint64{unix.MS_PRIVATE}, false, false, false, ""},
		{"rslave", 0, []uint64{unix.MS_SLAVE | unix.MS_REC}, false, false, true, "master:"},
		{"rshared, root not", 0, []uint64{unix.MS_SHARED | unix.MS_REC}, false, false, true, "shared:"},
		{"rshared", unix.MS_SHARED | unix.MS_REC, []uint64{unix.MS_SHARED | unix.MS_REC}, false, true, true, "shared:"},
		{"rshared in a user namespace", unix.MS_SHARED | unix.MS_REC, []uint64{unix.MS_SHARED | unix.MS_REC}, true, false, true, "shared:"},
		{"root private", unix.MS_PRIVATE | unix.MS_REC, nil, false, false, false, ""},
		{"root private, rslave", unix.MS_PRIVATE | unix.MS_REC, []uint64{unix.MS_SLAVE | unix.MS_REC}, false, false, true, "master:"},
		{"runbindable", 0, []uint64{unix.MS_UNBINDABLE | unix.MS_REC}, false, false, false, "unbindable"},
		{"slave and shared", 0, []uint64{unix.MS_SLAVE, unix.MS_SHARED}, false, false, true, "shared:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{t, h.work}
			vol, err := os.MkdirTemp(h.work, "vol")
			must(t, err)
			must(t, os.Chmod(vol, 0o777))
			h.tree(vol, "h/", "c/", "s/")
			must(t, os.Chmod(vol+"/c", 0o777))
			root := h.root()
			h.own(root, tt.userns)
			c := h.run(root, &Config{Propagation: tt.root, UserNS: tt.userns, Mounts: []Mount{
				bindMount(vol, "/vol", recursive, func(m *Mount) { m.Propagation = tt.words }),
			}}, opts{userns: tt.userns})
			if _, got, _, _ := c.mountLine("/vol"); !strings.HasPrefix(got, tt.optional) || tt.optional == "" && got != "" {
				t.Errorf("/vol is %q, want %q", got, tt.optional)
			}
			must(t, unix.Mount("t", vol+"/h", "tmpfs", 0, ""))
			if got := strings.Contains(c.text("mountinfo"), " /vol/h "); got != tt.toCtr {
				t.Errorf("a mount of the host arrives: %v, want %v", got, tt.toCtr)
			}
			must(t, unix.Unmount(vol+"/h", 0))
			must(t, c.do("tmpfs", "/vol/c").err())
			if got := strings.Contains(mountTable(t), vol+"/c "); got != tt.toHost {
				t.Errorf("a mount of the container arrives on the host: %v, want %v", got, tt.toHost)
			}
			unix.Unmount(vol+"/c", 0)
			// The root itself never reaches the host.
			must(t, c.do("tmpfs", "/tmp").err())
			if strings.Contains(mountTable(t), root+"/tmp ") {
				t.Error("a mount on the container's root arrives on the host")
			}
		})
	}
	for _, tt := range []struct {
		kind uint64
		want string
	}{{unix.MS_SHARED, "shared:"}, {unix.MS_SLAVE, "master:"}, {unix.MS_PRIVATE, ""}, {unix.MS_UNBINDABLE, "unbindable"}} {
		h := &host{t, h.work}
		c := h.run(h.root(), &Config{Propagation: tt.kind | unix.MS_REC, Mounts: []Mount{fsMount("proc", "/proc", 0)},
			MaskedPaths: []string{"/proc/keys", "/proc/timer_list"}, ReadonlyPaths: []string{"/etc", "/proc/sys"}}, opts{})
		if _, got, _, _ := c.mountLine("/"); !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("rootfsPropagation %x: \"/\" is %q, want %q", tt.kind, got, tt.want)
		}
	}
}

func TestMountErrors(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	src := filepath.Join(h.work, "src")
	h.tree(src, "file=text", "dir/")
	for _, tt := range []struct {
		name  string
		o     opts
		m     Mount
		words string
	}{
		{"file system", opts{}, fsMount("nofs", "/x", 0), `"nofs" on "/x": no such device (this kernel knows no file system`},
		{"option", opts{}, fsMount("tmpfs", "/x", 0, "colour=red"), "tmpfs: Unknown parameter 'colour'"},
		{"option value", opts{}, fsMount("tmpfs", "/x", 0, "size=big"), "tmpfs: Bad value for 'size'"},
		{"long option", opts{}, fsMount("tmpfs", "/x", 0, "mpol="+strings.Repeat("x", 300)), "fsconfig takes 255"},
		{"file on directory", opts{}, bindMount(src+"/file", "/tmp"), "must both be directories, or neither"},
		{"directory on file", opts{}, bindMount(src+"/dir", "/f"), "the source is a directory, the destination is not"},
		{"below a file", opts{}, fsMount("tmpfs", "/f/x", 0), "not a directory"},
		{"loop", opts{}, fsMount("tmpfs", "/loop/x", 0), "a loop, or"},
		{"remount of nothing", opts{}, Mount{Kind: KindRemount, Destination: "/tmp", Attr: ro}, "nothing is mounted there"},
		{"foreign pid namespace", opts{userns: true, noPIDNS: true}, fsMount("proc", "/proc", 0), "a new proc needs its own pid namespace; see linux.namespaces"},
		{"foreign net namespace", opts{userns: true, noNetNS: true}, fsMount("sysfs", "/sys", 0), "a new sysfs needs its own network namespace"},
		{"not for user namespaces", opts{userns: true}, fsMount("ext4", "/x", 0), "ext4"},
		{"volume over proc", opts{}, bindMount(src+"/dir", "/proc"), "only a procfs may be mounted on /proc"},
		{"tmpfs over proc", opts{}, fsMount("tmpfs", "/proc/", 0), "only a procfs may be mounted on /proc"},
		{"inside proc", opts{}, bindMount(src+"/dir", "/proc/self"), "inside /proc"},
		{"inside proc, spelled", opts{}, bindMount(src+"/dir", "/proc/../proc/self/attr"), "inside /proc"},
		{"inside proc, linked", opts{}, bindMount(src+"/dir", "/toproc/sys/kernel"), "inside /proc"},
		{"proc, linked", opts{}, fsMount("tmpfs", "/toproc", 0), "inside /proc"},
		{"emulated file on no procfs", opts{}, Mount{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{t, h.work}
			root := h.root("f=file", "loop->loop", "toproc->/proc", "proc/uptime=fake")
			h.own(root, tt.o.userns)
			cfg := &Config{Mounts: []Mount{tt.m}, UserNS: tt.o.userns}
			switch {
			case strings.Contains(tt.name, "inside proc"), tt.name == "proc, linked":
				cfg.Mounts = []Mount{fsMount("proc", "/proc", 0), tt.m}
			case tt.m.Kind == "":
				cfg.Mounts = []Mount{bindMount(src+"/file", "/proc/uptime")}
				tt.words = "not on a procfs"
			}
			h.refuse(root, cfg, tt.o, tt.words)
		})
	}
	if _, err := OpenSource(src+"/none", true, false); err == nil || err.Error() != fmt.Sprintf("source %q: no such file or directory", src+"/none") {
		t.Errorf("missing source: %v", err)
	}
}
