package transfer

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

const user, password = "tester", "s:ecret"

// guard asks for credentials, by Basic or, with a server of tokens at /token, by Bearer.
func (s *site) guard(bearer bool) {
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		u, p, _ := r.BasicAuth()
		known := u == user && p == password
		switch {
		case r.URL.Path == "/token":
			if !known || r.URL.Query().Get("scope") != "repository:img:pull" {
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return true
			}
			json.NewEncoder(w).Encode(map[string]string{"token": "good"})
			return true
		case bearer && r.Header.Get("Authorization") == "Bearer good", !bearer && known:
			return false
		case bearer:
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="here"`, s.URL))
		default:
			w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
}

func TestCredentials(t *testing.T) {
	for _, bearer := range []bool{false, true} {
		s := newSite(t)
		f := newFixture(t, "amd64", 10, 1000)
		s.push(t, f, "1")
		s.guard(bearer)
		auth := func(pass string) string {
			return fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, s.host(), base64.StdEncoding.EncodeToString([]byte(user+":"+pass)))
		}
		table := []struct {
			name  string
			file  string // below HOME
			text  string
			env   string // which names the file, or its directory
			creds string
			words []string
		}{
			{name: "nobody", words: []string{"says 401 Unauthorized", "it wants credentials: --creds"}},
			{name: "--creds", creds: user + ":" + password},
			{name: "wrong --creds", creds: user + ":x", words: []string{"says 401 Unauthorized", "to the credentials from --creds"}},
			{name: "creds without a colon", creds: user, words: []string{"--creds: want USER:PASSWORD"}},
			{name: "docker login", file: ".docker/config.json", text: auth(password)},
			{name: "docker login of old", file: ".docker/config.json", text: strings.Replace(auth(password), s.host(), "https://"+s.host()+"/v1/", 1)},
			{name: "wrong docker login", file: ".docker/config.json", text: auth("x"), words: []string{"401", ".docker/config.json"}},
			{name: "DOCKER_CONFIG", file: "elsewhere/config.json", text: auth(password), env: "DOCKER_CONFIG"},
			{name: "podman login", file: "run/containers/auth.json", text: auth(password), env: "XDG_RUNTIME_DIR"},
			{name: "podman's for a namespace", file: ".config/containers/auth.json", text: strings.Replace(auth(password), s.host(), s.host()+"/img", 1)},
			{name: "REGISTRY_AUTH_FILE", file: "f", text: auth(password), env: "REGISTRY_AUTH_FILE"},
			{name: "docker's helper", file: ".docker/config.json", text: fmt.Sprintf(`{"credHelpers":{%q:"thinrun-test"}}`, s.host())},
			{name: "a broken file", file: ".docker/config.json", text: "{", words: []string{"credentials in", ".docker/config.json"}},
			{name: "a helper that is missing", file: ".docker/config.json", text: fmt.Sprintf(`{"credHelpers":{%q:"not-there"}}`, s.host()), words: []string{"docker-credential-not-there"}},
		}
		for _, row := range table {
			t.Run(fmt.Sprintf("%s, bearer=%v", row.name, bearer), func(t *testing.T) {
				home := t.TempDir()
				t.Setenv("HOME", home)
				helper(t)
				if row.file != "" {
					file := filepath.Join(home, row.file)
					check(t, os.MkdirAll(filepath.Dir(file), 0o755))
					check(t, os.WriteFile(file, []byte(row.text), 0o600))
					switch row.env {
					case "DOCKER_CONFIG":
						t.Setenv(row.env, filepath.Dir(file))
					case "XDG_RUNTIME_DIR":
						t.Setenv(row.env, filepath.Join(home, "run"))
					case "REGISTRY_AUTH_FILE":
						t.Setenv(row.env, file)
					}
				}
				opt := brisk(t)
				opt.Platform, opt.Credentials = "linux/amd64", row.creds
				got, _, err := s.pull(t, "img:1", opt)
				if row.words != nil {
					wantError(t, err, row.words...)
					if strings.Contains(err.Error(), "ecret") {
						t.Errorf("the error tells the password: %v", err)
					}
					return
				}
				check(t, err)
				wantLayers(t, f, got)
			})
		}
	}
}

// TestRedirectLearnsNoSecret: a store of blobs elsewhere gets no credentials, and what it
// says is not taken for the registry's word on them.
func TestRedirectLearnsNoSecret(t *testing.T) {
	for _, bearer := range []bool{false, true} {
		s := newSite(t)
		f := newFixture(t, "amd64", 10, 1000)
		s.push(t, f, "1")
		s.guard(bearer)
		guard, closed := s.hook, false
		store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.Header["Authorization"]) > 0 || r.Header.Get("Cookie") != "" {
				t.Errorf("the store of blobs was told %q", r.Header)
			}
			if closed {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			w.Write(f.blobs[path.Base(r.URL.Path)])
		}))
		defer store.Close()
		s.set(func(w http.ResponseWriter, r *http.Request) bool {
			if guard(w, r) {
				return true
			}
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, store.URL+"/"+path.Base(r.URL.Path)+"?signature=s:ecret", http.StatusTemporaryRedirect)
				return true
			}
			return false
		})
		opt := brisk(t)
		opt.Platform, opt.Credentials = "linux/amd64", user+":"+password
		got, _, err := s.pull(t, "img:1", opt)
		check(t, err)
		wantLayers(t, f, got)
		closed = true
		_, _, err = s.pull(t, "img:1", opt)
		wantError(t, err, store.Listener.Addr().String()+", where "+s.host()+" has sent us, says 403 Forbidden")
		if strings.Contains(err.Error(), "ecret") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
}

// helper puts credential helpers, in Docker's protocol, into PATH: one that knows everybody,
// one that knows Docker Hub, one that knows nobody.
func helper(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	answer := func(user string) string {
		return fmt.Sprintf("echo '{\"ServerURL\":\"'$host'\",\"Username\":\"%s\",\"Secret\":\"%s\"}'\n", user, password)
	}
	const nobody = "echo credentials not found in native keychain; exit 1\n"
	for name, script := range map[string]string{
		"test": answer(user), "empty": nobody, "hub": "[ $host = https://index.docker.io/v1/ ] || { " + nobody + "}\n" + answer("hub"),
	} {
		check(t, os.WriteFile(filepath.Join(dir, "docker-credential-thinrun-"+name), []byte("#!/bin/sh\nread host\n"+script), 0o755))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestWhoIsMeant: an entry is of a registry, or of a namespace there, and of nothing else.
func TestWhoIsMeant(t *testing.T) {
	entry := func(user string) string {
		return fmt.Sprintf(`{"auth":%q}`, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	}
	auths := func(pairs ...string) string {
		var list []string
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, fmt.Sprintf("%q:%s", pairs[i], entry(pairs[i+1])))
		}
		return `"auths":{` + strings.Join(list, ",") + "}"
	}
	helper(t)
	for _, row := range []struct{ name, ref, text, want string }{
		{"nobody", "quay.io/a", auths("docker.io", "x"), ""},
		{"podman login docker.io", "debian", auths("docker.io", "hub"), "hub"},
		{"docker login", "debian", auths("https://index.docker.io/v1/", "hub"), "hub"},
		{"the hub by its old name", "docker.io/me/x", auths("index.docker.io", "hub"), "hub"},
		{"a namespace of the hub", "me/x", auths("docker.io", "hub", "docker.io/me", "me", "docker.io/you", "you"), "me"},
		{"the nearest", "quay.io/a/b/c:1", auths("quay.io", "q", "quay.io/a", "a", "quay.io/a/b", "b", "quay.io/a/b/c/d", "d"), "b"},
		{"the repository itself", "quay.io/a/b", auths("quay.io/a/b", "b", "quay.io/a", "a"), "b"},
		{"another namespace", "quay.io/a/b", auths("quay.io/c", "c", "quay.io/a/b/c", "b", "quay.io/aa", "aa"), ""},
		{"another port", "localhost:5000/x", auths("localhost", "x", "localhost:5001", "y"), ""},
		{"docker login of old", "localhost:5000/x", auths("http://localhost:5000/v1/", "old"), "old"},
		{"an entry without credentials", "quay.io/a", `"auths":{"quay.io":{}}`, ""},
		{"with a store of Docker's", "quay.io/a", `"auths":{"quay.io":{}},"credsStore":"thinrun-test"`, user},
		{"a store that is asked for the hub", "debian", `"auths":{"https://index.docker.io/v1/":{}},"credsStore":"thinrun-hub"`, "hub"},
		{"a helper of podman's for the hub", "debian", `"credHelpers":{"docker.io":"thinrun-test"}`, user},
		{"a helper before an entry", "quay.io/a", `"credHelpers":{"quay.io":"thinrun-test"},` + auths("quay.io", "q"), user},
		{"an entry before the store", "quay.io/a", auths("quay.io", "q") + `,"credsStore":"not-there"`, "q"},
		{"a helper that knows nothing", "quay.io/a", `"credHelpers":{"quay.io":"thinrun-empty"},` + auths("quay.io", "q"), "q"},
		{"a store that knows nothing", "quay.io/a", `"credsStore":"thinrun-empty"`, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.json")
			check(t, os.WriteFile(file, []byte("{"+row.text+"}"), 0o600))
			t.Setenv("DOCKER_AUTH_CONFIG", "{"+auths("quay.io", "environment")+"}")
			ref, err := name.ParseReference(row.ref)
			check(t, err)
			found, err := readAuth(file, ref.Context())
			check(t, err)
			got := ""
			if found != nil {
				auth, err := found.Authorization()
				check(t, err)
				if got = auth.Username; auth.Password != password {
					t.Errorf("password %q", auth.Password)
				}
			}
			if got != row.want {
				t.Errorf("%s is %q, want %q", row.ref, got, row.want)
			}
		})
	}
}

// TestRegistryFaults are about all before the layers.
func TestRegistryFaults(t *testing.T) {
	at := func(part string, hook http.HandlerFunc) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, part) {
				hook(w, r)
				return true
			}
			return false
		}
	}
	table := []struct {
		name  string
		ref   string
		hook  func(w http.ResponseWriter, r *http.Request) bool
		words []string
	}{
		{"no such tag", "img:2", nil, []string{"404 Not Found", "no such image or tag"}},
		{"no such digest", "img@sha256:" + strings.Repeat("0", 64), nil, []string{"404"}},
		{"a digest that is not verified", "img@sha512:" + strings.Repeat("0", 128), at("/manifests/", func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte(`{"schemaVersion":2,"manifests":[]}`)) // whatever the registry likes
		}), []string{"sha256 digests only"}},
		{"bad reference", "img:1:2", nil, []string{"reference"}},
		{"a reference that climbs", "../../x", nil, []string{"reference"}},
		{"404 at the door", "img:1", at("/v2/", http.NotFound), []string{"says 404 Not Found: perhaps it is no registry"}},
		{"no config", "img:1", at("/blobs/", http.NotFound), []string{"says 404 Not Found: it lacks a part of the image"}},
		{"half a manifest", "img:1", at("/manifests/", func(w http.ResponseWriter, r *http.Request) {
			breakAfter(w, r, make([]byte, 2000), 1000, false)
		}), []string{"127.0.0.1:", " broke off after 1000 bytes: unexpected EOF"}},
		{"500 at the door", "img:1", at("/v2/", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "<html>\nno", http.StatusInternalServerError)
		}), []string{"says 500 Internal Server Error"}},
		{"503 at the manifest", "img:1", at("/manifests/", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "no", http.StatusServiceUnavailable)
		}), []string{"says 503 Service Unavailable"}},
		{"not json", "img:1", at("/manifests/", func(w http.ResponseWriter, r *http.Request) {
			w.Write([]byte("<html>\x1b[31m"))
		}), []string{"not a manifest"}},
		{"endless manifest", "img:1", at("/manifests/", func(w http.ResponseWriter, r *http.Request) {
			for range 6 << 20 / 4096 {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return
				}
			}
		}), []string{"larger than 4 MiB"}},
		{"another digest in the header", "img:1", at("/manifests/", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
			w.Write([]byte("{}"))
		}), []string{"its content has digest sha256:"}},
		{"bearer without a realm", "img:1", at("/v2/", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", "Bearer")
			w.WriteHeader(http.StatusUnauthorized)
		}), []string{"realm"}},
		{"a realm inside somebody's network", "img:1", at("/v2/", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://169.254.169.254/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		}), []string{"169.254.169.254"}},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			s := newSite(t)
			s.push(t, newFixture(t, "amd64", 10), "1")
			s.set(row.hook)
			opt := brisk(t)
			opt.Platform = "linux/amd64"
			_, _, err := s.pull(t, row.ref, opt)
			wantError(t, err, row.words...)
		})
	}
}
