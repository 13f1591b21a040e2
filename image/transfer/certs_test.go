package transfer

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/tests/pki"
)

// tlsRegistry is docker-registry with https; with a CA for clients it wants a certificate
// of theirs.
func tlsRegistry(t *testing.T, ca, clients *pki.CA) (host string) {
	t.Helper()
	dir := t.TempDir()
	cert, key := ca.Pair(t, "registry")
	files := map[string][]byte{"cert": cert, "key": key}
	config := fmt.Sprintf("  tls:\n    certificate: %s/cert\n    key: %s/key\n", dir, dir)
	if clients != nil {
		files["clients"] = clients.PEM
		config += fmt.Sprintf("    clientcas: [%s/clients]\n", dir)
	}
	pki.Write(t, dir, files)
	return debianRegistry(t, config)
}

// TestCertificates are those of certs.d, with Docker's registry; skopeo fills it, out of the
// same kind of directory.
func TestCertificates(t *testing.T) {
	ca, clients, other := pki.New(t, "ours"), pki.New(t, "of clients"), pki.New(t, "of others")
	cert, key := clients.Pair(t, "me")
	strange, strangeKey := other.Pair(t, "a stranger")
	open, closed := tlsRegistry(t, ca, nil), tlsRegistry(t, ca, clients)
	f := newFixture(t, "amd64", 10, 1000)
	layout := "oci:" + dirOf(t, layoutFiles(t, map[string]*fixture{"x": f})) + ":x"
	certDir := t.TempDir()
	pki.Write(t, certDir, map[string][]byte{"ca.crt": ca.PEM, "me.cert": cert, "me.key": key})
	for _, host := range []string{open, closed} {
		skopeo(t, "copy", "--dest-cert-dir", certDir, layout, "docker://"+host+"/img:1")
	}

	const home, etc, docker, flag = "home/.config/containers/certs.d", "etc/containers/certs.d", "etc/docker/certs.d", "dir"
	type dirs map[string]map[string][]byte
	pair := map[string][]byte{"ca.crt": ca.PEM, "me.cert": cert, "me.key": key}
	with := func(name string, content []byte) dirs { return dirs{etc: {"ca.crt": ca.PEM, name: content}} }
	table := []struct {
		name     string
		host     string
		dirs     dirs
		insecure bool
		words    []string
	}{
		{name: "none", host: open, words: []string{open + ": tls: failed to verify certificate: x509: certificate signed by unknown authority (its CA's certificate belongs in /etc/containers/certs.d/" + open + "/ca.crt; --tls-verify=false"}},
		{name: "CA at home", host: open, dirs: dirs{home: {"ca.crt": ca.PEM}}},
		{name: "CA of podman", host: open, dirs: dirs{etc: {"ca.crt": ca.PEM}}},
		{name: "CA of Docker", host: open, dirs: dirs{docker: {"any.crt": ca.PEM, "README": nil}}},
		{name: "CA in --cert-dir", host: open, dirs: dirs{flag: {"ca.crt": ca.PEM}}},
		{name: "one CA of two in a file", host: open, dirs: dirs{etc: {"both.crt": append(bytes.Clone(other.PEM), ca.PEM...)}}},
		{name: "only the first directory is meant", host: open, dirs: dirs{home: {"ca.crt": other.PEM}, etc: {"ca.crt": ca.PEM}}, words: []string{"unknown authority (its CA's certificate belongs in ", home + "/" + open + "/ca.crt"}},
		{name: "--cert-dir and no other", host: open, dirs: dirs{flag: {}, etc: {"ca.crt": ca.PEM}}, words: []string{"unknown authority", "/dir/ca.crt"}},
		{name: "a client is asked for", host: closed, dirs: dirs{etc: {"ca.crt": ca.PEM}}, words: []string{closed + ": tls: ", "certificate", " (it wants a client certificate: ", etc + "/" + closed + "/client.cert and client.key)"}},
		{name: "a client is asked for, and nothing known", host: closed, insecure: true, words: []string{closed + ": tls: ", " (it wants a client certificate: /etc/containers/certs.d/" + closed + "/client.cert"}},
		{name: "client", host: closed, dirs: dirs{docker: pair}},
		{name: "client of --cert-dir", host: closed, dirs: dirs{flag: pair}},
		{name: "client, whoever the registry is", host: closed, dirs: dirs{etc: {"me.cert": cert, "me.key": key}}, insecure: true},
		{name: "the client of two that it knows", host: closed, dirs: dirs{etc: {"ca.crt": ca.PEM, "a.cert": strange, "a.key": strangeKey, "b.cert": cert, "b.key": key}}},
		{name: "a client that it does not know", host: closed, dirs: dirs{etc: {"ca.crt": ca.PEM, "a.cert": strange, "a.key": strangeKey}}, words: []string{closed + ": tls: ", " (it takes none of the client certificates in ", etc + "/" + closed + ")"}},
		{name: "no --cert-dir there", host: open, dirs: dirs{flag: nil}, words: []string{"--cert-dir: open ", "/dir: no such file or directory"}},
		{name: "broken CA", host: open, dirs: with("b.crt", []byte("s:ecret")), words: []string{open + "/b.crt: 0 of 0 certificates in it are PEM"}},
		{name: "broken second CA", host: open, dirs: with("b.crt", append(bytes.Clone(ca.PEM), ca.PEM[:100]...)), words: []string{"/b.crt: 1 of 2 certificates in it are PEM"}},
		{name: "CA that is something else", host: open, dirs: with("b.crt", bytes.Replace(ca.PEM, []byte("MII"), []byte("AAA"), 1)), words: []string{"/b.crt: x509: "}},
		{name: "CA that is a directory", host: open, dirs: dirs{etc: {"ca.crt/x": nil}}, words: []string{"/ca.crt: is a directory"}},
		{name: "certificate without its key", host: closed, dirs: with("me.cert", cert), words: []string{"/me.cert: there is no me.key for it (a CA's certificate is named *.crt)"}},
		{name: "key without its certificate", host: closed, dirs: with("me.key", key), words: []string{"/me.key: there is no me.cert for it"}},
		{name: "broken certificate", host: closed, dirs: dirs{etc: {"me.cert": []byte("s:ecret"), "me.key": key}}, words: []string{"/me.cert with me.key: tls: failed to find any PEM data in certificate"}},
		{name: "broken key", host: closed, dirs: dirs{etc: {"me.cert": cert, "me.key": []byte("s:ecret")}}, words: []string{"/me.cert with me.key: tls: failed to find any PEM data in key"}},
		{name: "key of another", host: closed, dirs: dirs{etc: {"me.cert": cert, "me.key": strangeKey}}, words: []string{"/me.cert with me.key: tls: private key does not match"}},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			root := t.TempDir()
			t.Setenv("HOME", root+"/home")
			opt := brisk(t)
			opt.Platform, opt.Insecure, opt.etc = "linux/amd64", row.insecure, root+"/etc"
			for at, files := range row.dirs {
				dir := filepath.Join(root, at, row.host)
				if at == flag {
					dir = filepath.Join(root, at)
					opt.CertDir = dir
				}
				for name := range files {
					check(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
				}
				if files != nil {
					pki.Write(t, dir, files)
				}
			}
			got, _, err := pulled(t, row.host+"/img:1", opt)
			wantPull(t, f, got, err, row.words)
		})
	}
}

