package lifecycle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Each is one clear line that names the object, a non-zero code, and nothing is left;
// the Runtime's cleanup looks for leftovers.
func TestBadBundle(t *testing.T) {
	rt := newRuntime(t)
	raw := func(config string) string { return testbundle.New(t).Raw([]byte(config)) }
	edit := func(change func(*specs.Spec)) string { return testbundle.New(t).Edit(change).Path() }
	for _, x := range []struct {
		name, dir string
		want      []string
	}{
		{"no bundle", "/nonexistent", []string{"/nonexistent", "no such file"}},
		{"no config", t.TempDir(), []string{"config.json", "no such file"}},
		{"empty config", raw(""), []string{"config.json"}},
		{"broken config", raw(`{"ociVersion": "1.0.0",`), []string{"config.json"}},
		{"not an object", raw(`[]`), []string{"config.json"}},
		{"wrong type", raw(`{"ociVersion": "1.0.0", "process": {"args": "sh"}}`), []string{"config.json", "process.args"}},
		{"binary", raw("\x7fELF\x02\x01\x01\x00\xff\xfe"), []string{"config.json"}},
		{"deep", raw(strings.Repeat(`{"a":`, 100000)), []string{"config.json"}},
		{"no version", edit(func(s *specs.Spec) { s.Version = "" }), []string{"ociVersion"}},
		{"version of another age", edit(func(s *specs.Spec) { s.Version = "9.0.0" }), []string{"ociVersion", "9.0.0"}},
		{"no root", edit(func(s *specs.Spec) { s.Root = nil }), []string{"root"}},
		{"root is not there", edit(func(s *specs.Spec) { s.Root.Path = "none" }), []string{"none", "no such file"}},
		{"root is a file", edit(func(s *specs.Spec) { s.Root.Path = "config.json" }), []string{"config.json"}},
		{"no process", edit(func(s *specs.Spec) { s.Process = nil }), []string{"process"}},
		{"no arguments", edit(func(s *specs.Spec) { s.Process.Args = nil }), []string{"process.args"}},
		{"relative cwd", edit(func(s *specs.Spec) { s.Process.Cwd = "srv" }), []string{"process.cwd", "srv"}},
		{"cwd is a file", edit(func(s *specs.Spec) { s.Process.Cwd = "/etc/passwd" }), []string{"/etc/passwd"}},
		{"unknown capability", edit(func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_FLY"} }), []string{"CAP_FLY"}},
		{"unknown rlimit", edit(func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_LUCK"}} }), []string{"RLIMIT_LUCK"}},
		{"unknown namespace", edit(func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "moon"})
		}), []string{"moon"}},
		{"namespace twice", edit(func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "pid"})
		}), []string{"linux.namespaces", "pid"}},
		{"mount of what is not", edit(func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: "/nonexistent/source", Type: "bind", Options: []string{"bind"}})
		}), []string{"/nonexistent/source"}},
		{"mount of an unknown kind", edit(func(s *specs.Spec) {
			s.Root.Readonly = false
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Source: "x", Type: "nosuchfs"})
		}), []string{"nosuchfs"}},
		{"unknown sysctl", edit(func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.nosuch": "1"} }), []string{"kernel.nosuch"}},
		{"image that is not", edit(func(s *specs.Spec) { s.Annotations = map[string]string{"org.thinrun.image": "nosuch"} }), []string{"nosuch"}},
		{"id maps without a namespace", edit(func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }), []string{"linux.uidMappings"}},
	} {
		for _, verb := range []string{"create", "run"} {
			id := rt.ID()
			got := rt.Run(verb, "--bundle", x.dir, id)
			if got.Code != 1 || strings.Count(got.Stderr, "\n") != 1 || len(got.Stderr) > 2000 || strings.Contains(got.Stderr, "goroutine") {
				t.Errorf("%s: want exit code 1 and one line; %v", x.name, got)
			}
			for _, part := range x.want {
				if !strings.Contains(got.Stderr, part) {
					t.Errorf("%s: the error does not say %q; %v", x.name, part, got)
				}
			}
			if _, err := os.Stat(filepath.Join(rt.Root, id)); err == nil {
				t.Errorf("%s: %s has left its state", x.name, verb)
			}
			rt.Forget(id)
		}
	}
	if left := rt.Left(rt.Before()); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// A config beyond all measure is refused before it is read.
func TestHugeConfig(t *testing.T) {
	rt := newRuntime(t)
	b := testbundle.New(t)
	f, err := os.Create(filepath.Join(b.Dir, "config.json"))
	check(t, err)
	check(t, f.Truncate(1<<40)) // sparse
	check(t, f.Close())
	rt.Fails(1, []string{"create", "--bundle", b.Dir, "x"}, "config.json")
	rt.Fails(1, []string{"create", "--config", "/dev/zero", "--bundle", b.Dir, "x"}, "/dev/zero")
	check(t, os.Remove(b.Dir+"/config.json"))
	check(t, os.Mkdir(b.Dir+"/config.json", 0o700))
	rt.Fails(1, []string{"create", "--bundle", b.Dir, "x"}, "config.json")
	rt.Fails(1, []string{"state", "x"}, "does not exist")
}

// A state directory that others could write to is not used.
func TestUntrustedStateDirectory(t *testing.T) {
	rt := newRuntime(t)
	check(t, os.MkdirAll(rt.Root, 0o777))
	check(t, os.Chmod(rt.Root, 0o777))
	for _, args := range [][]string{{"create", "--bundle", testbundle.New(t).Path(), "x"}, {"state", "x"}, {"list"}, {"delete", "--force", "x"}} {
		rt.Fails(1, args, "state directory", rt.Root)
	}
	check(t, os.RemoveAll(rt.Root))
	check(t, os.WriteFile(rt.Root, nil, 0o600))
	rt.Fails(1, []string{"create", "--bundle", testbundle.New(t).Path(), "x"}, rt.Root)
	check(t, os.Remove(rt.Root))
}
