package process

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/tests/box"

	"golang.org/x/sys/unix"
)

// tree makes files; a mode of 0 is a directory.
func tree(t *testing.T, files map[string]os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range files {
		path := filepath.Join(dir, name)
		if mode == 0 {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho $0\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// These texts are an interface: Docker and Podman make 126 and 127 of them.
func TestLookPath(t *testing.T) {
	dir := tree(t, map[string]os.FileMode{
		"a/prog": 0o644, "b/prog": 0o755, "a/only": 0o644, "b/sub": 0, "b/plain": 0o644, "a/prog2": 0,
	})
	path := "PATH=" + dir + "/a:" + dir + "/b/"
	for _, test := range []struct {
		name, arg, env string
		want, err      string
	}{
		{"skips what cannot be run", "prog", path, dir + "/b/prog", ""},
		{"absolute", dir + "/b/prog", "PATH=/none", dir + "/b/prog", ""},
		{"not there", "nosuch", path, "", `exec: "nosuch": executable file not found in $PATH`},
		{"not executable anywhere", "only", path, "", `exec: "only": executable file not found in $PATH`},
		{"directory in PATH", "prog2", path, "", `exec: "prog2": executable file not found in $PATH`},
		{"no PATH", "prog", "A=b", "", `exec: "prog": executable file not found in $PATH`},
		{"empty PATH", "prog", "PATH=", "", `exec: "prog": executable file not found in $PATH`},
		{"empty name", "", path, "", `exec: "": executable file not found in $PATH`},
		{"dot", "..", path, "", `exec: "..": executable file not found in $PATH`},
		{"absolute, not there", "/no/such", path, "", `exec: "/no/such": stat /no/such: no such file or directory`},
		{"directory", dir + "/b/sub", path, "", `exec: "` + dir + `/b/sub": is a directory`},
		{"not executable", dir + "/b/plain", path, "", `exec: "` + dir + `/b/plain": permission denied`},
		{"below a file", dir + "/b/plain/x", path, "", `exec: "` + dir + `/b/plain/x": stat ` + dir + `/b/plain/x: not a directory`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Config{Args: []string{test.arg}, Env: []string{test.env}}
			got, err := c.LookPath()
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
	t.Run("relative in PATH", func(t *testing.T) {
		t.Chdir(dir + "/b")
		for _, dots := range []string{"PATH=", "PATH=.", "PATH=:/nowhere"} {
			c := Config{Args: []string{"prog"}, Env: []string{dots}}
			if got, err := c.LookPath(); err == nil {
				t.Errorf("%s: found %q below the working directory", dots, got)
			}
		}
	})
	t.Run("no program", func(t *testing.T) {
		if _, err := (&Config{}).LookPath(); err == nil {
			t.Error("found one")
		}
	})
}

// The user's rights count, not ours.
func TestLookPathAsUser(t *testing.T) {
	box.Root(t)
	dir := tree(t, map[string]os.FileMode{"bin/prog": 0o700, "shut/prog": 0o755})
	open(t, dir)
	if err := os.Chmod(dir+"/shut", 0o700); err != nil {
		t.Fatal(err)
	}
	c := someUser()
	for _, path := range []string{dir + "/bin/prog", dir + "/shut/prog"} {
		c.Args = []string{path}
		_, errText := run(t, c, "become,chdir,look")
		wantError(t, errText, `exec: "`+path+`"`, "permission denied")
	}
}

// open lets every user into a t.TempDir.
func open(t *testing.T, dir string) {
	t.Helper()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		st, err := os.Stat(d)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode()&0o011 == 0o011 {
			continue
		}
		if err := os.Chmod(d, st.Mode()|0o011); err != nil {
			t.Fatal(err)
		}
	}
}

func TestExecveSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("garbage"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, errText := run(t, Config{Args: []string{script}}, "look,closefds,exec")
	wantError(t, errText, "exec "+script, "no such file or directory", "interpreter")
	_, errText = run(t, Config{Args: []string{garbage}}, "look,closefds,exec")
	wantError(t, errText, "exec "+garbage+": exec format error")
	_, errText = run(t, Config{}, "look,grow,closefds,exec")
	wantError(t, errText, "exec /bin/true: argument list too long")
}

func TestOnlyPreservedDescriptorsGoAlong(t *testing.T) {
	for _, preserve := range []int{0, 1} {
		c := Config{Args: []string{"/bin/ls", "/proc/self/fd"}, PreserveFDs: preserve}
		cmd := command(t, c, "open=/,open=/dev/null,look,closefds,exec")
		kept, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer kept.Close()
		cmd.ExtraFiles = []*os.File{kept, kept}
		out, errText := runCommand(cmd)
		if errText != "" {
			t.Fatal(errText)
		}
		want := "0 1 2 3" // the last is ls reading the directory
		if preserve == 1 {
			want = "0 1 2 3 4"
		}
		if got := strings.Join(strings.Fields(out), " "); got != want {
			t.Errorf("preserving %d: got %s, want %s", preserve, got, want)
		}
	}
}

// Marked to close at the execve is too late: the kernel still resolves through it.
func TestNoProgramThroughForgottenDirectory(t *testing.T) {
	cmd := command(t, Config{Args: []string{"/proc/self/fd/3/true"}}, "look,closefds,exec")
	dir, err := os.Open("/bin")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd.ExtraFiles = []*os.File{dir}
	_, errText := runCommand(cmd)
	wantError(t, errText, "exec /proc/self/fd/3/true: no such file or directory")
}

func TestCwd(t *testing.T) {
	box.Root(t)
	dir := tree(t, map[string]os.FileMode{"private": 0, "file": 0o644})
	open(t, dir)
	if err := os.Chmod(dir+"/private", 0o700); err != nil {
		t.Fatal(err)
	}
	c := someUser()
	c.Cwd = dir + "/private" // root may enter what the user may not
	if got := field(t, succeed(t, c, "become,chdir,status"), "Cwd"); got != c.Cwd {
		t.Errorf("got %q, want %q", got, c.Cwd)
	}
	for path, want := range map[string]string{
		dir + "/none": "process.cwd: chdir " + dir + "/none: no such file or directory",
		dir + "/file": "process.cwd: chdir " + dir + "/file: not a directory",
	} {
		c.Cwd = path
		_, errText := run(t, c, "become,chdir")
		wantError(t, errText, want)
	}
	// chroot does not move the working directory: "." is outside now.
	c.Cwd = "."
	for _, steps := range []string{"chroot=" + dir + ",chdir", "chroot=" + dir + ",become,chdir"} {
		_, errText := run(t, c, steps)
		wantError(t, errText, `process.cwd: "." is outside of the container's root`)
	}
}

func TestLimits(t *testing.T) {
	limit := func(args ...string) Config {
		return Config{Args: append([]string{"/bin/sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c"}, args...)}
	}
	c := limit()
	c.Rlimits = []Rlimit{{unix.RLIMIT_NOFILE, 100, 200}, {unix.RLIMIT_CORE, 0, 0}}
	if got := strings.Fields(succeed(t, c, "look,closefds,exec")); strings.Join(got, " ") != "100 200 0" {
		t.Errorf("got %v, want 100 200 0", got)
	}
	// Not named: what the caller had, not what Go made of it.
	cmd := command(t, limit(), "look,closefds,exec")
	cmd.Args = append([]string{"sh", "-c", `ulimit -Sn 77; exec "$0"`, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/bin/sh"
	out, errText := runCommand(cmd)
	if got := strings.Fields(out); errText != "" || got[0] != "77" {
		t.Errorf("got %v %s, want a soft limit of 77", got, errText)
	}
}
