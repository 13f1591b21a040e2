package libcontainer

import (
	"reflect"
	"strings"
	"testing"

	"thinrun/image"
)

func TestChanges(t *testing.T) {
	base := func() image.Config {
		return image.Config{Cmd: []string{"old"}, Entrypoint: []string{"/e"}, Env: []string{"A=1", "B=2"}, WorkingDir: "/w", Volumes: []string{"/v"}}
	}
	for _, x := range []struct {
		name    string
		changes []string
		want    func(*image.Config)
	}{
		{"nothing", nil, func(*image.Config) {}},
		{"a list", []string{`CMD ["a", "b c"]`}, func(c *image.Config) { c.Cmd = []string{"a", "b c"} }},
		{"a line for the shell", []string{`cmd echo "$A"`}, func(c *image.Config) { c.Cmd = []string{"/bin/sh", "-c", `echo "$A"`} }},
		{"no command", []string{`CMD []`}, func(c *image.Config) { c.Cmd = []string{} }},
		{"an entrypoint drops the base's command", []string{`ENTRYPOINT ["x"]`}, func(c *image.Config) { c.Entrypoint, c.Cmd = []string{"x"}, nil }},
		{"and not its own", []string{`CMD ["y"]`, `ENTRYPOINT ["x"]`}, func(c *image.Config) { c.Entrypoint, c.Cmd = []string{"x"}, []string{"y"} }},
		{"variables", []string{`ENV A=x "C=d e" F='g "h"' I=j\ k`}, func(c *image.Config) { c.Env = []string{"B=2", "A=x", "C=d e", `F=g "h"`, "I=j k"} }},
		{"one variable", []string{"ENV A  x y"}, func(c *image.Config) { c.Env = []string{"B=2", "A=x y"} }},
		{"an empty one", []string{"ENV A="}, func(c *image.Config) { c.Env = []string{"B=2", "A="} }},
		{"a directory", []string{"WORKDIR /a/../b"}, func(c *image.Config) { c.WorkingDir = "/b" }},
		{"one below", []string{"WORKDIR c", "WORKDIR d"}, func(c *image.Config) { c.WorkingDir = "/w/c/d" }},
		{"the rest", []string{"USER web:33", "STOPSIGNAL SIGINT", `VOLUME ["/v", "/a"]`, "VOLUME /b/ /v"}, func(c *image.Config) {
			c.User, c.StopSignal, c.Volumes = "web:33", "SIGINT", []string{"/a", "/b", "/v"}
		}},
	} {
		got, want, untouched := base(), base(), base()
		x.want(&want)
		c, err := parseChanges(x.changes)
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		before := got
		c.apply(&got)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got  %+v\n want %+v", x.name, got, want)
		}
		if !reflect.DeepEqual(before, untouched) { // the base's own lists
			t.Errorf("%s: the base has become %+v", x.name, before)
		}
	}
	c, err := parseChanges([]string{"LABEL a=b c='d e'", "EXPOSE 80 53/udp 8000-8001/sctp"})
	if err != nil || !reflect.DeepEqual(c.labels, map[string]string{"a": "b", "c": "d e"}) || !reflect.DeepEqual(c.expose, []string{"80/tcp", "53/udp", "8000/sctp", "8001/sctp"}) {
		t.Errorf("got %+v, %v", c, err)
	}
	for _, text := range []string{"", "CMD", "FROM x", "RUN x", "ENV A", "ENV A=1 B", "ENV =x", `ENV A="x`, `ENV A=x\`, "LABEL x", "EXPOSE web", "EXPOSE 0", "EXPOSE 65536", "EXPOSE 9-8", "EXPOSE 80/", "EXPOSE 80/icmp", "EXPOSE 80 -1", "USER a:b:c", "USER 4294967295", "STOPSIGNAL 99", "VOLUME x", `VOLUME ["x"]`} {
		if c, err := parseChanges([]string{text}); err == nil || !strings.HasPrefix(err.Error(), "change ") {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	}
}

// TestArchitectureIsSaid: an image for another machine is refused by name, and what the
// kernel runs is not.
func TestArchitectureIsSaid(t *testing.T) {
	for _, x := range []struct{ oci, arch, want string }{
		{"", "amd64", ""},
		{`{}`, "amd64", ""},
		{`{"os":"linux","architecture":"amd64"}`, "amd64", ""},
		{`{"os":"linux","architecture":"386"}`, "amd64", ""},
		{`{"os":"linux","architecture":"arm"}`, "arm64", ""},
		{`{"os":"linux","architecture":"arm64"}`, "amd64", "image x:latest is for linux/arm64 and this machine is linux/amd64"},
		{`{"os":"linux","architecture":"amd64"}`, "arm64", "image x:latest is for linux/amd64 and this machine is linux/arm64"},
		{`{"os":"windows","architecture":"amd64"}`, "amd64", "image x:latest is for windows/amd64"},
	} {
		older := &image.Image{Name: "x:latest", OCI: []byte(x.oci)} // without a platform of its own
		of, err := older.For()
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range []*image.Image{older, {Name: "x:latest", Platform: &of, OCI: []byte("not looked at")}} {
			err := runsHere(img, x.arch)
			if x.want == "" && err != nil || x.want != "" && (err == nil || !strings.Contains(err.Error(), x.want)) {
				t.Errorf("%s on %s, %v: %v", x.oci, x.arch, img.Platform, err)
			}
		}
	}
}

// TestUnknownUsersAreUsers: a state directory that cannot be asked is not an empty one.
func TestUnknownUsersAreUsers(t *testing.T) {
	dir := t.TempDir() + "/state"
	rt := &Runtime{Root: dir, Storage: t.TempDir(), Warn: func(string) {}}
	if users := rt.usersOf("x"); len(users) != 0 {
		t.Errorf("without a state directory: %q", users)
	}
	rt.Root = "/dev/null"
	if users := rt.usersOf("x"); len(users) != 1 || !strings.Contains(users[0], "/dev/null") {
		t.Errorf("a state directory that is none: %q", users)
	}
}
