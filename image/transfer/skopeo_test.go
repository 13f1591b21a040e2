package transfer

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"thinrun/tests/box"
)

// tool runs one of Debian's programs, or says that it is missing.
func tool(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		box.Lacks(t, "%s (Debian's %s)", name, name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func skopeo(t *testing.T, args ...string) []byte {
	t.Helper()
	return tool(t, "skopeo", append([]string{"--tmpdir", t.TempDir(), "--insecure-policy"}, args...)...)
}

// debianRegistry is docker-registry on a free port of loopback. more is what its
// configuration has besides, first about http.
func debianRegistry(t *testing.T, more string) (host string) {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		box.Lacks(t, "docker-registry (Debian's docker-registry)")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	check(t, os.WriteFile(config, fmt.Appendf(nil, "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp:\n  addr: \"127.0.0.1:0\"\n%s", dir, more), 0o644))
	cmd := exec.Command(program, "serve", config)
	stderr, err := cmd.StderrPipe()
	check(t, err)
	check(t, cmd.Start())
	log := bufio.NewScanner(stderr)
	t.Cleanup(func() {
		cmd.Process.Kill()
		io.Copy(io.Discard, stderr)
		cmd.Wait()
	})
	for log.Scan() {
		if at := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`).FindStringSubmatch(log.Text()); at != nil {
			go io.Copy(io.Discard, stderr) // ends with the process
			return at[1]
		}
	}
	t.Fatalf("docker-registry says nothing of listening: %v", log.Err())
	return ""
}

// TestSkopeoAndRegistry: what others push, copy and save is read as they meant it.
func TestSkopeoAndRegistry(t *testing.T) {
	f := newFixture(t, "amd64", 5000, 1<<20, 10)
	dir := dirOf(t, layoutFiles(t, map[string]*fixture{"x": f}))
	host, out := debianRegistry(t, ""), t.TempDir()
	for _, row := range []struct{ name, to, what string }{
		{"OCI in a registry", "docker://" + host + "/a/img:oci", "docker://" + host + "/a/img:oci"},
		{"schema2 in a registry", "docker://" + host + "/img:v2", "docker://" + host + "/img:v2"},
		{"OCI archive", "oci-archive:" + out + "/oci.tar:y", "oci-archive:" + out + "/oci.tar"},
		{"docker archive", "docker-archive:" + out + "/docker.tar:y:1", "docker-archive:" + out + "/docker.tar:y:1"},
		{"docker archive by its content", "docker-archive:" + out + "/docker2.tar:y:1", out + "/docker2.tar"},
		{"layout", "oci:" + out + "/layout:z", "oci:" + out + "/layout:z"},
	} {
		t.Run(row.name, func(t *testing.T) {
			args := []string{"copy", "--dest-tls-verify=false"}
			if row.name == "schema2 in a registry" {
				args = append(args, "--format", "v2s2")
			}
			skopeo(t, append(args, "oci:"+dir+":x", row.to)...)
			t.Setenv("HOME", t.TempDir())
			got, src, err := opened(t, row.what, brisk(t))
			check(t, err)
			wantLayers(t, f, got)
			for i, l := range src.Layers {
				if l.DiffID != sum(f.tars[i]) {
					t.Errorf("layer %d: diff id %s", i+1, l.DiffID)
				}
			}
		})
	}
}
