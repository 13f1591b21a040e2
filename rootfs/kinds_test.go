package rootfs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTmpCopyUp(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	big := strings.Repeat("0123456789abcdef", 100_000)
	root := h.root("data/file=text", "data/big="+big, "data/dir/deep=x", "data/link->/etc/none")
	d := root + "/data"
	must(t, unix.Chmod(d, 0o3751))
	must(t, os.Chown(d, 11, 12))
	must(t, os.Chown(d+"/file", 3, 4))
	must(t, unix.Chmod(d+"/file", 0o4755))
	must(t, os.Lchown(d+"/link", 5, 6))
	must(t, unix.Chmod(d+"/dir", 0o1700))
	must(t, unix.Mkfifo(d+"/fifo", 0o640))
	must(t, unix.Mknod(d+"/node", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 7))))
	must(t, unix.UtimesNano(d+"/file", []unix.Timespec{{Sec: 1}, {Sec: 1000, Nsec: 5}}))
	must(t, unix.Setxattr(d+"/dir/deep", "security.thinrun", []byte("kept"), 0))
	c := h.run(root, &Config{Mounts: []Mount{{Kind: KindFS, Type: "tmpfs", Destination: "/data", TmpCopyUp: true, Attr: ro, File: -1}}}, opts{})
	if _, _, fstype, _ := c.mountLine("/data"); fstype != "tmpfs" {
		t.Errorf("/data is %s", fstype)
	}
	for path, want := range map[string]unix.Stat_t{
		"":          {Mode: unix.S_IFDIR | 0o3751, Uid: 11, Gid: 12},
		"/file":     {Mode: unix.S_IFREG | 0o4755, Uid: 3, Gid: 4, Size: 4},
		"/big":      {Mode: unix.S_IFREG | 0o644, Size: int64(len(big))},
		"/dir":      {Mode: unix.S_IFDIR | 0o1700},
		"/dir/deep": {Mode: unix.S_IFREG | 0o644, Size: 1},
		"/link":     {Mode: unix.S_IFLNK | 0o777, Uid: 5, Gid: 6},
		"/fifo":     {Mode: unix.S_IFIFO | 0o640, Gid: 12},
		"/node":     {Mode: unix.S_IFCHR | 0o600, Gid: 12, Rdev: unix.Mkdev(1, 7)},
	} {
		st := c.stat("/data" + path)
		if st.Mode != want.Mode || st.Uid != want.Uid || st.Gid != want.Gid || want.Size != 0 && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size != want.Size || st.Rdev != want.Rdev {
			t.Errorf("/data%s: mode %o owner %d:%d size %d, want %o %d:%d %d", path, st.Mode, st.Uid, st.Gid, st.Size, want.Mode, want.Uid, want.Gid, want.Size)
		}
	}
	if st := c.stat("/data/file"); st.Mtim.Sec != 1000 || st.Mtim.Nsec != 5 {
		t.Errorf("time of /data/file: %v", st.Mtim)
	}
	if c.text("read", "/data/big") != big || c.text("readlink", "/data/link") != "/etc/none" {
		t.Error("contents differ")
	}
	if got := c.text("xattr", "/data/dir/deep", "security.thinrun"); got != "kept" {
		t.Errorf("extended attribute: %q", got)
	}
	c.wantErr(unix.EROFS, "write", "/data/file", "x")
}

// A tmpfs takes the mode of what it covers, unless told.
func TestTmpfsMode(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	root := h.root("a/", "b/")
	must(t, unix.Chmod(root+"/a", 0o1770))
	c := h.run(root, &Config{Mounts: []Mount{
		fsMount("tmpfs", "/a", 0), fsMount("tmpfs", "/b", 0, "mode=700"), fsMount("tmpfs", "/c", 0),
	}}, opts{})
	for path, want := range map[string]uint32{"/a": 0o1770, "/b": 0o700, "/c": 0o1777} {
		if got := c.stat(path).Mode & 0o7777; got != want {
			t.Errorf("%s has mode %o, want %o", path, got, want)
		}
	}
}

