package lifecycle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"
)

// ociLayout makes an OCI layout of one image: the small root with users, and config.
func ociLayout(t *testing.T, arch string, config map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	check(t, os.MkdirAll(dir+"/blobs/sha256", 0o755))
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	blob := func(kind string, data []byte) descriptor {
		sum := sha256.Sum256(data)
		name := hex.EncodeToString(sum[:])
		check(t, os.WriteFile(dir+"/blobs/sha256/"+name, data, 0o644))
		return descriptor{"application/vnd.oci.image." + kind, "sha256:" + name, len(data)}
	}
	text := func(v any) []byte {
		data, err := json.Marshal(v)
		check(t, err)
		return data
	}
	layer := blob("layer.v1.tar", rootTar(t))
	cfg := blob("config.v1+json", text(map[string]any{
		"architecture": arch, "os": "linux", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{layer.Digest}},
	}))
	manifest := blob("manifest.v1+json", text(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": cfg, "layers": []descriptor{layer},
	}))
	check(t, os.WriteFile(dir+"/oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	check(t, os.WriteFile(dir+"/index.json", text(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}}), 0o644))
	return dir
}

func rootTar(t *testing.T) []byte {
	t.Helper()
	root := t.TempDir()
	testbundle.Rootfs(t, root)
	check(t, os.MkdirAll(root+"/here", 0o711))
	check(t, os.WriteFile(root+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv/web:/bin/sh\n"), 0o644))
	check(t, os.WriteFile(root+"/etc/group", []byte("root:x:0:\nwww:x:34:\nlog:x:4:web\n"), 0o644))
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	check(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if d.Type()&os.ModeSymlink != 0 {
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(st, link)
		if err != nil {
			return err
		}
		h.Name, err = filepath.Rel(root, path)
		if err == nil {
			err = w.WriteHeader(h)
		}
		if err != nil || !st.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}))
	check(t, w.Close())
	return out.Bytes()
}

// TestImageSaysHowToRun: Docker's rules, for an image that says something about
// everything.
func TestImageSaysHowToRun(t *testing.T) {
	rt := withImage(t)
	dir := ociLayout(t, runtime.GOARCH, map[string]any{
		"Env": []string{"PATH=/bin", "FROM=image", "KEEP=this"}, "Entrypoint": []string{"/bin/sh", "-c"},
		"Cmd": []string{"echo $FROM; id -u; id -G; pwd; echo $HOME $PATH"}, "User": "web", "WorkingDir": "/not/there/yet",
		"StopSignal": "SIGUSR1", "Volumes": map[string]any{"/vol/data": map[string]any{}, "/here": map[string]any{}},
	})
	rt.OK("image", "import", "--quiet", "web", "oci:"+dir)
	for _, x := range []struct {
		name  string
		flags []string
		args  []string
		want  string
	}{
		{"as it is", nil, nil, "image\n33\n34 4\n/not/there/yet\n/srv/web /bin\n"},
		{"arguments replace Cmd", nil, []string{"echo $0 $1", "a", "b"}, "a b\n"},
		{"entrypoint", []string{"--entrypoint", "/bin/echo"}, []string{"x"}, "x\n"},
		{"entrypoint without Cmd", []string{"--entrypoint", "/bin/pwd"}, nil, "/not/there/yet\n"},
		{"arguments with a dash", []string{"--entrypoint", "/bin/echo"}, []string{"--", "-n", "--user"}, "--user"},
		{"no entrypoint", []string{"--entrypoint", ""}, []string{"echo", "y"}, "y\n"},
		{"env", []string{"-e", "FROM=option"}, []string{"echo $FROM $KEEP"}, "option this\n"},
		{"env is taken away", []string{"-e", "KEEP"}, []string{"echo ${KEEP-none}"}, "none\n"},
		{"user", []string{"-u", "0:log"}, []string{"id -u; id -G"}, "0\n4\n"},
		{"workdir", []string{"-w", "/tmp"}, []string{"pwd"}, "/tmp\n"},
		{"volumes are there", nil, []string{"stat -c '%u %a' /vol /vol/data /here /not/there"}, "0 755\n0 755\n0 711\n0 755\n"},
		{"a volume on one", []string{"-v", dir + ":/vol/data:ro"}, []string{"cat /vol/data/oci-layout"}, `{"imageLayoutVersion":"1.0.0"}`},
	} {
		args := append(append([]string{"run", "--image", "web"}, x.flags...), append([]string{rt.ID()}, x.args...)...)
		if got := rt.Run(args...); got.Code != 0 || got.Stdout != x.want || got.Stderr != "" {
			t.Errorf("%s: want %q; %v", x.name, x.want, got)
		}
	}
	rt.Fails(1, []string{"run", "--image", "web", "--entrypoint", "", "x"}, "no command is given")

	id := rt.ID()
	rt.OK("run", "-d", "--image", "web", id, "trap 'exit 7' USR1; echo ready > /tmp/ready; while :; do sleep 1000 & wait; done")
	if got := rt.OK("exec", id, "sh", "-c", "id -u; id -G; echo $KEEP"); got != "33\n34 4\nthis\n" {
		t.Errorf("exec: %q", got)
	}
	if got := rt.OK("exec", "-u", "root", id, "sh", "-c", "id -u; echo $HOME"); got != "0\n/root\n" {
		t.Errorf("exec -u root: %q", got)
	}
	if got := rt.OK("exec", "-u", "33:log", id, "id", "-G"); got != "4\n" {
		t.Errorf("exec -u 33:log: %q", got)
	}
	rt.Fails(255, []string{"exec", "-u", "nobody", id, "true"}, `user "nobody": the container's /etc/passwd: there is no such user`)
	var st testbundle.State
	out := rt.OK("state", id)
	check(t, json.Unmarshal([]byte(out), &st))
	if !strings.Contains(out, `"org.opencontainers.image.stopSignal": "SIGUSR1"`) {
		t.Errorf("state: %s", out)
	}
	rt.OK("exec", id, "sh", "-c", "while ! [ -s /tmp/ready ]; do :; done")
	rt.OK("kill", id) // the image's signal, which its program takes
	if code := rt.Reap(st.PID); code != 7 {
		t.Errorf("exit code %d after the image's stop signal, want 7", code)
	}
	rt.OK("delete", id)

	other := "s390x"
	rt.OK("image", "import", "--quiet", "--platform", "linux/"+other, "foreign", "oci:"+ociLayout(t, other, nil))
	rt.Fails(1, []string{"run", "--image", "foreign", "x", "true"}, "image foreign:latest is for linux/s390x and this machine is linux/"+runtime.GOARCH)
	file := ociLayout(t, runtime.GOARCH, map[string]any{"Cmd": []string{"true"}, "Volumes": map[string]any{"/bin/sh": map[string]any{}}})
	rt.OK("image", "import", "--quiet", "file", "oci:"+file)
	rt.Fails(1, []string{"run", "--image", "file", "x"}, `make "/bin/sh", a volume of the image: not a directory`)
	rt.OK("image", "rm", "foreign", "file", "web")
}

// TestDiskOfContainer: --rootfs-size holds inside and only there, and what a container
// takes is shown. An overlay has no size.
func TestDiskOfContainer(t *testing.T) {
	rt := withImage(t)
	small, other := rt.ID(), rt.ID()
	flags := []string{"run", "-d", "--image", "base"}
	if box.InLab() {
		flags = append(flags, "--rootfs-size", "1100M")
	}
	rt.OK(append(flags, small, "sleep", "100000")...)
	rt.OK("run", "-d", "--image", "base", other, "sleep", "100000")
	type disk struct {
		Disk *struct{ Size, Used uint64 }
	}
	look := func(id string) disk {
		t.Helper()
		var d disk
		check(t, json.Unmarshal([]byte(rt.OK("state", id)), &d))
		if d.Disk == nil {
			t.Fatalf("no disk in the state of %s", id)
		}
		return d
	}
	before := look(small)
	rt.OK("exec", small, "sh", "-c", "dd if=/dev/urandom of=/file bs=1024k count=8 2>/dev/null; sync")
	after := look(small)
	if grown := after.Disk.Used - before.Disk.Used; grown < 8<<20 || grown > 16<<20 {
		t.Errorf("8 MiB written: used goes from %d to %d", before.Disk.Used, after.Disk.Used)
	}
	want := map[bool]uint64{true: 1100 << 20}[box.InLab()]
	if after.Disk.Size != want {
		t.Errorf("size %d, want %d", after.Disk.Size, want)
	}
	var list []struct {
		ID string
		disk
	}
	check(t, json.Unmarshal([]byte(rt.OK("list", "--format", "json")), &list))
	if len(list) != 2 || list[0].Disk == nil || list[1].Disk == nil {
		t.Errorf("list: %+v", list)
	}
	table := rt.OK("list")
	if box.InLab() && !strings.Contains(table, "/1.1 GiB\n") || !strings.Contains(table, "MiB") {
		t.Errorf("table: %s", table)
	}
	// Whatever becomes of the storage, what runs is told.
	lost := map[bool]string{true: filepath.Join(rt.Storage, "pool", "pool"), false: filepath.Join(rt.Storage, "overlay", "containers")}[box.InLab()]
	check(t, os.Rename(lost, lost+".away"))
	out := rt.OK("state", small)
	if !strings.Contains(out, `"running"`) || strings.Contains(out, `"disk"`) {
		t.Errorf("state without %s: %s", lost, out)
	}
	if out := rt.OK("list"); strings.Count(out, " running ") != 2 || strings.Count(out, " -\n") != 2 {
		t.Errorf("list without %s: %s", lost, out)
	}
	check(t, os.Rename(lost+".away", lost))
	rt.OK("delete", "--force", small)
	rt.OK("delete", "--force", other)
}

// TestFullDiskIsTheContainersOwn: a disk of the least size, written full, is full inside.
func TestFullDiskIsTheContainersOwn(t *testing.T) {
	box.Require(t)
	if !box.InLab() {
		t.Skip("lab only: overlay has no disk of its own")
	}
	rt := newRuntime(t)
	rt.OK("pool", "create", "--data-size", "1536M", "--low-water", "64M", "--base-size", "1G")
	t.Cleanup(func() { rt.OK("pool", "destroy", "--force") })
	source := t.TempDir()
	testbundle.Rootfs(t, source)
	rt.OK("image", "import", "-q", "base", source)
	other := rt.ID()
	rt.OK("run", "-d", "--image", "base", other, "sleep", "100000")
	got := rt.Run("run", "--image", "base", "--rootfs-size", "1G", rt.ID(), "sh", "-c", "dd if=/dev/zero of=/file bs=1024k; rm /file; echo small > /small && cat /small")
	if got.Code != 0 || got.Stdout != "small\n" || !strings.Contains(got.Stderr, "No space left on device") {
		t.Error(got)
	}
	rt.OK("exec", other, "sh", "-c", "dd if=/dev/zero of=/file bs=1024k count=16 2>/dev/null; sync")
	rt.OK("delete", "--force", other)
}
