// Package cli tests the manners of the command line: what every command does with
// help, mistakes, flags and hostile names. It makes no containers; tests/lifecycle does.
package cli

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"thinrun/tests/testbundle"

	"golang.org/x/sys/unix"
)

// thinrun is the binary with directories of its own; it needs no root.
type thinrun struct {
	t       *testing.T
	binary  string
	root    string // --root; its parent is empty but for it
	storage string
	dir     string // the working directory
	globals []string
}

func newThinrun(t *testing.T) *thinrun {
	dir := t.TempDir()
	th := &thinrun{t: t, binary: testbundle.Binary(t), root: dir + "/state", storage: dir + "/storage", dir: t.TempDir()}
	return th
}

func (th *thinrun) run(args ...string) testbundle.Result {
	th.t.Helper()
	all := slices.Concat([]string{"--root", th.root, "--storage", th.storage}, th.globals, args)
	cmd := exec.Command(th.binary, all...)
	cmd.Dir = th.dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	hang := time.AfterFunc(5*time.Minute, func() { cmd.Process.Signal(unix.SIGQUIT) })
	defer hang.Stop()
	if err := cmd.Run(); cmd.ProcessState == nil {
		th.t.Fatal(err)
	}
	return testbundle.Result{Args: all, Stdout: out.String(), Stderr: errs.String(), Code: cmd.ProcessState.ExitCode()}
}

// fails wants an exit code, one line of error that says all of parts, and no output.
func (th *thinrun) fails(code int, args []string, parts ...string) testbundle.Result {
	th.t.Helper()
	got := th.run(args...)
	if got.Code != code {
		th.t.Errorf("want exit code %d; %v", code, got)
	}
	if strings.Count(got.Stderr, "\n") != 1 || !strings.HasPrefix(got.Stderr, "thinrun: ") || got.Stdout != "" {
		th.t.Errorf("want one line of error and nothing else; %v", got)
	}
	for _, part := range parts {
		if !strings.Contains(got.Stderr, part) {
			th.t.Errorf("the error does not say %q; %v", part, got)
		}
	}
	return got
}

func (th *thinrun) ok(args ...string) string {
	th.t.Helper()
	got := th.run(args...)
	if got.Code != 0 || got.Stderr != "" {
		th.t.Fatalf("want success without a word on stderr; %v", got)
	}
	return got.Stdout
}

// verbs are all commands, and how many arguments each takes at most; -1: any number.
var verbs = []struct {
	words    string
	min, max int
}{
	{"create", 1, 1}, {"start", 1, 1}, {"state", 1, 1}, {"kill", 1, 2}, {"delete", 1, 1}, {"run", 1, -1}, {"exec", 2, -1},
	{"list", 0, 0}, {"spec", 0, 0}, {"features", 0, 0}, {"gc", 0, 0},
	{"image import", 2, 2}, {"image list", 0, 0}, {"image inspect", 1, 1}, {"image tag", 2, 2}, {"image commit", 2, 2}, {"image rm", 1, -1},
	{"pool create", 0, 0}, {"pool status", 0, 0}, {"pool grow", 0, 0}, {"pool trim", 0, 0}, {"pool check", 0, 0}, {"pool renew", 0, 0}, {"pool destroy", 0, 0},
}

func failure(words string) int {
	if words == "exec" {
		return 255
	}
	return 1
}

