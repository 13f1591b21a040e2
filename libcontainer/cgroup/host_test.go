package cgroup

import (
	"reflect"
	"strings"
	"testing"
)

func TestMountsInUnusualPlaces(t *testing.T) {
	mounts := parseCgroup1Mounts(`30 25 0:27 / /cg/cpu\040and\040more rw,nosuid shared:11 master:2 - cgroup cgroup rw,cpuacct,cpu
31 25 0:28 / /cg/systemd rw - cgroup systemd rw,xattr,name=systemd
32 25 0:29 / /cg/unified rw - cgroup2 cgroup2 rw
33 25 0:30 / /cgroup rw - tmpfs cgroup rw,cpuset
garbage
`)
	for name, want := range map[string]string{
		"cpu,cpuacct": "/cg/cpu and more", "name=systemd": "/cg/systemd", "cpuset": "", "cpu,memory": "",
	} {
		if got := findMount(mounts, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestPathsOfEachKindOfHost(t *testing.T) {
	v2 := Host{V2: true, Unified: Root}
	hybrid := Host{Unified: Root + "/unified", Hierarchies: []Hierarchy{{"cpu,cpuacct", Root + "/cpu,cpuacct", "/"}, {"name=systemd", Root + "/systemd", "/"}}}
	for name, test := range map[string]struct {
		host Host
		want map[string]string
	}{
		"v2": {v2, map[string]string{"": Root + "/a/b"}},
		"hybrid": {hybrid, map[string]string{
			"": Root + "/unified/a/b", "cpu": Root + "/cpu,cpuacct/a/b", "cpuacct": Root + "/cpu,cpuacct/a/b", "name=systemd": Root + "/systemd/a/b",
		}},
	} {
		c, err := New(Config{Path: "/a/b"}, test.host)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Paths(); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %v", name, got)
		}
		again, err := Open(c.Manager(), "/a/b", c.Paths(), test.host)
		if err != nil || !reflect.DeepEqual(again.Paths(), test.want) {
			t.Errorf("%s: from the record: %v, %v", name, again, err)
		}
	}
}

func TestPathsThatAreNotBelowACgroup(t *testing.T) {
	host := Host{V2: true, Unified: Root}
	for _, path := range []string{"", "/", "a", "/..", "/a/../b", "/a/", "//a", "/a\nb", "/a\x00"} {
		if _, err := New(Config{Path: path}, host); err == nil || !strings.Contains(err.Error(), "is not an absolute path below the root cgroup") {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, dir := range []string{"", "/", "/etc", Root, Root + "/", Root + "/..", Root + "/../../etc", Root + "x/a", Root + "/a/../../b"} {
		if c, err := Open(Cgroupfs, "/a", map[string]string{"": dir}, host); err == nil {
			t.Errorf("record with %q was taken: %v", dir, c)
		}
	}
	// The host was booted with other options since: nothing of the container is left.
	c, err := Open(Cgroupfs, "/a", map[string]string{"memory": Root + "/memory/a"}, host)
	if err != nil || len(c.Paths()) != 0 {
		t.Errorf("%v, %v", c, err)
	}
}

func TestManagersThatMakeNoDirectories(t *testing.T) {
	host := Host{V2: true, Unified: Root}
	if _, err := New(Config{Path: "system.slice:thinrun:web", Systemd: true}, host); err == nil || !strings.HasPrefix(err.Error(), "systemd cgroups: ") {
		t.Errorf("systemd: %v", err)
	}
	c, err := New(Config{Disabled: true, Resources: &Resources{Memory: 1}}, host)
	if err != nil || len(c.Paths()) != 0 || c.Manager() != Disabled {
		t.Errorf("disabled: %v, %v", c, err)
	}
}
