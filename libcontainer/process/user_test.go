package process

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUserOfTheContainer: Docker's rules for USER[:GROUP], by files that may say anything.
func TestUserOfTheContainer(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	passwd := file("passwd", "root:x:0:0:root:/root:/bin/sh\n"+
		"evil:x:-1:0::/:/bin/sh\nevil2:x::0::/:\nevil3:x:4294967295:0::/:\nevil4:x:4294967296:0::/:\nshort:x:5\n"+
		"1000:x:7:7::/seven:\n"+
		"web:x:33:34:web server:/srv/web:/bin/false\r\n"+
		"web:x:0:0:second:/:/bin/sh\n"+
		"homeless:x:50:51::relative:\n")
	group := file("group", "root:x:0:root\nbad:x:none:web\nbin:x:1:root,web\nwww:x:34:\nadm:x:4:web\nweb2:x:5:website\nadm:x:4:web\n1000:x:8:\n")
	huge := file("huge", strings.Repeat("x:x:1:1::/:\n", passwdLimit/12)+"web:x:33:3")
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	magic := filepath.Join(dir, "magic")
	f, err := os.Open(passwd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Symlink("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), magic); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "none")
	// A file of the kernel's can say anything; /proc/kmsg also waits, and takes what it says away.
	const kernels = "/proc/self/comm"
	was, err := os.ReadFile(kernels)
	if err != nil {
		t.Fatal(err)
	}
	defer os.WriteFile(kernels, was, 0)
	if err := os.WriteFile(kernels, []byte("web:x:1:1::/:"), 0); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name, user    string
		passwd, group string
		uid, gid      uint32
		groups        []uint32
		home, err     string
	}{
		{"a name", "web", passwd, group, 33, 34, []uint32{34, 1, 4}, "/srv/web", ""},
		{"a name and a group", "web:bin", passwd, group, 33, 1, []uint32{1}, "/srv/web", ""},
		{"a name and a number", "web:77", passwd, group, 33, 77, []uint32{77}, "/srv/web", ""},
		{"a number that somebody has", "33", passwd, group, 33, 34, []uint32{34, 1, 4}, "/srv/web", ""},
		{"a number that nobody has", "1234", passwd, group, 1234, 0, []uint32{0}, "", ""},
		{"a number is no name", "1000:1000", passwd, group, 1000, 1000, []uint32{1000}, "", ""},
		{"root", "0", passwd, group, 0, 0, []uint32{0, 1}, "/root", ""},
		{"no files at all", "1000:5", none, none, 1000, 5, []uint32{5}, "", ""},
		{"no group file", "web", passwd, none, 33, 34, []uint32{34}, "/srv/web", ""},
		{"a home that is none", "homeless", passwd, group, 50, 51, []uint32{51}, "relative", ""},
		{"not there", "nobody", passwd, group, 0, 0, nil, "", `user "nobody": the container's ` + passwd + ": there is no such user"},
		{"no passwd", "web", none, group, 0, 0, nil, "", "no such file or directory"},
		{"no such group", "web:staff", passwd, group, 0, 0, nil, "", `group "staff": the container's ` + group + ": there is no such group"},
		{"negative", "-1", passwd, group, 0, 0, nil, "", "an id is a number from 0 to 4294967294"},
		{"minus one", "4294967295", passwd, group, 0, 0, nil, "", "an id is a number"},
		{"wraps around", "4294967296", passwd, group, 0, 0, nil, "", "an id is a number"},
		{"group wraps around", "0:4294967296", passwd, group, 0, 0, nil, "", "an id is a number"},
		{"plus", "+0", passwd, group, 0, 0, nil, "", "an id is a number"},
		{"a damaged line is nobody", "evil", passwd, group, 0, 0, nil, "", "no such user"},
		{"nor without an id", "evil2", passwd, group, 0, 0, nil, "", "no such user"},
		{"nor with -1", "evil3", passwd, group, 0, 0, nil, "", "no such user"},
		{"nor beyond", "evil4", passwd, group, 0, 0, nil, "", "no such user"},
		{"empty group", "web:", passwd, group, 0, 0, nil, "", "is not USER or USER:GROUP"},
		{"empty user", ":web", passwd, group, 0, 0, nil, "", "is not USER or USER:GROUP"},
		{"too many", "a:b:c", passwd, group, 0, 0, nil, "", "is not USER or USER:GROUP"},
		{"a FIFO", "web", fifo, group, 0, 0, nil, "", "not a regular file"},
		{"a device", "web", "/dev/zero", group, 0, 0, nil, "", "not a regular file"},
		{"a directory", "web", dir, group, 0, 0, nil, "", "not a regular file"},
		{"through /proc", "web", magic, group, 0, 0, nil, "", "too many levels of symbolic links"},
		{"the kernel's", "web", kernels, group, 0, 0, nil, "", "there is no such user"},
		{"too long", "web", huge, group, 0, 0, nil, "", "longer than 1048576 bytes"},
		{"group is a FIFO", "web", passwd, fifo, 0, 0, nil, "", "not a regular file"},
	} {
		c := Config{User: User{Name: x.user}}
		err := c.lookup(x.passwd, x.group)
		if x.err != "" {
			if err == nil || !strings.Contains(err.Error(), x.err) || c.User.UID != 0 && err == nil {
				t.Errorf("%s: got %+v, %v; want %q", x.name, c.User, err, x.err)
			}
			continue
		}
		if err != nil || c.User.UID != x.uid || c.User.GID != x.gid || !slices.Equal(c.User.AdditionalGIDs, x.groups) || c.home != x.home {
			t.Errorf("%s: got %+v home %q, %v; want %+v", x.name, c.User, c.home, err, x)
		}
	}
	// What the caller adds comes along, once.
	c := Config{User: User{Name: "web", AdditionalGIDs: []uint32{4, 99}}}
	if err := c.lookup(passwd, group); err != nil || !slices.Equal(c.User.AdditionalGIDs, []uint32{34, 1, 4, 99}) {
		t.Errorf("got %+v, %v", c.User, err)
	}
}
