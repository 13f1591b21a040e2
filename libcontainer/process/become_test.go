package process

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"thinrun/tests/box"

	"golang.org/x/sys/unix"
)

const (
	capChown   = 1 << unix.CAP_CHOWN
	capKill    = 1 << unix.CAP_KILL
	capSetPCap = 1 << unix.CAP_SETPCAP
)

func someUser() Config {
	umask := uint32(0o027)
	return Config{User: User{UID: 1000, GID: 1001, AdditionalGIDs: []uint32{5, 7}, Umask: &umask}}
}

func TestUserHasWhatWasAskedForAndNoMore(t *testing.T) {
	box.Root(t)
	c := someUser()
	c.Capabilities = Capabilities{Bounding: capChown | capKill, Permitted: capChown | capKill, Effective: capKill}
	status := succeed(t, c, "become,status")
	wantFields(t, status, map[string]string{
		"Uid": "1000 1000 1000 1000", "Gid": "1001 1001 1001 1001", "Groups": "5 7", "Umask": "0027",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000021", "CapEff": "0000000000000020",
		"CapBnd": "0000000000000021", "CapAmb": "0000000000000000", "Dumpable": "0",
	})
}

// The program of a user that is not root keeps only ambient capabilities.
func TestProgramOfUser(t *testing.T) {
	box.Root(t)
	c := someUser()
	c.Args = []string{"cat", "/proc/self/status"}
	c.Env = []string{"PATH=/bin"}
	c.Capabilities = Capabilities{Bounding: capChown | capKill, Permitted: capChown | capKill, Effective: capChown | capKill}
	status := succeed(t, c, "become,chdir,look,closefds,exec")
	wantFields(t, status, map[string]string{
		"Uid": "1000 1000 1000 1000", "Groups": "5 7",
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000021",
	})

	c.Capabilities.Inheritable, c.Capabilities.Ambient = capKill, capKill|capChown // chown is not inheritable
	status = succeed(t, c, "become,chdir,look,closefds,exec")
	wantFields(t, status, map[string]string{
		"CapInh": "0000000000000020", "CapPrm": "0000000000000020", "CapEff": "0000000000000020", "CapAmb": "0000000000000020",
	})
}

func TestProgramOfRootHasTheBoundingSet(t *testing.T) {
	box.Root(t)
	set := Capabilities{Bounding: capChown, Permitted: capChown, Effective: capChown}
	c := Config{Args: []string{"/bin/cat", "/proc/self/status"}, Capabilities: set}
	status := succeed(t, c, "become,chdir,look,closefds,exec")
	wantFields(t, status, map[string]string{
		"Uid": "0 0 0 0", "Groups": "", "Umask": "0022", "CapInh": "0000000000000000", "CapPrm": "0000000000000001", "CapEff": "0000000000000001",
		"CapBnd": "0000000000000001",
	})
}

func TestCallersGroupsAreDropped(t *testing.T) {
	box.Root(t)
	for _, keep := range []bool{false, true} {
		c := Config{User: User{KeepGroups: keep}}
		cmd := command(t, c, "become,status")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{1234, 5678}}}
		status, errText := runCommand(cmd)
		if errText != "" {
			t.Fatal(errText)
		}
		want := ""
		if keep {
			want = "1234 5678"
		}
		if got := field(t, status, "Groups"); got != want {
			t.Errorf("KeepGroups %v: got groups %q, want %q", keep, got, want)
		}
	}
}

// 4294967295 is "leave it as it is" to the kernel: root.
func TestMinusOneIsNotAUser(t *testing.T) {
	for _, user := range []User{{UID: 1<<32 - 1}, {GID: 1<<32 - 1}} {
		_, errText := run(t, Config{User: user}, "become,status")
		wantError(t, errText, "4294967295 is not an id")
	}
}

func TestMissingCapabilityIsNamed(t *testing.T) {
	box.Root(t)
	c := Config{User: User{KeepGroups: true}, Capabilities: Capabilities{Bounding: capSetPCap, Permitted: capSetPCap, Effective: capSetPCap}}
	_, errText := run(t, c, "become,more")
	wantError(t, errText, "capset: operation not permitted", "CAP_CHOWN")
	if strings.Contains(errText, "SETPCAP") {
		t.Errorf("%q names one that is there", errText)
	}
}