func TestIDMap(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	src := filepath.Join(h.work, "src")
	h.tree(src, "file=text", "sub/")
	must(t, os.Chown(src+"/file", 10, 20))
	must(t, unix.Mount("sub", src+"/sub", "tmpfs", 0, ""))
	maps := func(m *Mount) {
		m.IDMap = &IDMap{
			UIDMappings: []Mapping{{ContainerID: 0, HostID: 1000, Size: 100}},
			GIDMappings: []Mapping{{ContainerID: 0, HostID: 2000, Size: 100}},
		}
	}
	probe, err := OpenSource(src, false, false)
	must(t, err)
	userns, err := UserNamespace([]Mapping{{0, 1000, 100}}, []Mapping{{0, 2000, 100}})
	must(t, err)
	err = (&IDMap{}).Apply(probe, userns)
	probe.Close()
	userns.Close()
	if err != nil {
		// tmpfs can be id-mapped since Linux 6.3.
		if !strings.Contains(err.Error(), "cannot id-map its file system") {
			t.Fatal(err)
		}
		src = h.ext4(t)
		h.tree(src, "file=text", "sub/")
		must(t, os.Chown(src+"/file", 10, 20))
	}
	c := h.run(h.root(), &Config{Mounts: []Mount{
		bindMount(src, "/plain"), bindMount(src, "/mapped", maps), bindMount(src+"/file", "/file", maps),
	}}, opts{})
	for path, want := range map[string][2]uint32{"/plain/file": {10, 20}, "/mapped/file": {1010, 2020}, "/file": {1010, 2020}} {
		if st := c.stat(path); st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s belongs to %d:%d, want %v", path, st.Uid, st.Gid, want)
		}
	}
	stats, err := filepath.Glob("/proc/[0-9]*/status")
	must(t, err)
	for _, name := range stats {
		status, _ := os.ReadFile(name) // it may have ended since
		if strings.HasPrefix(string(status), "Name:\tuserns\n") && strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			t.Errorf("the process that held the user namespace is still there:\n%s", status)
		}
	}
}

// ext4 mounts a new one on a scratch disk of the lab.
func (h *host) ext4(t *testing.T) string {
	t.Helper()
	disks := strings.Fields(strings.ReplaceAll(os.Getenv("LAB_DISKS"), ",", " "))
	if len(disks) == 0 {
		missing(t, "a file system that can be id-mapped")
	}
	if out, err := exec.Command("mkfs.ext4", "-qF", disks[0]).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	dir := filepath.Join(h.work, "ext4")
	must(t, os.Mkdir(dir, 0o755))
	must(t, unix.Mount(disks[0], dir, "ext4", 0, ""))
	return dir
}

// A root that exists only as a descriptor: the way a thin device arrives.
func TestRootIsADetachedFileSystem(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	for _, userns := range []bool{false, true} {
		fd, err := newFS("tmpfs", "thin", []option{"mode=755", fmt.Sprintf("uid=%d", usernsBase)}, 0, 0)
		must(t, err)
		// The bundle is below a directory that the user namespace cannot enter.
		at := filepath.Join(h.work, fmt.Sprint("closed", userns))
		must(t, os.MkdirAll(at+"/rootfs", 0o755))
		must(t, os.Chmod(at, 0o700))
		before := mountTable(t)
		for _, noPivot := range []bool{false, true} {
			if noPivot {
				fd, err = newFS("tmpfs", "thin", []option{"mode=755", fmt.Sprintf("uid=%d", usernsBase)}, 0, 0)
				must(t, err)
			}
			c := h.run("", &Config{AttachAt: at + "/rootfs", SetupDev: true, Devices: devices(), UserNS: userns, BindDevices: userns, NoPivot: noPivot, Mounts: usual()[:2]},
				opts{userns: userns, rootFile: os.NewFile(uintptr(fd), "thin")})
			perMount, optional, fstype, _ := c.mountLine("/")
			if fstype != "tmpfs" || optional != "" {
				t.Errorf("\"/\" is %s %s %s", perMount, optional, fstype)
			}
			must(t, c.do("write", "/dev/null", "x").err())
			c.wantErr(unix.ENOENT, "read", h.work)
			if now := mountTable(t); now != before {
				t.Errorf("the host's mounts changed:\n%s", now)
			}
			c.stop()
		}
	}
}

