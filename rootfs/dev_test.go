package rootfs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDevices(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	unix.Umask(0o077) // the caller's must not show
	c := h.run(h.root(), &Config{SetupDev: true, Mounts: usual(), Devices: []Device{
		{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5, Mode: 0o666},
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Mode: 0o666},
		{Path: "/dev/net/tun", Type: "u", Major: 10, Minor: 200, Mode: 0o660, UID: 7, GID: 8},
		{Path: "/dev/sda", Type: "b", Major: 8, Minor: 300, Mode: 0o600},
		{Path: "/dev/pipe", Type: "p", Mode: 0o622},
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, Mode: 0o600},
		{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Mode: 0o666}, // twice is once
		{Path: "/opt/dev", Type: "c", Major: 1, Minor: 5, Mode: 0o640},
	}}, opts{})
	for path, want := range map[string]unix.Stat_t{
		"/dev/fuse":    {Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(10, 229)},
		"/dev/net/tun": {Mode: unix.S_IFCHR | 0o660, Rdev: unix.Mkdev(10, 200), Uid: 7, Gid: 8},
		"/dev/sda":     {Mode: unix.S_IFBLK | 0o600, Rdev: unix.Mkdev(8, 300)},
		"/dev/pipe":    {Mode: unix.S_IFIFO | 0o622},
		"/dev/null":    {Mode: unix.S_IFCHR | 0o600, Rdev: unix.Mkdev(1, 3)},
		"/dev/zero":    {Mode: unix.S_IFCHR | 0o666, Rdev: unix.Mkdev(1, 5)},
		"/opt/dev":     {Mode: unix.S_IFCHR | 0o640, Rdev: unix.Mkdev(1, 5)},
		"/dev/net":     {Mode: unix.S_IFDIR | 0o755},
		"/dev":         {Mode: unix.S_IFDIR | 0o755},
	} {
		st := c.stat(path)
		if st.Mode != want.Mode || st.Rdev != want.Rdev || st.Uid != want.Uid || st.Gid != want.Gid {
			t.Errorf("%s: mode %o device %x owner %d:%d, want %o %x %d:%d", path, st.Mode, st.Rdev, st.Uid, st.Gid, want.Mode, want.Rdev, want.Uid, want.Gid)
		}
	}

	// A device that is something else already is an error: runtime-spec, "Devices".
	h.refuse(h.root("dev/null=file"), &Config{SetupDev: true, Devices: devices()}, opts{}, "/dev/null: file exists in the image or a mount and is not device c 1:3")
	// Nodes in the image with the right numbers are fine, and so are its links.
	root := h.root("dev/fd->elsewhere", "dev/ptmx=file")
	must(t, unix.Mknod(root+"/dev/null", unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
	c = h.run(root, &Config{SetupDev: true, Devices: devices()}, opts{})
	if got := c.text("readlink", "/dev/ptmx") + c.text("readlink", "/dev/fd"); got != "pts/ptmxelsewhere" {
		t.Errorf("links of an image's /dev: %q", got)
	}
	// A bind of somebody's /dev is left alone.
	dev := filepath.Join(h.work, "dev")
	h.tree(dev, "mine=1")
	c = h.run(h.root(), &Config{Mounts: []Mount{bindMount(dev, "/dev")}}, opts{})
	if got := c.text("ls", "/dev"); got != "mine\n" {
		t.Errorf("/dev of the host has %q", got)
	}
}

// A user namespace cannot mknod, told so or not.
func TestDevicesInUserNamespace(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	for _, told := range []bool{true, false} {
		root := h.root()
		h.own(root, true)
		c := h.run(root, &Config{SetupDev: true, UserNS: true, BindDevices: told, Mounts: usual(), Devices: devices(
			Device{Path: "/dev/pipe", Type: "p", Mode: 0o600},
		)}, opts{userns: true})
		must(t, c.do("write", "/dev/null", "x").err())
		if st := c.stat("/dev/zero"); st.Rdev != unix.Mkdev(1, 5) {
			t.Errorf("/dev/zero is device %x", st.Rdev)
		}
		if st := c.stat("/dev/pipe"); st.Mode != unix.S_IFIFO|0o600 {
			t.Errorf("/dev/pipe has mode %o", st.Mode)
		}
	}
	root := h.root()
	h.own(root, true)
	h.refuse(root, &Config{SetupDev: true, UserNS: true, BindDevices: true, Devices: []Device{
		{Path: "/dev/zero", Type: "c", Major: 1, Minor: 3},
	}}, opts{userns: true}, "the host's node is not device c 1:3")
}

func TestConsole(t *testing.T) {
	h := sandbox(t)
	if h == nil {
		return
	}
	canary, check := h.canary()
	for _, tt := range []struct {
		name   string
		userns bool
		extra  []string
	}{
		{"plain", false, nil}, {"user namespace", true, nil},
		{"console is a file", false, []string{"dev/console=old"}},
		{"console is a link", false, []string{"dev/console->" + canary + "/sentinel"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &host{t, h.work}
			root := h.root(append(tt.extra, "dev/pts/")...)
			h.own(root, tt.userns)
			mounts := usual()
			if tt.userns {
				mounts[2].Options = []string{"newinstance", "ptmxmode=0666", "mode=0620"}
			}
			if tt.extra != nil { // /dev of the image
				mounts = []Mount{mounts[0], mounts[2]}
			}
			before := mountTable(t)
			c := h.start(root, &Config{SetupDev: true, Console: true, UserNS: tt.userns, BindDevices: tt.userns, Mounts: mounts}, opts{userns: tt.userns})
			fds := c.text("fds")
			for _, s := range []string{"attach", "mount", "dev", "pivot", "console", "sysctl", "seal"} {
				if err := c.step(s); err != nil {
					t.Fatalf("%s: %v", s, err)
				}
			}
			if got := c.text("same-tty", "/dev/console"); got != "true" {
				t.Error("/dev/console is not the slave that was allocated")
			}
			if got := c.text("echo", "/dev/console"); got != "hello 24x80" {
				t.Errorf("through the terminal came %q", got)
			}
			if n := strings.Count(c.text("fds"), "\n") - strings.Count(fds, "\n"); n != 2 {
				t.Errorf("%d more descriptors than before, want master and slave", n)
			}
			if now := mountTable(t); now != before {
				t.Errorf("the host's mounts changed:\n%s", now)
			}
			check()
		})
	}
	for _, tt := range []struct {
		name, words string
		cfg         Config
		entries     []string
	}{
		{"no devpts", "/dev/pts is not a devpts, which a terminal needs; see mounts", Config{}, []string{"dev/pts/", "dev/pts/ptmx=fake"}},
		{"nothing", "a terminal needs a devpts there; see mounts", Config{}, nil},
		{"linked pts", "is not a devpts", Config{}, []string{"dev/pts->" + canary + "/pts", strings.TrimPrefix(canary, "/") + "/pts/ptmx=fake"}},
	} {
		c := h.start(h.root(tt.entries...), &tt.cfg, opts{})
		for _, s := range []string{"attach", "mount", "dev", "pivot"} {
			must(t, c.step(s))
		}
		if err := c.step("console"); err == nil || !strings.Contains(err.Error(), tt.words) {
			t.Errorf("%s: got error %v", tt.name, err)
		}
		check()
	}
	// Where the container's devpts is swapped for another: still a pty, still that one's.
	if _, err := os.Lstat("/dev/pts/ptmx"); err == nil {
		c := h.start(h.root(), &Config{SetupDev: true, Console: true, Mounts: usual()}, opts{})
		for _, s := range []string{"attach", "mount", "dev", "pivot"} {
			must(t, c.step(s))
		}
		must(t, c.do("tmpfs", "/dev/pts").err())
		if err := c.step("console"); err == nil || !strings.Contains(err.Error(), "is not a devpts") {
			t.Errorf("covered devpts: got error %v", err)
		}
	}
}
