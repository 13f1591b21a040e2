package bundle

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestImageCommand: Docker's rules for Entrypoint and Cmd.
func TestImageCommand(t *testing.T) {
	none, other := "", "/other"
	for _, x := range []struct {
		name             string
		entry, cmd, args []string
		option           *string
		want             string
	}{
		{"the image's", []string{"/e", "-x"}, []string{"c"}, nil, nil, "/e -x c"},
		{"only a command", nil, []string{"c", "d"}, nil, nil, "c d"},
		{"only an entrypoint", []string{"/e"}, nil, nil, nil, "/e"},
		{"arguments instead of Cmd", []string{"/e"}, []string{"c"}, []string{"a"}, nil, "/e a"},
		{"arguments only", nil, nil, []string{"a", "b"}, nil, "a b"},
		{"another entrypoint drops Cmd", []string{"/e"}, []string{"c"}, nil, &other, "/other"},
		{"another entrypoint with arguments", []string{"/e"}, []string{"c"}, []string{"a"}, &other, "/other a"},
		{"no entrypoint", []string{"/e"}, []string{"c"}, []string{"a"}, &none, "a"},
		{"no entrypoint and no arguments", []string{"/e"}, []string{"c"}, nil, &none, ""},
		{"nothing", nil, nil, nil, nil, ""},
	} {
		o := ImageOptions{Image: ImageConfig{Entrypoint: x.entry, Cmd: x.cmd}, Args: x.args, Entrypoint: x.option}
		if got := strings.Join(o.command(), " "); got != x.want {
			t.Errorf("%s: got %q, want %q", x.name, got, x.want)
		}
	}
}

func TestImageEnvironment(t *testing.T) {
	t.Setenv("OURS", "passed on")
	os.Unsetenv("THINRUN_TEST_UNSET")
	file := filepath.Join(t.TempDir(), "env")
	writeFile(t, file, "\ufeff# a comment\n\nF=1\n  INDENTED=yes \nQUOTED=\"q\"\nOURS\nTHINRUN_TEST_UNSET\nA=file\n")
	o := ImageOptions{
		Image:    ImageConfig{Env: []string{"A=image", "PATH=/bin", "THINRUN_TEST_UNSET=image", "broken", "=worse", "KEEP=a=b"}},
		EnvFiles: []string{file}, Env: []string{"A=option", "E="}, Hostname: "box", Terminal: true,
	}
	got, err := o.environment()
	want := []string{"HOSTNAME=box", "TERM=xterm", "PATH=/bin", "KEEP=a=b", "F=1", "INDENTED=yes ", "QUOTED=\"q\"", "OURS=passed on", "A=option", "E="}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got  %q, %v\nwant %q", got, err, want)
	}
	if got, err := (&ImageOptions{}).environment(); err != nil || !slices.Equal(got, []string{defaultPath}) {
		t.Errorf("got %q, %v", got, err)
	}
	writeFile(t, file, "ok=1\nnot a name=2\n")
	if _, err := o.environment(); err == nil || err.Error() != "env-file "+file+`, line 2: "not a name" is not the name of a variable` {
		t.Error(err)
	}
	o.EnvFiles = []string{file + "2"}
	if _, err := o.environment(); err == nil || !strings.HasPrefix(err.Error(), "env-file: open "+file+"2: no such file") {
		t.Error(err)
	}
}

// TestImageSaysHow: what the image says holds until an option says otherwise.
func TestImageSaysHow(t *testing.T) {
	img := ImageConfig{Cmd: []string{"c"}, User: "web", WorkingDir: "srv", StopSignal: "SIGQUIT"}
	b, err := ForImage(ImageOptions{Image: img})
	if err != nil {
		t.Fatal(err)
	}
	if p := b.Spec.Process; p.User.Username != "web" || p.Cwd != "/srv" || b.Spec.Annotations[AnnotationStopSignal] != "SIGQUIT" {
		t.Errorf("got %+v, %v", p, b.Spec.Annotations)
	}
	b, err = ForImage(ImageOptions{Image: img, User: "7:8", Cwd: "/w", StopSignal: "9", Annotations: []string{"a=b=c"}})
	if err != nil {
		t.Fatal(err)
	}
	p := b.Spec.Process
	if p.User.Username != "7:8" || p.User.UID != 7 || p.User.GID != 8 || p.Cwd != "/w" || b.Spec.Annotations[AnnotationStopSignal] != "9" || b.Spec.Annotations["a"] != "b=c" {
		t.Errorf("got %+v, %v", p, b.Spec.Annotations)
	}
	b, err = ForImage(ImageOptions{Args: []string{"a"}})
	if err != nil || b.Spec.Process.User.Username != "0" || b.Spec.Process.Cwd != "/" || b.Spec.Annotations != nil {
		t.Errorf("got %+v, %v, %v", b.Spec.Process, b.Spec.Annotations, err)
	}
}