// The parent of a rootless container may not clone mounts; init does it then, roots and
// binds.
func TestInitOpensSources(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	vol := filepath.Join(h.work, "vol")
	h.tree(vol, "in=volume")
	root := h.root()
	h.own(root, true)
	c := h.start("", &Config{Source: root, AttachAt: root, UserNS: true, BindDevices: true, SetupDev: true, Devices: devices(), Mounts: []Mount{
		bindMount(vol, "/vol", func(m *Mount) { m.File, m.Attr = -1, ro }),
	}}, opts{userns: true})
	must(t, c.setup())
	if got := c.text("read", "/vol/in"); got != "volume" {
		t.Errorf("/vol/in: %q", got)
	}
	root = h.root()
	h.own(root, true)
	must(t, unix.Mount("ro", vol, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID, ""))
	c = h.start("", &Config{Source: root, AttachAt: root, UserNS: true, Mounts: []Mount{
		bindMount(vol, "/vol", func(m *Mount) { m.File, m.AttrClear = -1, ro }),
	}}, opts{userns: true})
	if err := c.setup(); err == nil || !strings.Contains(err.Error(), "of a mount that a user namespace inherited are locked") {
		t.Errorf("clearing a locked flag: %v", err)
	}
	// Setting more flags keeps the locked ones.
	root = h.root()
	h.own(root, true)
	c = h.start("", &Config{Source: root, AttachAt: root, UserNS: true, Mounts: []Mount{
		bindMount(vol, "/vol", func(m *Mount) { m.File, m.Attr = -1, noexec }),
	}}, opts{userns: true})
	must(t, c.setup())
	if got, _, _, _ := c.mountLine("/vol"); got != "ro,nosuid,noexec,relatime" {
		t.Errorf("/vol is %q", got)
	}
}

// A mount on "/" is the root from there on.
func TestMountOnRoot(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	other := h.root("etc/which=other")
	for _, noPivot := range []bool{false, true} {
		c := h.run(h.root("etc/which=first"), &Config{NoPivot: noPivot, SetupDev: true, Devices: devices(), Readonly: true, Mounts: []Mount{
			fsMount("proc", "/proc", 0), bindMount(other, "/", recursive), fsMount("proc", "/proc", 0), fsMount("tmpfs", "/tmp", 0),
		}}, opts{})
		if got := c.text("read", "/etc/which"); got != "other" {
			t.Errorf("root is %q", got)
		}
		c.wantErr(unix.EROFS, "write", "/etc/which", "x")
		if got := strings.Count(c.text("mountinfo"), "\n"); got != 3 {
			t.Errorf("want three mounts, got\n%s", c.text("mountinfo"))
		}
	}
}