// asking serves https, with a certificate for loopback, and asks clients for theirs.
func asking(t *testing.T, s *httptest.Server, ca, clients *pki.CA) {
	t.Helper()
	pair, err := tls.X509KeyPair(ca.Pair(t, "server"))
	check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(clients.PEM)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert, ClientCAs: pool}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
}

// TestCertificatesAreForOneHost: where a registry redirects to neither its CA counts nor the
// client's certificate is shown, also not the one that is kept for that host.
func TestCertificatesAreForOneHost(t *testing.T) {
	ca, clients := pki.New(t, "ours"), pki.New(t, "of clients")
	f := newFixture(t, "amd64", 10, 1000)
	served := 0
	store := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			t.Errorf("the store of blobs was shown the certificate of %s", r.TLS.PeerCertificates[0].Subject)
		}
		served++
		w.Write(f.blobs[path.Base(r.URL.Path)])
	}))
	asking(t, store, ca, clients)
	s := newStoppedSite()
	asking(t, s.Server, ca, clients)
	s.Client().Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	s.push(t, f, "1")
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "no certificate", http.StatusForbidden)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") {
			http.Redirect(w, r, store.URL+"/"+path.Base(r.URL.Path), http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	opt := brisk(t)
	opt.Platform, opt.CertDir, opt.etc = "linux/amd64", t.TempDir(), t.TempDir()
	cert, key := clients.Pair(t, "me")
	at := store.Listener.Addr().String()
	for _, flag := range []bool{true, false} {
		if !flag {
			opt.CertDir = ""
		}
		own := filepath.Join(opt.etc, "containers/certs.d", s.host())
		if flag {
			own = opt.CertDir
		}
		pki.Write(t, own, map[string][]byte{"ca.crt": ca.PEM, "me.cert": cert, "me.key": key})
		_, _, err := s.pull(t, "img:1", opt)
		wantError(t, err, at+" (for "+s.host()+"): tls: failed to verify certificate", "unknown authority (its CA's certificate belongs in /etc/containers/certs.d/"+at+"/ca.crt")
		if served > 0 {
			t.Fatal("the store was trusted because of the registry's CA")
		}
		pki.Write(t, filepath.Join(opt.etc, "docker/certs.d", at), map[string][]byte{"ca.crt": ca.PEM, "me.cert": cert, "me.key": key})
		got, _, err := s.pull(t, "img:1", opt)
		check(t, err)
		wantLayers(t, f, got)
		if served == 0 {
			t.Error("nothing came from the store")
		}
		served = 0
		check(t, os.RemoveAll(filepath.Join(opt.etc, "docker")))
	}
}