func TestHelp(t *testing.T) {
	th := newThinrun(t)
	for _, v := range verbs {
		words := strings.Fields(v.words)
		for _, flag := range []string{"--help", "-h"} {
			out := th.ok(append(slices.Clone(words), flag)...)
			if !strings.Contains(out, "USAGE:") || !strings.Contains(out, "thinrun "+v.words) {
				t.Errorf("%s %s has no usage: %s", v.words, flag, out)
			}
		}
	}
	for _, args := range [][]string{{"delete", "x", "--help"}, {"delete", "-f", "x", "-h"}, {"delete", "--help", "x"}} {
		if out := th.ok(args...); !strings.Contains(out, "thinrun delete") {
			t.Errorf("%v: %s", args, out)
		}
	}
	for _, args := range [][]string{nil, {"--help"}, {"-h"}, {"help"}, {"image"}, {"pool"}} {
		if out := th.ok(args...); !strings.Contains(out, "USAGE:") || !strings.Contains(out, "COMMANDS:") {
			t.Errorf("%v: %s", args, out)
		}
	}
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"image", "import", "--help"}, {"pool", "create", "--help"}, {"pool", "check", "--help"}} {
		if out := th.ok(args...); !strings.Contains(out, "Example:") {
			t.Errorf("%v has no example: %s", args, out)
		}
	}
	if out := th.ok("help", "create"); !strings.Contains(out, "--bundle") {
		t.Errorf("help create: %s", out)
	}
	if _, err := os.Stat(filepath.Dir(th.root) + "/storage"); err == nil {
		t.Error("asking for help made a directory")
	}
}

// Containers and images may be called help or h: kill h was answered by kill's help page,
// and said that all was well.
func TestNamesThatAreWordsOfHelp(t *testing.T) {
	th := newThinrun(t)
	for _, name := range []string{"help", "h"} {
		for _, args := range [][]string{{"state", name}, {"delete", name}, {"kill", name}, {"kill", name, "KILL"}, {"start", name}} {
			th.fails(1, args, `"`+name+`"`, "does not exist")
		}
		th.fails(255, []string{"exec", name, "true"}, "does not exist")
		for _, args := range [][]string{
			{"image", "inspect", name}, {"image", "rm", name}, {"image", "tag", name, "x"}, {"image", "export", name, "x"}, {"run", "--image", name, "x"},
		} {
			th.fails(1, args, name+":latest", "no such image")
		}
		th.fails(1, []string{"run", "--bundle", th.dir + "/none", name}, "none", "no such file")
		th.fails(1, []string{"image", "import", name, th.dir + "/none"}, "none", "no such file")
		th.fails(1, []string{"gc", name}, "wants no argument")
	}
}

func TestEmptyDirectoryIsRefused(t *testing.T) {
	th := newThinrun(t)
	for _, flag := range []string{"--root", "--storage"} {
		th.fails(1, []string{flag, "", "image", "list"}, flag, "empty")
	}
}

// No heading of a table that nobody could read, and no flag that is taken for none.
func TestErrorsWithoutOutput(t *testing.T) {
	th := newThinrun(t)
	for _, format := range []string{"table", "json"} {
		th.fails(1, []string{"--storage", "/proc/version", "image", "list", "--format", format}, "/proc/version", "not a directory")
	}
	for _, flag := range []string{"--data-size", "--metadata-size", "--max-size", "--low-water", "--base-size", "--block-size"} {
		th.fails(1, []string{"pool", "create", flag, "0"}, flag, "0 is no size")
	}
}

