package lifecycle

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"thinrun/tests/box"
	"thinrun/tests/pki"
)

// TestPullWithCertificates: a registry that wants to know its clients, by the command. The
// system's CAs count besides those of certs.d.
func TestPullWithCertificates(t *testing.T) {
	for _, program := range []string{"docker-registry", "skopeo"} {
		if _, err := exec.LookPath(program); err != nil {
			box.Lacks(t, "%s (Debian's %s)", program, program)
		}
	}
	rt := withImage(t)
	dir := t.TempDir()
	ca, other := pki.New(t, "ours"), pki.New(t, "of others")
	cert, key := ca.Pair(t, "server")
	mine, mineKey := ca.Pair(t, "me")
	pki.Write(t, dir, map[string][]byte{"ca": ca.PEM, "cert": cert, "key": key, "config.yml": fmt.Appendf(nil,
		"version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %[1]s/data}}\nhttp: {addr: \"127.0.0.1:0\", tls: {certificate: %[1]s/cert, key: %[1]s/key, clientcas: [%[1]s/ca]}}\n", dir)})
	pki.Write(t, dir+"/certs", map[string][]byte{"ca.crt": ca.PEM, "me.cert": mine, "me.key": mineKey})
	pki.Write(t, dir+"/others", map[string][]byte{"ca.crt": other.PEM, "me.cert": mine, "me.key": mineKey})

	registry := exec.Command("docker-registry", "serve", dir+"/config.yml")
	stderr, err := registry.StderrPipe()
	check(t, err)
	check(t, registry.Start())
	t.Cleanup(func() {
		registry.Process.Kill()
		io.Copy(io.Discard, stderr)
		registry.Wait()
	})
	host := ""
	for log := bufio.NewScanner(stderr); host == "" && log.Scan(); {
		if at := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`).FindStringSubmatch(log.Text()); at != nil {
			host = at[1]
		}
	}
	go io.Copy(io.Discard, stderr) // ends with the process
	rt.OK("image", "export", "base", dir+"/base.tar")
	if out, err := exec.Command("skopeo", "--tmpdir", dir, "--insecure-policy", "copy", "--dest-cert-dir", dir+"/certs", "oci-archive:"+dir+"/base.tar", "docker://"+host+"/base:1").CombinedOutput(); err != nil {
		t.Fatalf("skopeo: %v: %s", err, out)
	}

	home := t.TempDir()
	rt.Env = append(rt.Env, "HOME="+home)
	rt.Fails(1, []string{"image", "pull", host + "/base:1", "new"}, host, "unknown authority", "/etc/containers/certs.d/"+host+"/ca.crt")
	rt.Fails(1, []string{"image", "pull", "--cert-dir", dir + "/others", host + "/base:1", "new"}, host, "unknown authority", dir+"/others/ca.crt")
	rt.OK("image", "pull", "--cert-dir", dir+"/certs", host+"/base:1", "one")
	if out := rt.OK("run", "--image", "one", rt.ID(), "cat", "/etc/marker"); out != "of the image\n" {
		t.Errorf("the image says %q", out)
	}
	certs := home + "/.config/containers/certs.d"
	check(t, os.MkdirAll(certs, 0o755))
	check(t, os.Symlink(dir+"/certs", certs+"/"+host))
	rt.OK("image", "pull", host+"/base:1", "two")
	rt.Env = append(rt.Env, "SSL_CERT_FILE="+dir+"/ca")
	rt.OK("image", "pull", "--cert-dir", dir+"/others", host+"/base:1", "three")
}
