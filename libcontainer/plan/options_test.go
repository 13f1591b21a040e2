package plan

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"thinrun/libcontainer/bundle"
	"thinrun/nsenter"
	"thinrun/rootfs"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountOf plans one mount entry.
func mountOf(t *testing.T, m specs.Mount) rootfs.Mount {
	t.Helper()
	b := minimal(t, "")
	b.Spec.Mounts = []specs.Mount{m}
	if err := bundle.Validate(b.Spec); err != nil {
		t.Fatal(err)
	}
	p, err := New(b.Spec, request(), host())
	if err != nil {
		t.Fatalf("%v: %v", m.Options, err)
	}
	return p.Init.Rootfs.Mounts[0]
}

// TestMountOptionFlags: each word on a new file system and on a bind.
func TestMountOptionFlags(t *testing.T) {
	const atime = unix.MOUNT_ATTR__ATIME
	for _, c := range []struct {
		options              string
		attr, super          uint64 // type tmpfs
		bindAttr, bindClear  uint64
		recAttr, recAttrClea uint64
	}{
		{options: "ro", attr: unix.MOUNT_ATTR_RDONLY, super: unix.MS_RDONLY, bindAttr: unix.MOUNT_ATTR_RDONLY},
		{options: "rw", bindClear: unix.MOUNT_ATTR_RDONLY},
		{options: "ro,rw", bindClear: unix.MOUNT_ATTR_RDONLY},
		{options: "rw,ro", attr: unix.MOUNT_ATTR_RDONLY, super: unix.MS_RDONLY, bindAttr: unix.MOUNT_ATTR_RDONLY},
		{options: "nosuid,nodev,noexec", attr: 14, bindAttr: 14},
		{options: "suid,dev,exec", bindClear: 14},
		{options: "nodiratime", attr: unix.MOUNT_ATTR_NODIRATIME, bindAttr: unix.MOUNT_ATTR_NODIRATIME},
		{options: "diratime", bindClear: unix.MOUNT_ATTR_NODIRATIME},
		{options: "nosymfollow", attr: unix.MOUNT_ATTR_NOSYMFOLLOW, bindAttr: unix.MOUNT_ATTR_NOSYMFOLLOW},
		{options: "symfollow", bindClear: unix.MOUNT_ATTR_NOSYMFOLLOW},
		{options: "noatime", attr: unix.MOUNT_ATTR_NOATIME, bindAttr: unix.MOUNT_ATTR_NOATIME, bindClear: atime},
		{options: "strictatime", attr: unix.MOUNT_ATTR_STRICTATIME, bindAttr: unix.MOUNT_ATTR_STRICTATIME, bindClear: atime},
		{options: "noatime,strictatime", attr: unix.MOUNT_ATTR_STRICTATIME, bindAttr: unix.MOUNT_ATTR_STRICTATIME, bindClear: atime},
		{options: "relatime", bindClear: atime},
		{options: "norelatime", bindClear: atime},
		{options: "nostrictatime", bindClear: atime},
		{options: "atime", bindClear: atime},
		{options: "sync,dirsync,mand,lazytime,iversion,silent",
			super: unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_MANDLOCK | unix.MS_LAZYTIME | unix.MS_I_VERSION | unix.MS_SILENT},
		{options: "async,nomand,nolazytime,noiversion,loud,defaults"},
		{options: "rro", recAttr: unix.MOUNT_ATTR_RDONLY},
		{options: "rro,rrw", recAttrClea: unix.MOUNT_ATTR_RDONLY},
		{options: "rrw,rro", recAttr: unix.MOUNT_ATTR_RDONLY},
		{options: "rnosuid,rnodev,rnoexec,rnodiratime,rnosymfollow",
			recAttr: 14 | unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR_NOSYMFOLLOW},
		{options: "rsuid,rdev,rexec,rdiratime,rsymfollow",
			recAttrClea: 14 | unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR_NOSYMFOLLOW},
		// mount_setattr(2) refuses a part of the atime field in attr_clr.
		{options: "rnoatime", recAttr: unix.MOUNT_ATTR_NOATIME, recAttrClea: atime},
		{options: "rstrictatime", recAttr: unix.MOUNT_ATTR_STRICTATIME, recAttrClea: atime},
		{options: "rnoatime,rstrictatime", recAttr: unix.MOUNT_ATTR_STRICTATIME, recAttrClea: atime},
		{options: "rrelatime", recAttrClea: atime},
		{options: "ratime", recAttrClea: atime},
		{options: "rnorelatime", recAttrClea: atime},
		{options: "rnostrictatime", recAttrClea: atime},
	} {
		words := strings.Split(c.options, ",")
		m := mountOf(t, specs.Mount{Destination: "/a", Type: "tmpfs", Options: words})
		if m.Kind != rootfs.KindFS || m.Attr != c.attr || m.SuperFlags != c.super || m.AttrClear != 0 || len(m.Options) != 0 {
			t.Errorf("tmpfs %s: attr %#x super %#x data %q, want %#x %#x", c.options, m.Attr, m.SuperFlags, m.Options, c.attr, c.super)
		}
		if m.RecAttr != c.recAttr || m.RecAttrClear != c.recAttrClea {
			t.Errorf("tmpfs %s: recursive %#x clear %#x, want %#x %#x", c.options, m.RecAttr, m.RecAttrClear, c.recAttr, c.recAttrClea)
		}
		m = mountOf(t, specs.Mount{Destination: "/a", Source: "/b", Options: append(words, "bind")})
		if m.Kind != rootfs.KindBind || m.Attr != c.bindAttr || m.AttrClear != c.bindClear || m.SuperFlags != 0 {
			t.Errorf("bind %s: attr %#x clear %#x super %#x, want %#x %#x 0", c.options, m.Attr, m.AttrClear, m.SuperFlags, c.bindAttr, c.bindClear)
		}
	}
}