func TestMistakesAreOneLine(t *testing.T) {
	th := newThinrun(t)
	th.fails(1, []string{"frobnicate"}, `no command "frobnicate"`)
	th.fails(1, []string{"image", "frobnicate"}, `no command "frobnicate"`, "thinrun image --help")
	th.fails(1, []string{"pool", "frobnicate"}, `no command "frobnicate"`, "thinrun pool --help")
	th.fails(1, []string{"help", "frobnicate"}, `"frobnicate"`)
	th.fails(1, []string{"--frobnicate", "list"}, "frobnicate")
	th.fails(1, []string{"--log"}, "flag needs an argument")
	th.fails(1, []string{"create", "--bundle"}, "flag needs an argument")
	th.fails(1, []string{"create", "--preserve-fds", "many", "x"}, `"many"`, "preserve-fds")
	for flag, value := range map[string]string{
		"--log-format": "xml", "--log-level": "loud", "--storage-driver": "zfs", "--rootless": "perhaps", "--cgroup-manager": "none",
	} {
		th.fails(1, []string{flag, value, "list"}, flag, value)
	}
	for _, v := range verbs {
		words, code := strings.Fields(v.words), failure(v.words)
		with := func(more ...string) []string { return append(slices.Clone(words), more...) }
		th.fails(code, with("--frobnicate"), v.words, "frobnicate")
		if v.min > 0 {
			th.fails(code, words, v.words, "wants")
		}
		if v.max >= 0 {
			th.fails(code, with("a", "b", "c")[:len(words)+v.max+1], v.words, "wants")
		}
	}
	th.fails(255, []string{"exec", "x"}, "wants a command")
	for _, format := range [][]string{{"list", "--format", "xml"}, {"image", "list", "--format", "xml"}} {
		th.fails(1, format, "xml")
	}
	for _, sig := range []string{"65", "-1", "99999999999999999999", "SIGNOSUCH", "SIG", "TERM ", "1.5", "RTMIN+31"} {
		th.fails(1, []string{"kill", "x", sig}, "signal", strings.TrimSpace(sig))
	}
	if _, err := os.Stat(th.root); err == nil {
		t.Error("mistakes made the state directory")
	}
}

// conmon, go-runc and people put flags where they like.
func TestFlagsAnywhere(t *testing.T) {
	th := newThinrun(t)
	b := testbundle.New(t).Args("true")
	b.Spec.Hostname = "named"
	dir := b.Path()
	var first string
	for _, args := range [][]string{
		{"create", "--dry-run", "--bundle", dir, "x"},
		{"create", "--dry-run", "-b", dir, "x"},
		{"create", "x", "--bundle", dir, "--dry-run"},
		{"create", "--dry-run", "x", "--bundle=" + dir},
		{"create", "-dry-run", "-bundle", dir, "x"},
		{"create", "-b=" + dir, "x", "-dry-run"},
		{"create", "--dry-run", "--bundle", dir, "--", "x"},
	} {
		out := th.ok(args...)
		if first == "" {
			first = out
		}
		if out != first || !strings.Contains(out, "named") {
			t.Errorf("%v gives another plan: %s", args, out)
		}
	}
	th.dir = dir // runc's default
	if out := th.ok("create", "--dry-run", "x"); out != first {
		t.Errorf("without --bundle: %s", out)
	}
	// -no-subreaper, as go-runc spells it
	th.fails(1, []string{"run", "-no-subreaper", "--bundle", dir + "/none", "x"}, dir+"/none", "no such file")
	th.fails(1, []string{"run", "x", "--bundle", dir + "/none"}, dir+"/none", "no such file")
	th.fails(1, []string{"run", "--bundle", dir, "x", "sh"}, "--image")
	// What follows exec's id is the command line's.
	th.fails(255, []string{"exec", "x", "--detach"}, "does not exist")
	th.fails(1, []string{"delete", "x", "-f", "-f", "--frob"}, "frob")
	th.ok("delete", "x", "--force")
	th.ok("delete", "-f", "--", "-x")
	th.fails(1, []string{"state", "--", "-x"}, `"-x"`, "does not exist")
	th.fails(1, []string{"state", "-x"}, "-x")
}

func TestDryRunTouchesNothing(t *testing.T) {
	th := newThinrun(t)
	b := testbundle.New(t).Image("none")
	before := tree(t, b.Dir)
	var plan map[string]any
	if err := json.Unmarshal([]byte(th.ok("create", "--dry-run", "--bundle", b.Path(), "x")), &plan); err != nil {
		t.Fatal(err)
	}
	if len(plan) < 3 {
		t.Errorf("got %v", plan)
	}
	if got := tree(t, filepath.Dir(th.root)); len(got) != 1 {
		t.Errorf("made: %q", got)
	}
	delete(before, b.Dir) // its time: Path has written config.json
	for name, was := range before {
		if now := tree(t, b.Dir)[name]; now != was {
			t.Errorf("%s: was %s, is %s", name, was, now)
		}
	}
}

