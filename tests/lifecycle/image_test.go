package lifecycle

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// withImage is a runtime that has an image "base", on dm-thin where the kernel has it.
func withImage(t *testing.T) *testbundle.Runtime {
	t.Helper()
	rt := newRuntime(t)
	t.Cleanup(func() {
		for _, id := range lines(rt.OK("list", "-q")) {
			if id != "" {
				rt.OK("delete", "--force", id)
			}
		}
		if box.InLab() {
			rt.OK("pool", "destroy", "--force")
		}
	})
	if box.InLab() {
		rt.OK("pool", "create", "--data-size", "512M", "--base-size", "1G")
	}
	source := t.TempDir()
	testbundle.Rootfs(t, source)
	check(t, os.WriteFile(source+"/etc/marker", []byte("of the image\n"), 0o644))
	check(t, os.WriteFile(source+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n"), 0o644))
	check(t, os.WriteFile(source+"/etc/group", []byte("root:x:0:\nuser:x:1001:\nmail:x:7:user\nwheel:x:8:root,user\n"), 0o644))
	got := rt.Run("image", "import", "base", source)
	if driver := map[bool]string{true: "devmapper", false: "overlay"}[box.InLab()]; got.Code != 0 || !regexp.MustCompile(`^base:latest \S+ \S+ \(`+driver+`\)\n$`).MatchString(got.Stdout) {
		t.Fatal(got)
	}
	if !box.InLab() { // from here on without the line why
		if !strings.Contains(got.Stderr, "storage: overlay, because") {
			t.Errorf("not a word why: %v", got)
		}
		rt.Globals = []string{"--storage-driver", "overlay"}
	}
	return rt
}

func TestRunImage(t *testing.T) {
	rt := withImage(t)
	volume := t.TempDir()
	check(t, os.WriteFile(volume+"/file", []byte("of the host\n"), 0o644))
	envFile := t.TempDir() + "/env"
	check(t, os.WriteFile(envFile, []byte("# of a job\nA=file\nB=file\n"), 0o644))
	ns, err := os.Readlink("/proc/self/ns/net")
	check(t, err)
	for _, x := range []struct {
		name   string
		flags  []string
		script string
		want   string
	}{
		{"root", nil, "cat /etc/marker; echo new > /etc/marker; cat /etc/marker; echo $$", "of the image\nnew\n1\n"},
		{"Docker's --rm", []string{"--rm"}, "echo x", "x\n"},
		{"again", nil, "cat /etc/marker", "of the image\n"},
		{"localhost", []string{"--read-only"}, "cat /etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
		{"env", []string{"-e", "A=b,c", "-e", "C=d"}, "echo $A $C", "b,c d\n"},
		{"user", []string{"-u", "1000:1000"}, "id -u; id -g; id -G; echo $HOME", "1000\n1000\n1000\n/home/user\n"},
		{"user by name", []string{"-u", "user"}, "id -u; id -g; id -G; echo $HOME", "1000\n1001\n1001 7 8\n/home/user\n"},
		{"user by number", []string{"-u", "1000"}, "id -G", "1001 7 8\n"},
		{"user and group by name", []string{"-u", "user:wheel"}, "id -u; id -G", "1000\n8\n"},
		{"root by default", nil, "id -u; id -G; echo $HOME", "0\n0 8\n/root\n"},
		{"env-file", []string{"--env-file", envFile, "-e", "B=option"}, "echo $A $B", "file option\n"},
		{"hostname is told", []string{"--hostname", "named"}, "echo $HOSTNAME", "named\n"},
		{"tmpfs", []string{"--tmpfs", "/scratch:size=64k"}, "df -k /scratch | tail -1 | cut -c1-5; grep -c '/scratch tmpfs.*noexec' /proc/mounts", "tmpfs\n1\n"},
		{"mount", []string{"--mount", "type=bind,source=" + volume + ",target=/data,readonly"}, "cat /data/file; echo x > /data/file 2>/dev/null || echo refused", "of the host\nrefused\n"},
		{"shm", []string{"--shm-size", "1m"}, "grep -c 'shm /dev/shm.*size=1024k' /proc/mounts", "1\n"},
		{"ulimit", []string{"--ulimit", "nofile=77:88"}, "ulimit -n; ulimit -Hn", "77\n88\n"},
		{"new privileges", []string{"--security-opt", "no-new-privileges=false"}, "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n"},
		{"no filter", []string{"--security-opt", "seccomp=unconfined"}, "grep Seccomp: /proc/self/status", "Seccomp:\t0\n"},
		{"filter", nil, "grep Seccomp: /proc/self/status", "Seccomp:\t2\n"},
		{"entrypoint", []string{"--entrypoint", "/bin/echo"}, "x", "sh -c x\n"},
		{"workdir", []string{"-w", "/tmp"}, "pwd", "/tmp\n"},
		{"new workdir", []string{"--workdir", "/made/for/me"}, "pwd", "/made/for/me\n"},
		{"hostname", []string{"--hostname", "named"}, "hostname", "named\n"},
		{"volume", []string{"-v", volume + ":/data"}, "cat /data/file; echo x > /data/written; cat /data/written", "of the host\nx\n"},
		{"read-only volume", []string{"-v", volume + ":/data:ro"}, "echo x > /data/file 2>/dev/null || echo refused", "refused\n"},
		{"read-only", []string{"--read-only"}, "echo x > /file 2>/dev/null || echo refused", "refused\n"},
		{"terminal", []string{"-t"}, "tty", "/dev/pts/0\n"},
		{"letters together", []string{"-it"}, "tty", "/dev/pts/0\n"},
		{"lo only", nil, "ip -o link | wc -l; ip -o addr show lo | grep -c 127.0.0.1", "1\n1\n"},
		{"net none", []string{"--net", "none"}, "test $(readlink /proc/self/ns/net) != '" + ns + "' && echo own", "own\n"},
		{"net host", []string{"--net", "host"}, "readlink /proc/self/ns/net", ns + "\n"},
		{"net path", []string{"--net", "/proc/self/ns/net"}, "readlink /proc/self/ns/net", ns + "\n"},
		{"no capabilities", []string{"--cap-drop", "ALL"}, "grep CapEff /proc/self/status", "CapEff:\t0000000000000000\n"},
		{"one capability", []string{"--cap-drop", "ALL", "--cap-add", "NET_ADMIN"}, "grep CapBnd /proc/self/status", "CapBnd:\t0000000000001000\n"},
		{"pids", []string{"--pids-limit", "5"}, "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done 2>/dev/null; echo $(ps | grep -c '[s]leep 1000')", ""},
		{"short after long", []string{"--env", "A=1", "-e", "B=2"}, "echo $A$B", "12\n"},
	} {
		args := append(append([]string{"run", "--image", "base"}, x.flags...), rt.ID(), "sh", "-c", x.script)
		got := rt.Run(args...)
		if x.name == "pids" { // the shell cannot fork any more, in whatever words
			if strings.Contains(got.Stdout, "8") || got.Code == 0 && strings.TrimSpace(got.Stdout) == "" {
				t.Errorf("%s: %v", x.name, got)
			}
			continue
		}
		if got.Code != 0 || strings.ReplaceAll(got.Stdout, "\r\n", "\n") != x.want {
			t.Errorf("%s: want %q; %v", x.name, x.want, got)
		}
	}
	id := rt.ID()
	if got := rt.OK("run", "--image", "base", id, "hostname"); got != id+"\n" {
		t.Errorf("hostname by default: %q, want %q", got, id)
	}
	if got := rt.Run("run", "--image", "base", rt.ID(), "sh", "-c", "exit 42"); got.Code != 42 {
		t.Error(got)
	}
	// Limits that are too low for our own init are named, in one line.
	rt.Fails(1, []string{"run", "--image", "base", "--memory", "4096", rt.ID(), "true"}, "memory limit")
	for _, limit := range []string{"1", "4"} {
		rt.Fails(1, []string{"run", "--image", "base", "--pids-limit", limit, rt.ID(), "true"}, "the pids limit of "+limit)
	}
	// A limit at which init dies at one moment or another, or the program does (137).
	for range 20 {
		got := rt.Run("run", "--image", "base", "--memory", "1m", rt.ID(), "true")
		if got.Code != 0 && got.Code != 137 && !(got.Code == 1 && strings.Contains(got.Stderr, "memory limit")) {
			t.Error(got)
		}
	}
	for _, x := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--memory", "lots"}, "lots"},
		{[]string{"--cpus", "-1"}, "cpus"},
		{[]string{"--net", "bridge"}, "bridge"},
		{[]string{"--net", "/nonexistent"}, "/nonexistent"},
		{[]string{"--cap-add", "FLY"}, "FLY"},
		{[]string{"--user", "nobody"}, `user "nobody": the container's /etc/passwd: there is no such user`},
		{[]string{"--user", "user:staff"}, `group "staff": the container's /etc/group: there is no such group`},
		{[]string{"--user", "4294967296"}, `"4294967296"`},
		{[]string{"--privileged"}, "--privileged"},
		{[]string{"--rm", "--detach"}, "--rm"},
		{[]string{"--security-opt", "label=disable"}, "label=disable"},
		{[]string{"--stop-signal", "SIGNOT"}, "SIGNOT"},
		{[]string{"--env-file", "/nonexistent"}, "/nonexistent"},
		{[]string{"--mount", "type=bind,source=/nonexistent,target=/x"}, "/nonexistent"},
		{[]string{"-w", "/proc/self/fd/3/made"}, "process.cwd"}, // CVE-2024-21626
		{[]string{"-v", "/nonexistent:/data"}, "/nonexistent"},
		{[]string{"-v", "relative"}, "relative"},
		{[]string{"-w", "relative"}, "relative"},
		{[]string{"--hostname", strings.Repeat("x", 100)}, "hostname"},
		{[]string{"--rootfs-size", "1"}, "1 bytes"},
	} {
		if x.flags[0] == "--rootfs-size" && !box.InLab() {
			continue // overlay has no sizes to be wrong
		}
		rt.Fails(1, append(append([]string{"run", "--image", "base"}, x.flags...), "x", "true"), x.want)
	}
	rt.Fails(1, []string{"run", "--image", "base", "x"}, "no command")
	rt.Fails(1, []string{"run", "--image", "base", "x", "nosuch"}, `exec: "nosuch": executable file not found in $PATH`)
	rt.Fails(1, []string{"run", "--image", "nosuch", "x", "true"}, "nosuch")
	rt.Fails(1, []string{"state", "x"}, "does not exist")
}

func TestRunImageLimits(t *testing.T) {
	rt := withImage(t)
	id := rt.ID()
	rt.OK("run", "--detach", "--image", "base", "--memory", "64M", "--cpus", "0.5", "--pids-limit", "40", id, "sleep", "100000")
	paths := cgroupPaths(t, rt, id)
	limit := func(want string, files ...string) {
		t.Helper()
		for _, dir := range paths {
			for _, file := range files {
				if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
					if strings.TrimSpace(string(data)) != want {
						t.Errorf("%s: %q, want %s", file, data, want)
					}
					return
				}
			}
		}
		t.Errorf("none of %q in %v", files, paths)
	}
	limit("67108864", "memory.max", "memory.limit_in_bytes")
	limit("40", "pids.max")
	if _, v1 := paths["cpu"]; v1 {
		limit("50000", "cpu.cfs_quota_us")
	} else {
		limit("50000 100000", "cpu.max")
	}
	rt.OK("delete", "--force", id)
}

// An exec counts in the container's limits before it is the program.
func TestExecAtTheLimits(t *testing.T) {
	rt := withImage(t)
	id := rt.ID()
	rt.OK("run", "--detach", "--image", "base", "--pids-limit", "5", id, "sleep", "100000")
	rt.Fails(255, []string{"exec", id, "true"}, "the pids limit of 5 has room for 4 more")
	rt.OK("delete", "--force", id)

	// What has no room is the exec, our stage or its program, and not the container.
	id = rt.ID()
	cmd := rt.Command("run", "--image", "base", "--memory", "16M", "--shm-size", "30M", id,
		"sh", "-c", "head -c 14700k /dev/zero >/dev/shm/full; echo full; sleep 100000; :")
	until(t, startPiped(t, rt, cmd), "full\n")
	for range 8 {
		if got := rt.Run("exec", id, "true"); got.Code != 0 && got.Code != 137 && !(got.Code == 255 && strings.Contains(got.Stderr, "memory limit")) {
			t.Error(got)
		}
	}
	if out := rt.OK("state", id); !strings.Contains(out, `"running"`) {
		t.Error(out)
	}
	rt.OK("delete", "--force", id)
	rt.Wait(cmd)
}

// Two containers of one image, a user namespace, and the images' own commands.
func TestImages(t *testing.T) {
	rt := withImage(t)
	one, two := rt.ID(), rt.ID()
	for _, id := range []string{one, two} {
		rt.OK("run", "--detach", "--image", "base", id, "sleep", "100000")
		rt.OK("exec", id, "sh", "-c", "echo "+id+" > /etc/marker")
	}
	for _, id := range []string{one, two} {
		if got := rt.OK("exec", id, "cat", "/etc/marker"); got != id+"\n" {
			t.Errorf("%s sees %q", id, got)
		}
	}
	if got := rt.Run("image", "rm", "base"); got.Code != 1 || !strings.Contains(got.Stderr, one) && !strings.Contains(got.Stderr, two) {
		t.Errorf("rm of an image in use: %v", got)
	}
	rt.OK("delete", "--force", one)
	rt.OK("delete", "--force", two)

	b := testbundle.New(t).Image("base").Shell("id -u; cat /etc/marker; stat -c %u /etc/marker; echo mine > /etc/marker && cat /etc/marker").Writable()
	b.Join(specs.UserNamespace, "")
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	b.Spec.Linux.UIDMappings, b.Spec.Linux.GIDMappings = ids, ids
	switch got := rt.Run("run", "--bundle", b.Path(), rt.ID()); {
	case box.InLab() && (got.Stdout != "0\nof the image\n0\nmine\n" || got.Stderr != ""):
		t.Errorf("in a user namespace: %v", got)
	case !box.InLab() && !strings.Contains(got.Stderr, "overlay does not map"): // and says so
		t.Errorf("in a user namespace: %v", got)
	}

	if out := rt.OK("image", "list"); !regexp.MustCompile(`^NAME +SIZE +EXCLUSIVE +LAYERS +AGE\nbase:latest +[0-9.]+ [KM]iB +[0-9.]+ [KM]iB +1 +just now\n$`).MatchString(out) {
		t.Errorf("image list: %s", out)
	}
	if out := rt.OK("image", "ls", "-q"); out != "base:latest\n" {
		t.Errorf("image ls -q: %s", out)
	}
	if out := rt.OK("image", "ls", "--format", "json"); !regexp.MustCompile(`^\[\{.*"base:latest".*\}\]\n$`).MatchString(out) {
		t.Errorf("image ls: %s", out)
	}
	rt.Fails(1, []string{"image", "import", "other", "/nonexistent"}, "/nonexistent")
	rt.Fails(1, []string{"image", "rm", "other"}, `"other"`)
	junk := t.TempDir() + "/junk.tar"
	check(t, os.WriteFile(junk, []byte(strings.Repeat("junk", 1000)), 0o600))
	rt.Fails(1, []string{"image", "import", "other", junk}, junk)
	rt.OK("image", "rm", "base")
	rt.Fails(1, []string{"run", "--image", "base", "x", "true"}, "base")
	if out := rt.OK("gc"); out != "" {
		t.Errorf("gc found %q", out)
	}
}

func TestPool(t *testing.T) {
	rt := newRuntime(t)
	if !box.InLab() {
		if _, err := os.Stat("/dev/mapper/control"); err != nil {
			got := rt.Run("pool", "create")
			if got.Code != 1 || strings.Count(got.Stderr, "\n") != 1 {
				t.Errorf("without device-mapper: %v", got)
			}
			box.Lacks(t, "device-mapper")
		}
	}
	rt.Fails(1, []string{"pool", "status"}, "no pool", rt.Storage)
	rt.Fails(1, []string{"pool", "destroy"}, "no pool", rt.Storage)
	rt.Fails(1, []string{"pool", "create", "--data-size", "tiny"}, "--data-size", "tiny")
	rt.Fails(1, []string{"pool", "create", "--data-device", "/nonexistent", "--metadata-device", "/nonexistent"}, "/nonexistent")
	rt.OK("pool", "create", "--data-size", "256M", "--base-size", "1G")
	t.Cleanup(func() { rt.Run("pool", "destroy") })
	rt.Fails(1, []string{"pool", "create"}, "exists")
	if out := rt.OK("pool", "status"); !strings.Contains(out, "256.0 MiB") || !strings.Contains(out, ", 0 containers") {
		t.Errorf("got %s", out)
	}
	if out := rt.OK("pool", "status", "--format", "json"); !strings.HasPrefix(out, "{") {
		t.Errorf("got %s", out)
	}
	source := t.TempDir()
	testbundle.Rootfs(t, source)
	rt.OK("image", "import", "base", source)
	id := rt.ID()
	rt.OK("run", "-d", "--image", "base", id, "sleep", "100000")
	if out := rt.OK("pool", "status"); !strings.Contains(out, "1 containers") {
		t.Errorf("got %s", out)
	}
	rt.Fails(1, []string{"pool", "destroy"}, "in use", "base:latest")
	rt.Fails(1, []string{"pool", "destroy", "--force"}, "in use")
	if got := rt.OK("image", "ls", "-q"); got != "base:latest\n" {
		t.Errorf("a refused destroy has left the images %q", got)
	}
	if out := rt.OK("pool", "check"); !strings.HasPrefix(out, "good: 1 layers, 1 containers, ") {
		t.Errorf("pool check: %s", out)
	}
	if out := rt.OK("pool", "grow", "--data-size", "+64M", "--metadata-size", "24M"); out != "data       320.0 MiB, before 256.0 MiB\nmetadata   24.0 MiB, before 16.0 MiB\n" {
		t.Errorf("pool grow: %q", out)
	}
	rt.Fails(1, []string{"pool", "grow", "--data-size", "64M"}, "cannot become smaller")
	rt.Fails(1, []string{"pool", "grow", "--data-size", "0"}, "0 is no size to grow to")
	rt.Fails(1, []string{"pool", "renew"}, "in use")
	if out := rt.OK("pool", "trim"); !strings.Contains(out, "iB given back; ") {
		t.Errorf("pool trim: %q", out)
	}
	rt.OK("exec", id, "sh", "-c", "echo x > /file; sync; cat /file") // as if nothing had been
	rt.OK("delete", "--force", id)
	rt.OK("pool", "renew")
	rt.OK("run", "--image", "base", rt.ID(), "true")
	rt.Fails(1, []string{"pool", "destroy"}, "in use", "base:latest", "--force")
	rt.OK("pool", "destroy", "--force")
	rt.Fails(1, []string{"pool", "status"}, "no pool")
	if got := rt.OK("image", "ls", "-q"); got != "" {
		t.Errorf("images of a pool that is not there: %q", got)
	}
}