// TestEveryWordIsTaken: nothing that features lists falls through to the file system.
func TestEveryWordIsTaken(t *testing.T) {
	words := MountOptions()
	if len(words) != 33+18+8+6 {
		t.Errorf("%d words", len(words))
	}
	if !slices.IsSorted(words) || len(slices.Compact(slices.Clone(words))) != len(words) {
		t.Errorf("not sorted, or twice: %v", words)
	}
	for _, w := range words {
		if o := parseOptions([]string{w}); len(o.data) != 0 {
			t.Errorf("%s is passed on to the file system", w)
		}
		if w == "defaults" || w == "rnorelatime" {
			continue // they change nothing, or only together with others
		}
		if o := parseOptions([]string{w}); reflect.DeepEqual(o, parseOptions(nil)) {
			t.Errorf("%s has no effect", w)
		}
	}
}

func TestPropagationKeepsItsOrder(t *testing.T) {
	m := mountOf(t, specs.Mount{Destination: "/a", Source: "/b", Options: []string{"rbind", "rslave", "shared", "rprivate", "unbindable"}})
	want := []uint64{unix.MS_SLAVE | unix.MS_REC, unix.MS_SHARED, unix.MS_PRIVATE | unix.MS_REC, unix.MS_UNBINDABLE}
	if !slices.Equal(m.Propagation, want) || !m.Recursive {
		t.Errorf("got %#x, recursive %v", m.Propagation, m.Recursive)
	}
}