func TestUnmappedUserIsExplained(t *testing.T) {
	box.Root(t)
	c := Config{User: User{UID: 5, KeepGroups: true}}
	cmd := command(t, c, "become")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{Size: 1}}, GidMappings: []syscall.SysProcIDMap{{Size: 1}},
	}
	_, errText := runCommand(cmd)
	wantError(t, errText, "setresuid 5", "linux.uidMappings")
}

// /dev/stdout is a new open of the caller's pipe.
func TestUserOwnsItsOutput(t *testing.T) {
	box.Root(t)
	c := someUser()
	c.Args = []string{"/bin/sh", "-c", "echo opened > /proc/self/fd/1"}
	if out := succeed(t, c, "become,chdir,look,closefds,exec"); out != "opened\n" {
		t.Errorf("got %q", out)
	}
}

func TestHostFilesKeepTheirOwner(t *testing.T) {
	box.Root(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := command(t, someUser(), "become")
	cmd.Stdin, cmd.Stdout = file, file
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil || st.Uid != 0 {
		t.Errorf("the file now belongs to uid %d, %v", st.Uid, err)
	}
}

func TestHomeComesFromPasswd(t *testing.T) {
	passwd := "root:x:0:0:root:/root:/bin/sh\n" +
		"short:x:7\n" +
		"relative:x:8:8::home:/bin/sh\n" +
		"empty:x:9:9:::\n" +
		"user:x:1000:1000::/home/user:/bin/sh\n" +
		"twin:x:1000:1000::/home/twin:/bin/sh\n" +
		"last:x:1001:1001::/home/last"
	dir := t.TempDir()
	file := filepath.Join(dir, "passwd")
	fifo := filepath.Join(dir, "fifo")
	link := filepath.Join(dir, "link")
	huge := filepath.Join(dir, "huge")
	for _, err := range []error{
		os.WriteFile(file, []byte(passwd), 0o644),
		unix.Mkfifo(fifo, 0o644),
		os.Symlink(fifo, link),
		os.WriteFile(huge, nil, 0o644),
		os.Truncate(huge, 1<<40),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		uid        uint32
		path, want string
	}{
		{0, file, "/root"},
		{7, file, "/"},
		{8, file, "/"},
		{9, file, "/"},
		{1000, file, "/home/user"},
		{1001, file, "/home/last"},
		{1002, file, "/"},
		{0, filepath.Join(dir, "none"), "/"},
		{0, dir, "/"},
		{0, fifo, "/"},
		{0, link, "/"},
		{0, huge, "/"},
		{0, "/dev/zero", "/"},
	} {
		if got := homeOf(test.uid, test.path); got != test.want {
			t.Errorf("uid %d in %s: got %q, want %q", test.uid, test.path, got, test.want)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for _, test := range []struct {
		name      string
		env, want []string
		err       string
	}{
		{"last wins, in its place", []string{"A=1", "B=2", "A=3", "HOME=/h"}, []string{"B=2", "A=3", "HOME=/h"}, ""},
		{"empty home", []string{"HOME=", "A=1"}, []string{"HOME=/", "A=1"}, ""},
		{"later empty home", []string{"HOME=/h", "HOME="}, []string{"HOME=/"}, ""},
		{"no home", []string{"A==b="}, []string{"A==b=", "HOME=/"}, ""},
		{"no =", []string{"A"}, nil, `process.env: "A" has no =`},
		{"no name", []string{"=x"}, nil, `process.env: "=x" has no name`},
		{"NUL", []string{"A=\x00"}, nil, `process.env: the value of "A" has a NUL`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Config{Env: test.env, User: User{UID: 4000000000}} // nobody has this
			err := c.Environment()
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("got %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(c.Env, " "); got != strings.Join(test.want, " ") {
				t.Errorf("got %q, want %q", c.Env, test.want)
			}
		})
	}
}