func TestCgroup1(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	// A hierarchy without controllers: every kernel with cgroups has it, and making it
	// takes none away from the host. It goes with its last mount.
	const name, options = "rootfs-test", "none,name=rootfs-test"
	on := filepath.Join(h.work, "cgroup")
	must(t, os.Mkdir(on, 0o755))
	if err := unix.Mount("cgroup", on, "cgroup", 0, options); err != nil {
		missing(t, fmt.Sprintf("cgroup v1 and the first cgroup namespace: %v", err))
	}
	c := h.run(h.root(), &Config{Mounts: []Mount{
		fsMount("sysfs", "/sys", ro),
		{Kind: KindCgroup1, Type: "cgroup", Destination: "/sys/fs/cgroup", Attr: nosuid | ro, File: -1, Cgroup1: []Cgroup1{
			{Name: "cpu,cpuacct", Options: options, Links: []string{"cpu", "cpuacct"}, File: -1},
		}},
	}}, opts{})
	if got := c.text("ls", "/sys/fs/cgroup"); got != "cpu\ncpu,cpuacct\ncpuacct\n" {
		t.Errorf("/sys/fs/cgroup has %q", got)
	}
	if !strings.Contains(c.text("ls", "/sys/fs/cgroup/cpu"), "cgroup.procs\n") {
		t.Error("the hierarchy is not there")
	}
	c.wantErr(unix.EROFS, "mkdir", "/sys/fs/cgroup/cpuacct/x")
	c.wantErr(unix.EROFS, "mkdir", "/sys/fs/cgroup/new")

	// Without a cgroup namespace the container's directory is bound.
	f, err := OpenSource(on, false, false)
	must(t, err)
	defer f.Close()
	bound := bindMount(h.work, "/unused")
	bound.Source = on
	c = h.run(h.root(), &Config{Mounts: []Mount{
		bound,
		{Kind: KindCgroup1, Type: "cgroup", Destination: "/cg", File: -1, Cgroup1: []Cgroup1{{Name: name, File: 0}}},
	}}, opts{})
	if !strings.Contains(c.text("ls", "/cg/rootfs-test"), "cgroup.procs\n") {
		t.Error("the bound hierarchy is not there")
	}
}

// The simplest end of it all: a static program of the image runs.
func TestProgramRuns(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		missing(t, "/bin/busybox (package busybox-static)")
	}
	root := h.root("bin/")
	must(t, os.WriteFile(root+"/bin/pwd", busybox, 0o755))
	c := h.run(root, &Config{SetupDev: true, Devices: devices(), Readonly: true, Mounts: usual()}, opts{})
	if got := c.text("exec", "/bin/pwd", "-P"); !bytes.Equal([]byte(got), []byte("/\n")) {
		t.Errorf("pwd says %q", got)
	}
}

// File systems that exist once, or once in a namespace: a container's mount may not
// change the host's.
func TestSharedSuperblocks(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	super := func(fstype string) string {
		for _, line := range strings.Split(mountTable(t), "\n") {
			if _, b, _ := strings.Cut(line, " - "); strings.HasPrefix(b, fstype+" ") {
				return strings.Fields(b)[2]
			}
		}
		return ""
	}
	// The same options again, or this very mount would take them from the host.
	_, options, _ := strings.Cut(super("cgroup2"), ",")
	must(t, unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, options))
	sysfs, cgroup2 := super("sysfs"), super("cgroup2")
	for _, tt := range []struct {
		name string
		m    Mount
	}{
		{"as configured", Mount{Source: "cgroup"}},
		{"bound by init", Mount{Source: "/sys/fs/cgroup", Recursive: true}},
	} {
		tt.m.Kind, tt.m.Type, tt.m.File, tt.m.Destination, tt.m.Attr = KindCgroup2, "cgroup2", -1, "/sys/fs/cgroup", ro|nosuid
		c := h.run(h.root(), &Config{Mounts: []Mount{
			{Kind: KindFS, Type: "sysfs", Destination: "/sys", Attr: ro, SuperFlags: unix.MS_RDONLY, File: -1}, tt.m,
		}}, opts{noNetNS: true, noCgroupNS: true})
		if !strings.Contains(c.text("ls", "/sys/fs/cgroup"), "cgroup.controllers\n") {
			t.Errorf("%s: no cgroup2 on /sys/fs/cgroup", tt.name)
		}
		if got, _, fstype, _ := c.mountLine("/sys/fs/cgroup"); got != "ro,nosuid,relatime" || fstype != "cgroup2" {
			t.Errorf("%s: /sys/fs/cgroup is %q, %s", tt.name, got, fstype)
		}
		c.wantErr(unix.EROFS, "mkdir", "/sys/fs/cgroup/x")
		if s, c := super("sysfs"), super("cgroup2"); s != sysfs || c != cgroup2 {
			t.Errorf("%s: the host's super blocks are %q and %q, were %q and %q", tt.name, s, c, sysfs, cgroup2)
		}
	}
}