// TestCAOfTheTokenServer is the registry's, as under Docker and podman (GitLab has two hosts
// and one CA); the client's certificate stays with the registry.
func TestCAOfTheTokenServer(t *testing.T) {
	ca, clients := pki.New(t, "ours"), pki.New(t, "of clients")
	asked := 0
	tokens := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if len(r.TLS.PeerCertificates) > 0 {
			t.Errorf("the token server was shown the certificate of %s", r.TLS.PeerCertificates[0].Subject)
		}
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"token":"good"}`)
	}))
	asking(t, tokens, ca, clients)
	s := newStoppedSite()
	asking(t, s.Server, ca, clients)
	s.Client().Transport.(*http.Transport).TLSClientConfig.InsecureSkipVerify = true
	f := newFixture(t, "amd64", 10, 1000)
	s.push(t, f, "1")
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer good" {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer service="here",realm="%s/token"`, strings.Replace(tokens.URL, "127.0.0.1", "localhost", 1)))
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	opt := brisk(t)
	opt.Platform, opt.CertDir, opt.Credentials = "linux/amd64", t.TempDir(), user+":"+password
	cert, key := clients.Pair(t, "me")
	pki.Write(t, opt.CertDir, map[string][]byte{"ca.crt": ca.PEM, "me.cert": cert, "me.key": key})
	got, _, err := s.pull(t, "img:1", opt)
	check(t, err)
	wantLayers(t, f, got)
	if asked == 0 {
		t.Error("the token server was not asked")
	}
}

func TestRealmOf(t *testing.T) {
	for _, row := range []struct{ challenge, want string }{
		{`Bearer realm="https://Auth.docker.io:443/token",service="x"`, "auth.docker.io"},
		{`bearer service="x", realm="https://a:1/"`, "a:1"},
		{`Basic realm="https://a/"`, ""}, {`Bearer realm="https://a`, ""}, {`Bearer realm=":"`, ""}, {"", ""},
	} {
		if got := realmOf(http.Header{"Www-Authenticate": {row.challenge}}); got != row.want {
			t.Errorf("%s: %q, want %q", row.challenge, got, row.want)
		}
	}
}

// TestCertificateOfOthers: what a certificate is for is said, and that is anybody's words.
func TestCertificateOfOthers(t *testing.T) {
	ca := pki.New(t, "ours")
	pair, err := tls.X509KeyPair(ca.Pair(t, "server", "a\x1b[31m\nb"))
	check(t, err)
	s := newStoppedSite()
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	defer s.Close()
	opt := brisk(t)
	opt.CertDir = t.TempDir()
	pki.Write(t, opt.CertDir, map[string][]byte{"ca.crt": ca.PEM})
	_, _, err = s.pull(t, "img:1", opt)
	wantError(t, err, "certificate", "(--tls-verify=false takes it nevertheless)")
}

func TestCertDirs(t *testing.T) {
	t.Setenv("HOME", "/h")
	for host, want := range map[string]string{
		"quay.io":    "/h/.config/containers/certs.d/quay.io /etc/containers/certs.d/quay.io /etc/docker/certs.d/quay.io",
		"[::1]:5000": "/h/.config/containers/certs.d/[::1]:5000 /etc/containers/certs.d/[::1]:5000 /etc/docker/certs.d/[::1]:5000",
		"..":         "", "": "", "a/../b": "",
	} {
		if got := strings.Join((&Options{}).certDirs(host), " "); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}