func TestImageMounts(t *testing.T) {
	b, err := ForImage(ImageOptions{
		Args: []string{"a"}, ShmSize: "1G",
		Volumes: []string{"/host/deep:/a/b/c", "./x:/x:ro"},
		Mounts: []string{"type=bind,src=/host,dst=/a,ro,bind-propagation=rslave", "source=/plain,target=/plain,bind-nonrecursive=true",
			"type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=700", "type=bind,source=/sys,target=/sys"},
		Tmpfs: []string{"/run:exec,size=64k", "/var/tmp"},
	})
	if err != nil {
		t.Fatal(err)
	}
	here, _ := os.Getwd()
	want := []specs.Mount{
		{Destination: "/x", Type: "bind", Source: here + "/x", Options: []string{"rbind", "nosuid", "nodev", "rro", "rprivate"}},
		{Destination: "/a", Type: "bind", Source: "/host", Options: []string{"rbind", "nosuid", "nodev", "rslave", "rro"}},
		{Destination: "/plain", Type: "bind", Source: "/plain", Options: []string{"bind", "nosuid", "nodev", "rprivate"}},
		{Destination: "/t", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev", "size=1048576", "mode=700"}},
		{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "nodev", "rprivate"}},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev", "exec", "size=64k"}},
		{Destination: "/var/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "nosuid", "nodev"}},
		{Destination: "/a/b/c", Type: "bind", Source: "/host/deep", Options: []string{"rbind", "nosuid", "nodev", "rprivate"}},
	}
	got := b.Spec.Mounts[len(b.Spec.Mounts)-len(want):]
	for i, m := range want {
		if g := got[i]; g.Destination != m.Destination || g.Type != m.Type || g.Source != m.Source || !slices.Equal(g.Options, m.Options) {
			t.Errorf("got  %+v\nwant %+v", g, m)
		}
	}
	for _, m := range b.Spec.Mounts[:len(b.Spec.Mounts)-len(want)] {
		if m.Destination == "/sys" {
			t.Error("the system's own /sys is mounted as well")
		}
		if m.Destination == "/dev/shm" && !slices.Contains(m.Options, "size=1073741824") {
			t.Errorf("got %+v", m)
		}
	}
}

func TestImageLimitsAndSecurity(t *testing.T) {
	b, err := ForImage(ImageOptions{
		Args: []string{"a"}, Memory: "1g", MemorySwap: "2g", Ulimits: []string{"nofile=10:20", "core=-1", "nproc=unlimited:unlimited"},
		Security: []string{"no-new-privileges:false", "apparmor=web", "systempaths=unconfined", "seccomp=unconfined"},
	})
	if err != nil {
		t.Fatal(err)
	}
	p, l := b.Spec.Process, b.Spec.Linux
	if *l.Resources.Memory.Swap != 2<<30 || p.NoNewPrivileges || p.ApparmorProfile != "web" || l.MaskedPaths != nil || l.ReadonlyPaths != nil {
		t.Errorf("got %+v, %+v", p, l)
	}
	want := []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}, {Type: "RLIMIT_CORE", Soft: 1<<64 - 1, Hard: 1<<64 - 1}, {Type: "RLIMIT_NPROC", Soft: 1<<64 - 1, Hard: 1<<64 - 1}}
	if !slices.Equal(p.Rlimits, want) {
		t.Errorf("got %+v", p.Rlimits)
	}
	b, err = ForImage(ImageOptions{Args: []string{"a"}, Memory: "1g", MemorySwap: "-1", Security: []string{"no-new-privileges"}})
	if err != nil || *b.Spec.Linux.Resources.Memory.Swap != -1 || !b.Spec.Process.NoNewPrivileges {
		t.Errorf("got %+v, %v", b, err)
	}
}
