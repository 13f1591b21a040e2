package plan

import (
	"reflect"
	"slices"
	"testing"

	"thinrun/libcontainer/bundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const execConfig = `{"ociVersion":"1.3.0","process":{"terminal":true,"cwd":"/","args":["init"],"env":["A=1"],
	"user":{"uid":1,"gid":2,"additionalGids":[3]},"noNewPrivileges":true,
	"capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]},
	"execCPUAffinity":{"initial":"0-1","final":"3"}},
	"root":{"path":"r"},"linux":{"namespaces":[{"type":"mount"}],"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"},
	"personality":{"domain":"LINUX32"},"memoryPolicy":{"mode":"MPOL_LOCAL","nodes":""}}}`

func execBase(t *testing.T) *specs.Spec {
	t.Helper()
	b, err := bundle.Parse([]byte(execConfig))
	if err != nil {
		t.Fatal(err)
	}
	return b.Spec
}

// TestExecIsAsConfinedAsInit: filter, no_new_privs, capabilities and personality hold for
// an exec too (crun 1.8 lost no_new_privs, youki the filter).
func TestExecIsAsConfinedAsInit(t *testing.T) {
	spec := execBase(t)
	p, err := NewExec(spec, spec.Process, ExecOptions{ID: "c1", Args: []string{"id"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := p.Init.Process
	if p.Seccomp == nil || !cfg.NoNewPrivileges || cfg.Capabilities.Bounding != 1<<5 ||
		cfg.Personality == nil || *cfg.Personality != 8 || cfg.MemoryPolicy == nil || cfg.MemoryPolicy.Mode != 4 {
		t.Errorf("got %+v, seccomp %v", cfg, p.Seccomp)
	}
	if cfg.Terminal || p.Terminal {
		t.Error("has a terminal that nobody asked for")
	}
	if cfg.KeyringName != "_ses.c1" || !slices.Equal(cfg.Args, []string{"id"}) {
		t.Errorf("got %+v", cfg)
	}
}

func TestExecHonoursCPUAffinity(t *testing.T) {
	spec := execBase(t)
	p, err := NewExec(spec, spec.Process, ExecOptions{Args: []string{"id"}})
	if err != nil {
		t.Fatal(err)
	}
	if cfg := p.Init.Process; !slices.Equal(cfg.CPUAffinityInitial, []int{0, 1}) || !slices.Equal(cfg.CPUAffinityFinal, []int{3}) {
		t.Errorf("got %v and %v", cfg.CPUAffinityInitial, cfg.CPUAffinityFinal)
	}
	p, err = New(spec, request(), host())
	if err != nil {
		t.Fatal(err)
	}
	if cfg := p.Init.Process; cfg.CPUAffinityInitial != nil || cfg.CPUAffinityFinal != nil {
		t.Errorf("init gets exec's affinity: %v, %v", cfg.CPUAffinityInitial, cfg.CPUAffinityFinal)
	}
}

func TestExecOverrides(t *testing.T) {
	spec := execBase(t)
	before := bundle.Encode(spec)
	p, err := NewExec(spec, spec.Process, ExecOptions{
		Args: []string{"a", "b"}, Cwd: "/w", Env: []string{"B=2"}, Terminal: true, User: "7:8", AdditionalGIDs: []int64{9},
		Caps: []string{"CAP_CHOWN"}, SELinuxLabel: "l", AppArmor: "p", PreserveFDs: 3, NoNewKeyring: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := p.Init.Process
	if cfg.Cwd != "/w" || !slices.Equal(cfg.Env, []string{"A=1", "B=2"}) || !cfg.Terminal || cfg.User.UID != 7 || cfg.User.GID != 8 ||
		!slices.Equal(cfg.User.AdditionalGIDs, []uint32{3, 9}) || cfg.SELinuxLabel != "l" || cfg.AppArmorProfile != "p" ||
		cfg.PreserveFDs != 3 || cfg.KeyringName != "" {
		t.Errorf("got %+v", cfg)
	}
	if c := cfg.Capabilities; c.Bounding != 1<<5|1 || c.Effective != 1<<5|1 || c.Permitted != 1<<5|1 || c.Inheritable != 0 || c.Ambient != 0 {
		t.Errorf("capabilities are %+v", c)
	}
	if after := bundle.Encode(spec); string(before) != string(after) {
		t.Errorf("the container's spec was changed:\n%s\n%s", before, after)
	}
	// --process: the flags do not count.
	whole := &specs.Process{Args: []string{"x"}, Cwd: "/"}
	p, err = NewExec(spec, whole, ExecOptions{Whole: true, Args: []string{"y"}, User: "9", Terminal: true})
	if err != nil {
		t.Fatal(err)
	}
	if cfg := p.Init.Process; cfg.Args[0] != "x" || cfg.User.UID != 0 || cfg.Terminal {
		t.Errorf("got %+v", cfg)
	}
}

func TestExecRefusals(t *testing.T) {
	spec := execBase(t)
	for _, c := range []struct {
		opt  ExecOptions
		want string
	}{
		{ExecOptions{}, "config.json: process.args: is missing or empty"},
		{ExecOptions{Args: []string{"a"}, Cwd: "b"}, `config.json: process.cwd: "b" is not absolute`},
		{ExecOptions{Args: []string{"a"}, User: "4294967296"}, `user "4294967296" is not UID or UID:GID (numbers from 0 to 4294967294)`},
		{ExecOptions{Args: []string{"a"}, AdditionalGIDs: []int64{4294967295}}, "additional group 4294967295 is not between 0 and 4294967294"},
		{ExecOptions{Args: []string{"a"}, AdditionalGIDs: []int64{-1}}, "additional group -1 is not between 0 and 4294967294"},
		{ExecOptions{Args: []string{"a"}, Caps: []string{"CAP_X"}}, `capability "CAP_X" does not exist (see capabilities(7))`},
		{ExecOptions{Args: []string{"a"}, Env: []string{"X"}}, `config.json: process.env[1]: "X" is not of the form NAME=value`},
	} {
		if _, err := NewExec(spec, spec.Process, c.opt); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 5}}
	spec.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: 1000, Size: 5}}
	if _, err := NewExec(spec, spec.Process, ExecOptions{Args: []string{"a"}, User: "5"}); err == nil ||
		err.Error() != "user 5 is not mapped in the container (see linux.uidMappings)" {
		t.Errorf("got %v", err)
	}
}

// TestSeccompSectionRoundTrip: run --image saves the default profile as an OCI section,
// exec reads it back.
func TestSeccompSectionRoundTrip(t *testing.T) {
	b, err := bundle.Parse([]byte(`{"ociVersion":"1.3.0","process":{"cwd":"/","args":["a"]},"linux":{"namespaces":[{"type":"mount"}],
		"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":13,"architectures":["SCMP_ARCH_X86"],"flags":[],
		"syscalls":[{"names":["clone"],"action":"SCMP_ACT_ERRNO","errnoRet":2,"args":[{"index":1,"value":2,"valueTwo":7,"op":"SCMP_CMP_MASKED_EQ"}]}]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Seccomp(b.Spec.Linux.Seccomp)
	if want.Flags == nil {
		t.Error("an empty list of flags became none; none means SPEC_ALLOW")
	}
	want.Flags = []string{"SECCOMP_FILTER_FLAG_LOG"}
	if got := Seccomp(SeccompSection(want)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestUserByName: process.user.username is what an image's user is looked up by, and
// Windows' field, which runc does not see, everywhere else. A flag may name any user.
func TestUserByName(t *testing.T) {
	spec := execBase(t)
	spec.Process.User = specs.User{UID: 1, GID: 2, Username: "web:www"}
	opt := request()
	for _, x := range []struct {
		image, want string
	}{{"debian", "web:www"}, {"", ""}} {
		opt.Image = x.image
		p, err := New(spec, opt, host())
		if err != nil || p.Init.Process.User.Name != x.want {
			t.Errorf("image %q: user %q, %v; want %q", x.image, p.Init.Process.User.Name, err, x.want)
		}
	}
	for _, x := range []struct {
		image      bool
		flag, name string
		uid, gid   uint32
	}{
		{true, "", "web:www", 1, 2},
		{false, "", "", 1, 2},
		{true, "7", "7", 1, 2}, // whoever has that number there
		{false, "7", "", 7, 2},
		{false, "7:8", "", 7, 8},
		{false, "web", "web", 1, 2},
	} {
		p, err := NewExec(spec, spec.Process, ExecOptions{Args: []string{"id"}, Image: x.image, User: x.flag})
		if err != nil {
			t.Fatal(err)
		}
		if u := p.Init.Process.User; u.Name != x.name || u.UID != x.uid || u.GID != x.gid {
			t.Errorf("%+v: got %+v", x, u)
		}
	}
	opt.Image, spec.Process.User.Username = "debian", "-1"
	if _, err := New(spec, opt, host()); err == nil || err.Error() != `config.json: process.user.username: user "-1" is not UID or UID:GID (numbers from 0 to 4294967294)` {
		t.Error(err)
	}
}

// TestExecTerminalOfAnImage: run -t says which terminal it is, and so does exec -t.
func TestExecTerminalOfAnImage(t *testing.T) {
	spec := execBase(t)
	for _, x := range []struct {
		image, terminal bool
		env             []string
		want            []string
	}{
		{true, true, nil, []string{"TERM=xterm", "A=1"}},
		{true, true, []string{"TERM=vt100"}, []string{"TERM=xterm", "A=1", "TERM=vt100"}}, // the last counts
		{true, false, nil, []string{"A=1"}},
		{false, true, nil, []string{"A=1"}}, // runc's
	} {
		p, err := NewExec(spec, spec.Process, ExecOptions{Args: []string{"id"}, Image: x.image, Terminal: x.terminal, Env: x.env})
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Init.Process.Env; !slices.Equal(got, x.want) {
			t.Errorf("%+v: got %q", x, got)
		}
	}
	if !slices.Equal(spec.Process.Env, []string{"A=1"}) {
		t.Errorf("the container's own became %q", spec.Process.Env)
	}
}
