package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An image whose directories are symlinks to places outside it. Whatever thinrun makes or
// mounts must be inside the root, or refused; the canary outside never changes.
func TestImageOfSymlinks(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	canary, check := h.canary()
	up := strings.Repeat("../", 12) + strings.TrimPrefix(canary, "/")
	vol := filepath.Join(h.work, "vol")
	h.tree(vol, "in=volume")
	for _, link := range []struct{ name, text string }{
		{"absolute", canary}, {"relative", up}, {"dotdot", "sub/../" + up},
		{"through a link", "hop"}, {"root", "/"}, {"up", ".."}, {"self", "evil"}, {"file", "plain"}, {"fifo", "fifo"},
		{"magic", "/proc/self/cwd"}, {"magic root", "/proc/1/root"}, {"dangling", "/not/there"},
	} {
		for _, userns := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,userns=%v", link.name, userns), func(t *testing.T) {
				h := &host{t, h.work}
				try := func(what string, cfg *Config, entries ...string) {
					t.Helper()
					root := h.root(append(entries, "hop->"+canary, "plain=text")...)
					must(t, unix.Mkfifo(root+"/fifo", 0o666))
					h.own(root, userns)
					before := mountTable(t)
					cfg.UserNS, cfg.BindDevices = userns, userns
					c := h.start(root, cfg, opts{userns: userns})
					err := c.setup()
					if err == nil {
						for _, line := range strings.Split(strings.TrimSpace(c.text("mountinfo")), "\n") {
							if strings.Contains(strings.Fields(line)[3], filepath.Base(canary)) {
								t.Errorf("%s: a mount shows the canary: %s", what, line)
							}
						}
					}
					if now := mountTable(t); now != before {
						t.Errorf("%s: the host's mounts changed:\n%s", what, now)
					}
					c.stop()
					if err != nil {
						t.Logf("%s: refused: %v", what, err)
						if strings.Contains(err.Error(), "BUG") {
							t.Error(err)
						}
					}
				}
				evil := "evil->" + link.text
				proc := fsMount("proc", "/proc", 0)
				dev := Config{SetupDev: true, Devices: devices()}
				try("/dev", &dev, "dev->"+link.text)
				try("/dev with a console", &Config{SetupDev: true, Devices: devices(), Console: true, Mounts: []Mount{proc}}, "dev->"+link.text)
				try("nodes", &Config{SetupDev: true, Devices: []Device{{Path: "/evil/sub/null", Type: "c", Major: 1, Minor: 3, Mode: 0o666}}}, evil)
				try("tmpfs", &Config{Mounts: []Mount{proc, fsMount("tmpfs", "/evil/sub", 0), fsMount("tmpfs", "/evil/new/deep", 0)}}, evil)
				try("tmpcopyup", &Config{Mounts: []Mount{{Kind: KindFS, Type: "tmpfs", Destination: "/evil", TmpCopyUp: true, File: -1}}}, evil)
				try("bind", &Config{Mounts: []Mount{proc, bindMount(vol, "/evil/sub"), bindMount(vol, "/evil/new")}}, evil)
				try("file bind", &Config{Mounts: []Mount{proc, bindMount(vol+"/in", "/evil/sentinel"), bindMount(vol+"/in", "/evil/new")}}, evil)
				try("on the link", &Config{Mounts: []Mount{proc, bindMount(vol, "/evil"), bindMount(vol+"/in", "/evil")}}, evil)
				try("masks", &Config{Mounts: []Mount{proc}, MaskedPaths: []string{"/evil", "/evil/sentinel", "/evil/sub"}, ReadonlyPaths: []string{"/evil", "/evil/sub"}}, evil)
				try("proc", &Config{Mounts: []Mount{proc}}, "proc->"+link.text)
				try("sys", &Config{Mounts: []Mount{fsMount("sysfs", "/sys", 0)}}, "sys->"+link.text)
				check()
			})
		}
	}
}