// TestDataOptions: commas as mount(2)'s string has them.
func TestDataOptions(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []string
	}{
		{"mode=755", []string{"mode=755"}},
		{"size=1m,mode=755", []string{"size=1m", "mode=755"}},
		{`lowerdir=/a\,b:/c,upperdir=/u`, []string{`lowerdir=/a\,b:/c`, "upperdir=/u"}},
		{`context="u:r:t:s0:c1,c2",x`, []string{"context=u:r:t:s0:c1,c2", "x"}},
		{",,a,,", []string{"a"}},
		{`a\`, []string{`a\`}},
		{`a,b\`, []string{"a", `b\`}},
	} {
		if got := splitData(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
}

func TestInlineIDMap(t *testing.T) {
	container := []nsenter.Mapping{{ContainerID: 0, HostID: 100000, Size: 10}}
	uid, gid, ok := inlineIDMap("uids=0-5-2#@2-3-4;gids=1-6-1", container, container)
	want := []nsenter.Mapping{{ContainerID: 0, HostID: 5, Size: 2}, {ContainerID: 2, HostID: 100003, Size: 4}}
	if !ok || !slices.Equal(uid, want) || !slices.Equal(gid, []nsenter.Mapping{{ContainerID: 1, HostID: 6, Size: 1}}) {
		t.Errorf("got %v %v %v", uid, gid, ok)
	}
	for _, bad := range []string{
		"", "uids=0-0-1", "gids=0-0-1", "uids=;gids=", "uids=0-0;gids=0-0-1", "uids=0-0-0;gids=0-0-1", "uids=-1-0-1;gids=0-0-1",
		"uids=0-0-1;gids=0-0-1;x=1", "uids=@0-9-2;gids=0-0-1", "uids=@0-4294967294-4;gids=0-0-1", "uids=0-0-4294967296;gids=0-0-1",
	} {
		if uid, gid, ok := inlineIDMap(bad, container, container); ok {
			t.Errorf("%q was read as %v %v", bad, uid, gid)
		}
	}
}

func TestCgroupPaths(t *testing.T) {
	for _, c := range []struct {
		name, path string
		set        func(*Options, *Facts)
		want       string
	}{
		{"default", "", nil, "/c1"},
		{"absolute", "/a/b", nil, "/a/b"},
		{"relative", "a/b", nil, "/a/b"},
		{"escape", "../../a", nil, "/a"},
		{"absolute escape", "/../../a/./b", nil, "/a/b"},
		{"rootless default", "", func(o *Options, f *Facts) { o.Rootless, f.OwnCgroup = true, "/u/s/own" }, "/u/s/c1"},
		{"rootless relative", "x", func(o *Options, f *Facts) { o.Rootless, f.OwnCgroup = true, "/u/s/own" }, "/u/s/x"},
		{"rootless at the root", "", func(o *Options, f *Facts) { o.Rootless, f.OwnCgroup = true, "/" }, "/c1"},
		{"systemd default", "", func(o *Options, f *Facts) { o.SystemdCgroup = true }, "system.slice:thinrun:c1"},
		{"systemd", "a.slice:b:c", func(o *Options, f *Facts) { o.CgroupManager = "systemd" }, "a.slice:b:c"},
		{"systemd overridden", "/x", func(o *Options, f *Facts) { o.SystemdCgroup, o.CgroupManager = true, "cgroupfs" }, "/x"},
		{"disabled", "/x", func(o *Options, f *Facts) { o.CgroupManager = "disabled" }, ""},
	} {
		b := minimal(t, "")
		b.Spec.Linux.CgroupsPath = c.path
		opt, facts := request(), host()
		if c.set != nil {
			c.set(&opt, &facts)
		}
		p, err := New(b.Spec, opt, facts)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if p.Cgroup.Path != c.want {
			t.Errorf("%s: got %q, want %q", c.name, p.Cgroup.Path, c.want)
		}
	}
}

// TestPidsLimit: since runtime-spec 1.3 absent, 0 and negative are three things.
func TestPidsLimit(t *testing.T) {
	for _, c := range []struct {
		in   *int64
		want string
	}{{nil, "none"}, {new(int64), "0"}, {ptr[int64](-5), "-1"}, {ptr[int64](7), "7"}} {
		r, err := Resources(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: c.in}}, host())
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		if r.PidsLimit != nil {
			got = itoa(*r.PidsLimit)
		}
		if got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
}

func ptr[T any](v T) *T { return &v }

// TestCgroup2InAUserNamespaceWithoutItsOwnCgroupNamespace is CVE-2023-25809.
func TestCgroup2InAUserNamespaceWithoutItsOwnCgroupNamespace(t *testing.T) {
	b, err := bundle.Parse([]byte(`{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"]},"root":{"path":"r"},
		"mounts":[{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["rw"]}],
		"linux":{"namespaces":[{"type":"mount"},{"type":"user"}],"uidMappings":[{"hostID":5,"size":1}],"gidMappings":[{"hostID":5,"size":1}]}}`))
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(b.Spec, request(), host())
	if err != nil {
		t.Fatal(err)
	}
	m := p.Init.Rootfs.Mounts[0]
	if m.Attr&unix.MOUNT_ATTR_RDONLY == 0 {
		t.Errorf("writable: %+v", m)
	}
	if m.File != 0 || p.Sources[0].Path != "/sys/fs/cgroup" || p.Cgroup.OwnerUID != nil {
		t.Errorf("got %+v, sources %+v, owner %v", m, p.Sources, p.Cgroup.OwnerUID)
	}
}

func TestBindOfTheHostsDevLeavesItAlone(t *testing.T) {
	b := minimal(t, `,"mounts":[{"destination":"/dev/","source":"/dev","options":["rbind"]}]`)
	p, err := New(b.Spec, request(), host())
	if err != nil {
		t.Fatal(err)
	}
	if p.Init.Rootfs.SetupDev {
		t.Error("would make nodes in the host's /dev")
	}
	b = minimal(t, `,"mounts":[{"destination":"/dev/x","source":"/dev","options":["rbind"]}]`)
	if p, err = New(b.Spec, request(), host()); err != nil || !p.Init.Rootfs.SetupDev {
		t.Errorf("no /dev is made: %v", err)
	}
}
