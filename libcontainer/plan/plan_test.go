package plan

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/libcontainer/bundle"
	"thinrun/nsenter"
	"thinrun/rootfs"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write testdata/*/plan.json anew")

// host is a made-up one with cgroup v2; sources without a dot or a known name are
// directories.
func host() Facts {
	return Facts{
		CgroupV2: true,
		StatSource: func(path string) (bool, error) {
			switch filepath.Base(path) {
			case "missing":
				return false, &os.PathError{Op: "stat", Path: path, Err: unix.ENOENT}
			case "resolv.conf", "hostname", "hosts", "etc-hosts", "file", "meminfo":
				return false, nil
			}
			return true, nil
		},
	}
}

func hostV1() Facts {
	f := host()
	f.CgroupV2 = false
	f.Cgroup1 = []rootfs.Cgroup1{
		{Name: "cpu,cpuacct", Options: "cpu,cpuacct", Links: []string{"cpu", "cpuacct"}, File: -1},
		{Name: "memory", Options: "memory", File: -1},
		{Name: "misc", Options: "misc", File: -1},
		{Name: "systemd", Options: "none,name=systemd", File: -1},
	}
	f.Cgroup1Paths = map[string]string{
		"cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory",
		"misc": "/sys/fs/cgroup/misc", "systemd": "/sys/fs/cgroup/systemd",
	}
	return f
}

func request() Options {
	return Options{ID: "c1", Bundle: "/bundles/c1", StateDir: "/run/thinrun/c1"}
}

// cases are the golden plans: testdata/NAME/config.json becomes testdata/NAME/plan.json.
var cases = []struct {
	name  string
	facts func() Facts
	opt   func(*Options)
}{
	{name: "runc-default"},
	{name: "docker", opt: func(o *Options) { o.SystemdCgroup = true }},
	{name: "podman"},
	{name: "kubernetes"},
	{name: "userns"},
	{name: "rootless", facts: func() Facts {
		f := host()
		f.EUID, f.OwnCgroup = 1000, "/user.slice/user-1000.slice/session-1.scope"
		return f
	}},
	{name: "cgroup1", facts: hostV1},
	{name: "all-cgroup1", facts: hostV1},
	{name: "all-cgroup2", opt: func(o *Options) { o.PreserveFDs, o.NoPivot, o.NoNewKeyring = 2, true, true }},
	{name: "image", opt: func(o *Options) { o.Image, o.RootfsSize, o.Bundle = "debian", "20G", o.StateDir }},
}

func planOf(t *testing.T, name string, raw []byte) ([]byte, error) {
	t.Helper()
	for _, c := range cases {
		if c.name != name {
			continue
		}
		facts, opt := host(), request()
		if c.facts != nil {
			facts = c.facts()
		}
		if c.opt != nil {
			c.opt(&opt)
		}
		b, err := bundle.Parse(raw)
		if err != nil {
			return nil, err
		}
		p, err := New(b.Spec, opt, facts)
		if err != nil {
			return nil, err
		}
		return json.MarshalIndent(p, "", "\t")
	}
	t.Fatalf("no case %q", name)
	return nil, nil
}

func TestGoldenPlans(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			raw, err := os.ReadFile("testdata/" + c.name + "/config.json")
			if err != nil {
				t.Fatal(err)
			}
			got, err := planOf(t, c.name, raw)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := "testdata/" + c.name + "/plan.json"
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the plan is not %s (go test -update writes it):\n%s", file, firstDifference(got, want))
			}
		})
	}
}

func firstDifference(got, want []byte) string {
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "line " + itoa(i+1) + ": got " + g[i] + "\nwant " + w[i]
		}
	}
	return "one is longer: " + itoa(len(g)) + " and " + itoa(len(w)) + " lines"
}

// TestImageConfigIsWhatRunImageMakes keeps testdata/image in step with bundle.ForImage.
func TestImageConfigIsWhatRunImageMakes(t *testing.T) {
	b, err := bundle.ForImage(bundle.ImageOptions{
		Args: []string{"make", "test"}, Env: []string{"A=b", "PATH=/bin"}, User: "1000:100", Cwd: "/src", Terminal: true,
		Hostname: "job1", Memory: "512M", CPUs: 1.5, ReadOnly: true, CapAdd: []string{"net_admin"}, CapDrop: []string{"CAP_MKNOD"},
		Volumes: []string{"/srv/data:/data:ro", "/srv/file:/file"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := json.Indent(&got, b.Raw, "", "\t"); err != nil {
		t.Fatal(err)
	}
	got.WriteByte('\n')
	const file = "testdata/image/config.json"
	if *update {
		if err := os.MkdirAll("testdata/image", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error(firstDifference(got.Bytes(), want))
	}
}

// TestPlanIsTheSameEveryTime: maps of the config do not shuffle it.
func TestPlanIsTheSameEveryTime(t *testing.T) {
	raw, err := os.ReadFile("testdata/all-cgroup2/config.json")
	if err != nil {
		t.Fatal(err)
	}
	first, err := planOf(t, "all-cgroup2", raw)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		again, err := planOf(t, "all-cgroup2", raw)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, again) {
			t.Fatal(firstDifference(again, first))
		}
	}
}

// minimal is a config with one field replaced.
func minimal(t *testing.T, change string) *bundle.Bundle {
	t.Helper()
	text := `{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"]},"root":{"path":"rootfs"},
		"linux":{"namespaces":[{"type":"mount"},{"type":"cgroup"}]}` + change + `}`
	b, err := bundle.Parse([]byte(text))
	if err != nil {
		t.Fatalf("%s: %v", change, err)
	}
	return b
}

// TestRefusals: what only the options or the host show to be wrong.
func TestRefusals(t *testing.T) {
	linux := func(fields string) string {
		return `,"linux":{"namespaces":[{"type":"mount"}],` + fields + `}`
	}
	base := func(change string) *bundle.Bundle {
		text := `{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"]},"root":{"path":"rootfs"}` + change
		if !strings.Contains(change, `"linux"`) {
			text += `,"linux":{"namespaces":[{"type":"mount"}]}`
		}
		b, err := bundle.Parse([]byte(text + "}"))
		if err != nil {
			t.Fatalf("%s: %v", change, err)
		}
		return b
	}
	mount := func(m string) string { return `,"mounts":[` + m + `]` }
	v1 := func(o *Options, f *Facts) { *f = hostV1() }
	for _, c := range []struct {
		name   string
		config string
		set    func(*Options, *Facts)
		want   string
	}{
		{"rootless without userns", "", func(o *Options, f *Facts) { f.EUID = 1000 },
			"config.json: linux.namespaces: has no user namespace; a caller without root needs one (see spec --rootless)"},
		{"size without image", "", func(o *Options, f *Facts) { o.RootfsSize = "1G" },
			"a rootfs size needs an image: root.path is a directory of the host, and has no size of its own"},
		{"size", "", func(o *Options, f *Facts) { o.Image, o.RootfsSize = "x", "many" },
			`rootfs size: "many" is not a size (a number with k, m, g or t: "512m", "20G")`},
		{"cgroup manager", "", func(o *Options, f *Facts) { o.CgroupManager = "x" },
			`cgroup manager "x" is not cgroupfs, systemd or disabled`},
		{"systemd path", linux(`"cgroupsPath":"/a/b"`), func(o *Options, f *Facts) { o.SystemdCgroup = true },
			`config.json: linux.cgroupsPath: "/a/b" is not of the form "slice:prefix:name", which systemd wants`},
		{"source", mount(`{"destination":"/a","source":"/missing","options":["bind"]}`), nil,
			`config.json: mounts[0].source: "/missing": no such file or directory`},
		{"bind data", mount(`{"destination":"/a","source":"/b","options":["bind","ro","size=1m"]}`), nil,
			`config.json: mounts[0].options[2]: "size=1m" is not an option of a bind mount`},
		{"tmpcopyup", mount(`{"destination":"/a","type":"proc","options":["ro","tmpcopyup"]}`), nil,
			`config.json: mounts[0].options[1]: "tmpcopyup" needs type "tmpfs"`},
		{"idmap without bind", mount(`{"destination":"/a","type":"tmpfs","options":["idmap"]}`), nil,
			"config.json: mounts[0].options[0]: only bind mounts can have ids mapped"},
		{"idmap without mappings", mount(`{"destination":"/a","source":"/b","options":["bind","idmap"]}`), nil,
			"config.json: mounts[0].options[1]: needs uidMappings and gidMappings, here or of a user namespace in linux"},
		{"inline idmap", mount(`{"destination":"/a","source":"/b","options":["bind","idmap=uids=1-2"]}`), nil,
			`config.json: mounts[0].options[1]: "uids=1-2" is not of the form "uids=0-100000-65536;gids=0-100000-65536"`},
		{"nofollow without bind", mount(`{"destination":"/a","type":"tmpfs","options":["src-nofollow"]}`), nil,
			"config.json: mounts[0].options: src-nofollow, dest-nofollow and copy-symlink belong to bind mounts"},
		{"bind on /proc", mount(`{"destination":"/proc","source":"/b","options":["bind"]}`), nil,
			`config.json: mounts[0].source: "/b" is not a procfs; nothing else may be on /proc`},
		{"bind on /proc by another name", mount(`{"destination":"/x/../proc/.","source":"/b","options":["bind"]}`), nil,
			`config.json: mounts[0].source: "/b" is not a procfs; nothing else may be on /proc`},
		{"cgroup v1 options", mount(`{"destination":"/a","type":"cgroup","options":["ro","memory"]}`), v1,
			`config.json: mounts[0].options[1]: "memory" is not possible: the mount shows all hierarchies of the host`},
		{"no-pivot", linux(`"rootfsPropagation":"private"`), func(o *Options, f *Facts) { o.NoPivot = true },
			`config.json: linux.rootfsPropagation: "private" is not safe with --no-pivot: the host's mounts stay reachable`},
		{"unified on v1", linux(`"resources":{"unified":{"a.b":"1"}}`), v1,
			"config.json: linux.resources.unified: needs cgroup v2; this host has v1"},
		{"swappiness on v2", linux(`"resources":{"memory":{"swappiness":1}}`), nil,
			"config.json: linux.resources.memory.swappiness: needs cgroup v1; v2 has one value for the host"},
		{"oom killer on v2", linux(`"resources":{"memory":{"disableOOMKiller":true}}`), nil,
			"config.json: linux.resources.memory.disableOOMKiller: needs cgroup v1"},
		{"swap alone on v2", linux(`"resources":{"memory":{"swap":1}}`), nil,
			"config.json: linux.resources.memory.swap: needs memory.limit too; it is memory and swap together"},
		{"rt on v2", linux(`"resources":{"cpu":{"realtimeRuntime":1}}`), nil,
			"config.json: linux.resources.cpu.realtimeRuntime: needs cgroup v1; v2 does not control realtime scheduling"},
		{"rt period on v2", linux(`"resources":{"cpu":{"realtimePeriod":1}}`), nil,
			"config.json: linux.resources.cpu.realtimePeriod: needs cgroup v1; v2 does not control realtime scheduling"},
		{"leafWeight on v2", linux(`"resources":{"blockIO":{"leafWeight":10}}`), nil,
			"config.json: linux.resources.blockIO.leafWeight: needs cgroup v1 and the CFQ scheduler"},
		{"device leafWeight on v2", linux(`"resources":{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":10}]}}`), nil,
			"config.json: linux.resources.blockIO.weightDevice[0].leafWeight: needs cgroup v1 and the CFQ scheduler"},
		{"classID on v2", linux(`"resources":{"network":{"classID":1}}`), nil,
			"config.json: linux.resources.network.classID: needs cgroup v1 (net_cls)"},
		{"priorities on v2", linux(`"resources":{"network":{"priorities":[{"name":"eth0","priority":1}]}}`), nil,
			"config.json: linux.resources.network.priorities: needs cgroup v1 (net_prio)"},
		{"sysctl in the host's netns", `,"linux":{"namespaces":[{"type":"mount"},{"type":"network","path":"/proc/1/ns/net"}],"sysctl":{"net.a":"1"}}`,
			func(o *Options, f *Facts) { f.HostNetwork = func(string) (bool, error) { return true, nil } },
			`config.json: linux.sysctl["net.a"]: would be set for the host: the network namespace is the host's own`},
	} {
		opt, facts := request(), host()
		if c.set != nil {
			c.set(&opt, &facts)
		}
		_, err := New(base(c.config).Spec, opt, facts)
		if err == nil || err.Error() != c.want {
			t.Errorf("%s:\n got  %v\n want %s", c.name, err, c.want)
		}
	}
	b := minimal(t, "")
	b.Spec.Process.User.AdditionalGids = []uint32{1}
	facts := host()
	facts.SetgroupsDenied = true
	if _, err := New(b.Spec, request(), facts); err == nil || !strings.Contains(err.Error(), "process.user.additionalGids: cannot be set") {
		t.Errorf("groups without setgroups: %v", err)
	}
	b = minimal(t, "")
	b.Spec.Root = nil
	if _, err := New(b.Spec, request(), host()); err == nil || !strings.HasPrefix(err.Error(), "config.json: root: is missing") {
		t.Errorf("without root: %v", err)
	}
	_, err := New(base(mount(`{"destination":"/a","source":"/missing","options":["bind"]}`)).Spec, request(), host())
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("a missing source is not ENOENT: %v", err)
	}
}

// TestJoinedUserNamespace: containerd gives path and mappings; only the true ones pass,
// and with the path alone the namespace's own are used.
func TestJoinedUserNamespace(t *testing.T) {
	const user = `"namespaces":[{"type":"mount"},{"type":"user","path":"/proc/7/ns/user"}]`
	parse := func(fields string) *bundle.Bundle {
		b, err := bundle.Parse([]byte(`{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"]},"root":{"path":"rootfs"},
			"mounts":[{"destination":"/a","source":"/b","options":["bind","idmap"]}],"linux":{` + user + fields + `}}`))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const given = `,"uidMappings":[{"containerID":0,"hostID":10,"size":5}],"gidMappings":[{"containerID":0,"hostID":20,"size":5}]`
	facts := host()
	facts.UserNSMappings = func(path string) (uid, gid []nsenter.Mapping, err error) {
		if path != "/proc/7/ns/user" {
			t.Errorf("asked for %s", path)
		}
		return []nsenter.Mapping{{ContainerID: 0, HostID: 10, Size: 5}}, []nsenter.Mapping{{ContainerID: 0, HostID: 20, Size: 5}}, nil
	}
	for _, fields := range []string{"", given} {
		p, err := New(parse(fields).Spec, request(), facts)
		if err != nil {
			t.Fatalf("%q: %v", fields, err)
		}
		m := p.Init.Rootfs.Mounts[0].IDMap
		if m == nil || m.UIDMappings[0].HostID != 10 || m.GIDMappings[0].HostID != 20 {
			t.Errorf("%q: mapped by %+v", fields, m)
		}
		if len(p.Namespaces.UIDMappings) != 0 {
			t.Errorf("%q: would write the mappings of a namespace that has them", fields)
		}
	}
	other := strings.Replace(given, `"hostID":20`, `"hostID":21`, 1)
	if _, err := New(parse(other).Spec, request(), facts); err == nil ||
		err.Error() != "config.json: linux.gidMappings: are not those of the user namespace that is joined" {
		t.Errorf("foreign mappings: %v", err)
	}
	// One that is bind-mounted tells no maps: it can be joined, and the config's are
	// believed; without any, an id-mapped mount cannot be made.
	facts.UserNSMappings = func(string) (uid, gid []nsenter.Mapping, err error) { return nil, nil, unix.EINVAL }
	if _, err := New(parse(given).Spec, request(), facts); err != nil {
		t.Errorf("unreadable, mappings given: %v", err)
	}
	if _, err := New(parse("").Spec, request(), facts); err == nil ||
		err.Error() != `config.json: linux.namespaces[1].path: "/proc/7/ns/user": invalid argument` {
		t.Errorf("unreadable, none given: %v", err)
	}
	b := parse("")
	b.Spec.Mounts = nil
	if _, err := New(b.Spec, request(), facts); err != nil {
		t.Errorf("unreadable, and nobody needs it: %v", err)
	}
}