// tree is every path below dir with its kind, size and time.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err == nil {
			all[path] = st.Mode().String() + " " + st.ModTime().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// go-runc parses the first line and those that begin with "commit: " and "spec: ".
func TestVersion(t *testing.T) {
	th := newThinrun(t)
	shape := regexp.MustCompile(`^thinrun version [0-9]\S*\n(commit: \S+\n)?spec: 1\.[0-9.]+\S*\ngo: go1\.\S+\n$`)
	for _, flag := range []string{"--version", "-v"} {
		if out := th.ok(flag); !shape.MatchString(out) {
			t.Errorf("%s: %q", flag, out)
		}
	}
}

// What containerd, dockerd and CRI-O look at. They take stderr for output too.
func TestFeatures(t *testing.T) {
	th := newThinrun(t)
	var f struct {
		OCIVersionMin, OCIVersionMax string
		Hooks, MountOptions          []string
		Linux                        struct {
			Namespaces, Capabilities []string
			Cgroup                   struct{ V1, V2, Systemd, SystemdUser, Rdma *bool }
			Seccomp                  struct {
				Enabled                                               *bool
				Actions, Operators, Archs, KnownFlags, SupportedFlags []string
			}
			Apparmor, Selinux, IntelRdt, NetDevices struct{ Enabled *bool }
			MemoryPolicy                            struct{ Modes, Flags []string }
			MountExtensions                         struct{ IDMap struct{ Enabled bool } }
		}
		PotentiallyUnsafeConfigAnnotations []string
	}
	if err := json.Unmarshal([]byte(th.ok("features")), &f); err != nil {
		t.Fatal(err)
	}
	contains := func(what string, list []string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !slices.Contains(list, w) {
				t.Errorf("%s lacks %q: %q", what, w, list)
			}
		}
	}
	if f.OCIVersionMin == "" || !strings.HasPrefix(f.OCIVersionMax, "1.3") {
		t.Errorf("ociVersion %q to %q", f.OCIVersionMin, f.OCIVersionMax)
	}
	contains("hooks", f.Hooks, "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
	contains("mountOptions", f.MountOptions, "rro", "ro", "rbind", "idmap", "ridmap", "tmpcopyup", "rnosymfollow", "lazytime", "rslave")
	contains("namespaces", f.Linux.Namespaces, "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
	contains("capabilities", f.Linux.Capabilities, "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE")
	contains("seccomp actions", f.Linux.Seccomp.Actions, "SCMP_ACT_ERRNO", "SCMP_ACT_NOTIFY", "SCMP_ACT_ALLOW")
	contains("seccomp operators", f.Linux.Seccomp.Operators, "SCMP_CMP_MASKED_EQ")
	contains("seccomp archs", f.Linux.Seccomp.Archs, "SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64")
	contains("seccomp flags", f.Linux.Seccomp.KnownFlags, "SECCOMP_FILTER_FLAG_LOG")
	contains("memory policy", f.Linux.MemoryPolicy.Modes, "MPOL_BIND")
	contains("unsafe annotations", f.PotentiallyUnsafeConfigAnnotations, "org.thinrun.")
	if !f.Linux.MountExtensions.IDMap.Enabled {
		t.Error("idmap is not enabled")
	}
	for name, p := range map[string]*bool{
		"v1": f.Linux.Cgroup.V1, "v2": f.Linux.Cgroup.V2, "systemd": f.Linux.Cgroup.Systemd, "seccomp": f.Linux.Seccomp.Enabled,
		"apparmor": f.Linux.Apparmor.Enabled, "selinux": f.Linux.Selinux.Enabled, "intelRdt": f.Linux.IntelRdt.Enabled, "netDevices": f.Linux.NetDevices.Enabled,
	} {
		if p == nil {
			t.Errorf("%s says neither yes nor no", name)
		}
	}
}

func TestSpec(t *testing.T) {
	th := newThinrun(t)
	if out := th.ok("spec"); out != "" {
		t.Errorf("output %q", out)
	}
	data, err := os.ReadFile(th.dir + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(data) || !strings.HasPrefix(string(data), "{\n\t\"ociVersion\": ") {
		t.Errorf("got %.80q", data)
	}
	th.ok("create", "--dry-run", "x")
	th.fails(1, []string{"spec"}, "config.json", "exists")
	if again, _ := os.ReadFile(th.dir + "/config.json"); string(again) != string(data) {
		t.Error("the second spec changed the first")
	}
	other := t.TempDir()
	th.ok("spec", "--rootless", "-b", other)
	rootless, err := os.ReadFile(other + "/config.json")
	if err != nil || !strings.Contains(string(rootless), `"user"`) || !strings.Contains(string(rootless), "uidMappings") {
		t.Errorf("%v: %s", err, rootless)
	}
	th.fails(1, []string{"spec", "-b", other + "/none"}, other+"/none", "no such file")
}

func TestListOfNone(t *testing.T) {
	th := newThinrun(t)
	if out := th.ok("list"); !regexp.MustCompile(`^ID +PID +STATUS +BUNDLE +CREATED +OWNER +DISK\n$`).MatchString(out) {
		t.Errorf("table: %q", out)
	}
	if out := th.ok("list", "--format", "json"); out != "null\n" { // as runc
		t.Errorf("json: %q", out)
	}
	if out := th.ok("list", "-q"); out != "" {
		t.Errorf("quiet: %q", out)
	}
	if out := th.ok("image", "list", "--format=json"); out != "[]\n" {
		t.Errorf("images: %q", out)
	}
	if _, err := os.Stat(th.root); err == nil {
		t.Error("list made the state directory")
	}
}

// containerd takes the last record with level "error", Podman wants a file with one
// record, or else the beginning of stderr.
func TestLogHasOneRecord(t *testing.T) {
	for _, args := range [][]string{
		{"state", "nosuch"},
		{"exec", "nosuch", "true"},
		{"create", "--bundle", "/nonexistent", "x"},
		{"run", "--image", "nosuch", "x", "true"},
		{"start"},
		{"kill", "nosuch", "--frob"},
		{"delete", "--frob", "x"},
		{"frobnicate"},
		{"delete", "a\nb"},
	} {
		th := newThinrun(t)
		log := th.dir + "/log.json"
		th.globals = []string{"--log", log, "--log-format", "json"}
		got := th.run(args...)
		if got.Code == 0 {
			t.Errorf("want a failure; %v", got)
		}
		data, err := os.ReadFile(log)
		if err != nil {
			t.Errorf("%v: %v", args, err)
			continue
		}
		var record map[string]string
		if err := json.Unmarshal(data, &record); err != nil || strings.Count(string(data), "\n") != 1 {
			t.Errorf("%v: want one record, got %q, %v", args, data, err)
			continue
		}
		if _, err := time.Parse(time.RFC3339, record["time"]); err != nil || record["level"] != "error" || len(record) != 3 {
			t.Errorf("%v: %q", args, data)
		}
		if got.Stderr != "thinrun: "+record["msg"]+"\n" {
			t.Errorf("stderr and log differ: %q, %q", got.Stderr, data)
		}
	}
}

func TestLogIsAppended(t *testing.T) {
	th := newThinrun(t)
	log := th.dir + "/log"
	th.globals = []string{"--log", log}
	th.run("state", "one")
	th.run("list") // nothing to say
	th.run("state", "two")
	data, _ := os.ReadFile(log)
	if !regexp.MustCompile(`^time="[^"]+" level=error msg="state \\"one\\": [^\n]*"\ntime="[^"]+" level=error msg="state \\"two\\": [^\n]*"\n$`).Match(data) {
		t.Errorf("got %s", data)
	}
	th.globals = []string{"--log", "/nonexistent/log"}
	if got := th.run("state", "one"); got.Code != 1 || !strings.Contains(got.Stderr, "does not exist") || !strings.Contains(got.Stderr, "/nonexistent/log") {
		t.Errorf("an unwritable log: %v", got)
	}
}