// What a symlink inside the root leads to is where the mount, mask or node goes.
func TestSymlinksStayInside(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	vol := filepath.Join(h.work, "vol")
	h.tree(vol, "in=volume")
	must(t, os.Symlink("target", vol+"/link"))
	nofollow := func(m *Mount) { m.DestNoFollow = true }
	copied := func(m *Mount) { m.SrcNoFollow, m.CopySymlink = true, true }
	c := h.run(h.root("real/", "link->/real", "rel/link->../real/new", "etc/resolv.conf->../run/stub/resolv.conf",
		"secret=text", "hidden->secret", "real/file=old", "on->secret", "old->target"), &Config{
		Mounts: []Mount{
			fsMount("proc", "/proc", 0),
			fsMount("tmpfs", "/link/sub", 0),
			bindMount(vol, "/rel/link/deep"),
			bindMount(vol+"/in", "/etc/resolv.conf"),
			bindMount(vol+"/in", "/on", nofollow),
			bindMount(vol+"/link", "/copy/of/link", copied),
			bindMount(vol+"/link", "/old", copied),
			bindMount(vol+"/in", "/cp-file", copied),
			fsMount("tmpfs", "/../../up", 0),
		},
		MaskedPaths:   []string{"/hidden"},
		ReadonlyPaths: []string{"/link"},
	}, opts{})
	for _, point := range []string{"/real/sub", "/real/new/deep", "/run/stub/resolv.conf", "/on", "/up", "/secret", "/cp-file"} {
		c.mountLine(point)
	}
	for path, want := range map[string]string{"/etc/resolv.conf": "volume", "/on": "volume", "/secret": "", "/cp-file": "volume"} {
		if got := c.text("read", path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	for _, link := range []string{"/copy/of/link", "/old"} {
		if got := c.text("readlink", link); got != "target" {
			t.Errorf("%s -> %q", link, got)
		}
	}
	c.wantErr(unix.EROFS, "write", "/real/file", "x")
}

// Another container shares a volume and swaps a directory of it for a symlink while we
// resolve. Blind, many times: the bind is inside or refused.
func TestSwappedWhileMounting(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	canary, check := h.canary()
	root := h.root("vol/")
	vol := filepath.Join(h.work, "vol")
	h.tree(vol, "a/", "b->../../"+filepath.Base(canary))
	must(t, unix.Mount(vol, root+"/vol", "", unix.MS_BIND, ""))
	done := make(chan struct{})
	swaps := 0
	go func() {
		defer close(done)
		for {
			if _, err := os.Lstat(vol + "/stop"); err == nil {
				return
			}
			unix.Renameat2(unix.AT_FDCWD, vol+"/a", unix.AT_FDCWD, vol+"/b", unix.RENAME_EXCHANGE)
			swaps++
		}
	}()
	// One process is enough: the walk is what races, and it is the same before a mount.
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	r := &Root{cfg: &Config{}, fd: fd, proc: -1, dev: -1, null: -1}
	defer r.Close()
	inside, linked, refused := 0, 0, 0
	for i := range 4000 {
		var fd int
		var err error
		path := fmt.Sprintf("/vol/a/x%d/y/../z", i)
		switch i % 3 {
		case 0:
			fd, _, err = r.makeDir(path)
		case 1:
			fd, err = r.makeFile(path)
		case 2:
			fd, err = r.makeNoFollow(path, unix.S_IFDIR)
		}
		if err != nil {
			refused++
			continue
		}
		where, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		must(t, err)
		switch {
		case strings.HasPrefix(where, root+"/"+filepath.Base(canary)):
			linked++
		case strings.HasPrefix(where, root+"/vol/"):
			inside++
		default:
			t.Fatalf("round %d: outside: %s", i, where)
		}
		unix.Close(fd)
	}
	must(t, os.WriteFile(vol+"/stop", nil, 0o600))
	<-done
	check()
	t.Logf("%d swaps, %d in the volume, %d where the link leads, %d refused", swaps, inside, linked, refused)
	if swaps == 0 || inside == 0 || linked == 0 {
		t.Errorf("nothing raced: %d swaps, %d in the volume, %d where the link leads", swaps, inside, linked)
	}
}

// Masks come from a null device of ours, whatever /dev/null is.
func TestMaskIgnoresTheImagesNull(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	dev := filepath.Join(h.work, "owndev")
	h.tree(dev, "null->/etc/target")
	c := h.run(h.root("etc/target=stolen", "etc/secret=secret"), &Config{
		Mounts:      []Mount{bindMount(dev, "/dev")},
		MaskedPaths: []string{"/etc/secret", "/etc/secret2"},
	}, opts{})
	if got := c.text("read", "/etc/secret"); got != "" {
		t.Errorf("masked file says %q", got)
	}
	must(t, c.do("write", "/etc/secret", "x").err())
	if got := c.text("read", "/etc/target"); got != "stolen" {
		t.Errorf("the link's target says %q", got)
	}
	if st := c.stat("/etc/secret"); st.Rdev != unix.Mkdev(1, 3) {
		t.Errorf("mask is device %x", st.Rdev)
	}
}

// An attacker with a mount over a part of /proc/sys turns the write of a sysctl into
// nothing, or into an error; never into another file.
func TestSysctlIgnoresOvermounts(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	core, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	must(t, err)
	const key, file = "net.ipv4.ip_unprivileged_port_start", "/proc/sys/net/ipv4/ip_unprivileged_port_start"
	cfg := func() *Config {
		return &Config{Mounts: []Mount{fsMount("proc", "/proc", 0)}, Sysctl: []KeyValue{{key, "77"}}}
	}
	for _, step := range []struct{ name, op, from, to string }{
		{"bind over the file", "bind", "/proc/sys/kernel/core_pattern", file},
		{"bind over the directory", "bind", "/proc/sys/kernel", "/proc/sys/net/ipv4"},
		{"tmpfs over sys", "tmpfs", "/proc/sys", ""},
	} {
		c := h.start(h.root(), cfg(), opts{})
		for _, s := range []string{"attach", "mount", "dev", "pivot"} {
			must(t, c.step(s))
		}
		must(t, c.do(step.op, step.from, step.to).err())
		if err := c.step("sysctl"); err == nil || !strings.Contains(err.Error(), "something is mounted over a part of /proc/sys") {
			t.Errorf("%s: got error %v", step.name, err)
		}
	}
	// The container's whole /proc replaced: ours is a descriptor and still the right one.
	c := h.start(h.root(), cfg(), opts{})
	for _, s := range []string{"attach", "mount", "dev", "pivot"} {
		must(t, c.step(s))
	}
	must(t, c.do("tmpfs", "/proc").err())
	must(t, c.step("sysctl"))
	must(t, c.do("umount", "/proc").err())
	if got := c.text("read", file); got != "77\n" {
		t.Errorf("%s: %q", file, got)
	}
	now, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	must(t, err)
	if string(now) != string(core) {
		t.Errorf("core_pattern is %q, was %q", now, core)
	}
}

func TestSysctlForms(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	for _, tt := range []struct {
		name   string
		mounts []Mount
		userns bool
	}{
		{"no proc", nil, false},
		{"no proc in a user namespace", nil, true},
		{"read-only proc", []Mount{fsMount("proc", "/proc", ro)}, false},
		{"proc without sys", []Mount{fsMount("proc", "/proc", 0, "subset=pid")}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{t, h.work}
			root := h.root()
			h.own(root, tt.userns)
			c := h.run(root, &Config{UserNS: tt.userns, Mounts: tt.mounts, Sysctl: []KeyValue{{"net/ipv4/ip_unprivileged_port_start", "78"}}}, opts{userns: tt.userns})
			if got := c.text("sysctl", "net/ipv4/ip_unprivileged_port_start"); got != "78\n" {
				t.Errorf("sysctl is %q", got)
			}
		})
	}
	for _, tt := range []struct{ key, value, words string }{
		{"net.ipv4.nothing", "1", "has no /proc/sys/net/ipv4/nothing"},
		{"net.ipv4.ip_unprivileged_port_start", "seven", "invalid argument"},
		{"net.ipv4.ip_unprivileged_port_start", "1\n2", "newline"},
		{"net/../../../etc/x", "1", "not the name of a sysctl"},
		{"net..ipv4", "1", "not the name of a sysctl"},
		{"", "1", "not the name of a sysctl"},
		{"kernel", "1", "is a directory"},
	} {
		h.refuse(h.root(), &Config{Mounts: []Mount{fsMount("proc", "/proc", 0)}, Sysctl: []KeyValue{{tt.key, tt.value}}}, opts{}, tt.words)
	}
	for key, want := range map[string]string{
		"net.ipv4.conf.eth0/100.forwarding": "sys/net/ipv4/conf/eth0.100/forwarding",
		"net/ipv4/conf/eth0.100/forwarding": "sys/net/ipv4/conf/eth0.100/forwarding",
		"kernel.domainname":                 "sys/kernel/domainname",
	} {
		if got, err := sysctlPath(key); err != nil || got != want {
			t.Errorf("%s: %q, %v", key, got, err)
		}
	}
}
