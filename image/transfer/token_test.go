package transfer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tokenServer gives tokens for a docker-registry that trusts its certificate.
type tokenServer struct {
	*httptest.Server
	key  *ecdsa.PrivateKey
	cert []byte // DER, signed by itself

	mu     sync.Mutex
	answer http.HandlerFunc // instead of all below
	public bool             // who does not log in gets a token too
	useful bool             // a token lets its bearer in
	given  int
}

const identity = "i-am-s:ecret"

// leeway is what docker-registry adds to the end of a token.
const leeway = time.Minute

func newTokenServer(t *testing.T) *tokenServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	s := &tokenServer{key: key, cert: cert, useful: true}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// realm has a name, because the library wants no other host of private addresses.
func (s *tokenServer) realm() string {
	return strings.Replace(s.URL, "127.0.0.1", "localhost", 1) + "/token"
}

func (s *tokenServer) registry(t *testing.T) (host string) {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle.pem")
	check(t, os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert}), 0o644))
	return debianRegistry(t, fmt.Sprintf("auth: {token: {realm: %q, service: here, issuer: us, rootcertbundle: %q}}\n", s.realm(), bundle))
}

// serve is the two ways to a token: GET with Basic credentials, POST with what docker
// login keeps instead of a password.
func (s *tokenServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answer != nil {
		s.answer(w, r)
		return
	}
	name, pass, basic := r.BasicAuth()
	known := name == user && pass == password
	if r.Method == http.MethodPost {
		known = r.FormValue("grant_type") == "refresh_token" && r.FormValue("refresh_token") == identity
		basic = true
	}
	if !known && (basic || !s.public) || r.FormValue("service") != "here" || r.FormValue("scope") != "repository:img:pull" && r.FormValue("account") == "" {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`)
		return
	}
	s.given++
	actions := []string{"pull"}
	if !s.useful {
		actions = nil
	}
	json.NewEncoder(w).Encode(map[string]any{"access_token": s.sign(time.Now(), actions), "expires_in": 1})
}

// sign makes a JSON Web Token that docker-registry takes until a minute after end.
func (s *tokenServer) sign(end time.Time, actions []string) string {
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	signed := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": [][]byte{s.cert}}) + "." + part(map[string]any{
		"iss": "us", "sub": user, "aud": "here", "exp": end.Unix(), "nbf": end.Unix() - 3600, "iat": end.Unix() - 3600, "jti": rand.Text(),
		"access": []any{map[string]any{"type": "repository", "name": "img", "actions": actions}},
	})
	sum := sha256.Sum256([]byte(signed))
	a, b, _ := ecdsa.Sign(rand.Reader, s.key, sum[:])
	both := append(a.FillBytes(make([]byte, 32)), b.FillBytes(make([]byte, 32))...)
	return signed + "." + base64.RawURLEncoding.EncodeToString(both)
}

// push stores an image as img:1, with a token of our own.
func (s *tokenServer) push(t *testing.T, host string, f *fixture) {
	t.Helper()
	token := s.sign(time.Now().Add(leeway), []string{"pull", "push"})
	skopeo(t, "copy", "--dest-tls-verify=false", "--dest-registry-token", token, "oci:"+dirOf(t, layoutFiles(t, map[string]*fixture{"x": f}))+":x", "docker://"+host+"/img:1")
}

// TestTokens: Docker's registry, which wants tokens of somebody else, as Docker Hub, ghcr.io
// and quay.io do.
func TestTokens(t *testing.T) {
	s := newTokenServer(t)
	reg := s.registry(t)
	f := newFixture(t, "amd64", 10, 1000)
	s.push(t, reg, f)
	other := strings.TrimSuffix(strings.TrimPrefix(s.realm(), "http://"), "/token")
	auths := func(fields string) string { return fmt.Sprintf(`{"auths":{%q:{%s}}}`, reg, fields) }
	login := func(pass string) string {
		return auths(fmt.Sprintf(`"auth":%q`, base64.StdEncoding.EncodeToString([]byte(user+":"+pass))))
	}
	written := filepath.Join(t.TempDir(), "auth.json")
	skopeo(t, "login", "--tls-verify=false", "--authfile", written, "-u", user, "-p", password, reg)
	loggedIn, err := os.ReadFile(written)
	check(t, err)
	const docker, podman = ".docker/config.json", ".config/containers/auth.json"
	text := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
	}
	table := []struct {
		name       string
		file, text string
		creds      string
		public     bool
		useless    bool
		answer     http.HandlerFunc
		words      []string
	}{
		{name: "nobody, refused", words: []string{other + ", the token server of " + reg + ", says 401 Unauthorized: who are you?; it wants credentials: --creds"}},
		{name: "nobody, welcome", public: true},
		{name: "nobody, with a token for nothing", public: true, useless: true, words: []string{reg + " says 401 Unauthorized: authentication required; it wants credentials: --creds USER:PASSWORD, or docker login, or podman login, or there is no such image"}},
		{name: "docker login", file: docker, text: login(password)},
		{name: "podman login", file: podman, text: login(password)},
		{name: "skopeo login", file: podman, text: string(loggedIn)},
		{name: "--creds", creds: user + ":" + password},
		{name: "wrong password", file: docker, text: login("x-" + password), public: true, words: []string{other, "says 401 Unauthorized: who are you? to the credentials from ", docker}},
		{name: "wrong --creds", creds: user + ":x-" + password, words: []string{"who are you? to the credentials from --creds"}},
		{name: "no right to it", file: podman, text: login(password), useless: true, words: []string{reg + " says 401 Unauthorized", "to the credentials from ", podman + ", or there is no such image"}},
		{name: "identity token", file: docker, text: auths(`"auth":"MDAwMDAwMDAtMDAwMDo=","identitytoken":"` + identity + `"`)},
		{name: "identity token of the past", file: docker, text: auths(`"identitytoken":"old-` + identity + `"`), public: true, words: []string{"says 401", "to the credentials from ", docker}},
		{name: "token at hand", file: docker, text: auths(`"registrytoken":"` + s.sign(time.Now(), []string{"pull"}) + `"`)},
		{name: "a page instead of a token", answer: text("<html>s:ecret"), words: []string{reg + ": log in: invalid character '<'"}},
		{name: "no token in the answer", answer: text(`{"refresh_token":"s:ecret"}`), words: []string{reg + ": log in: no token in bearer response"}},
		{name: "a token of somebody else", answer: text(`{"token":"a.b.s:ecret"}`), words: []string{reg + " says 401"}},
		{name: "a token that breaks the header", answer: text(`{"token":"s:ecret\r\nX: y"}`), words: []string{reg + ": net/http: invalid header field value"}},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			t.Setenv("HOME", t.TempDir())
			if row.file != "" {
				file := filepath.Join(os.Getenv("HOME"), row.file)
				check(t, os.MkdirAll(filepath.Dir(file), 0o755))
				check(t, os.WriteFile(file, []byte(row.text), 0o600))
			}
			s.mu.Lock()
			s.public, s.useful, s.answer = row.public, !row.useless, row.answer
			s.mu.Unlock()
			opt := brisk(t)
			opt.Platform, opt.Credentials = "linux/amd64", row.creds
			got, _, err := pulled(t, reg+"/img:1", opt)
			wantPull(t, f, got, err, row.words)
		})
	}
}

// TestTokenEndsInsideAPull: with layers still to fetch, and one of them half here, the
// token ends. The pull goes on where it was, or says whose credentials do not hold any more.
func TestTokenEndsInsideAPull(t *testing.T) {
	s := newTokenServer(t)
	reg := s.registry(t)
	f := newFixture(t, "amd64", 10, 300_000, 20, 30, 40)
	s.push(t, reg, f)
	broken := f.manifest.Layers[1].Digest.String()
	for _, revoked := range []bool{false, true} {
		t.Run(fmt.Sprintf("revoked=%v", revoked), func(t *testing.T) {
			front := newStoppedSite()
			proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: reg})
			proxy.ErrorLog = log.New(io.Discard, "", 0) // of requests that the end of the pull ends
			var mu sync.Mutex
			var refused, resumed int
			proxy.ModifyResponse = func(resp *http.Response) error {
				mu.Lock()
				defer mu.Unlock()
				if strings.Contains(resp.Request.URL.Path, "/blobs/") && resp.StatusCode == http.StatusUnauthorized {
					refused++
				}
				if resp.StatusCode == http.StatusPartialContent {
					resumed++
				}
				return nil
			}
			s.mu.Lock()
			s.answer, s.given = nil, 0
			s.mu.Unlock()
			var once, first sync.Once
			var over string // what bears the token that has ended
			front.set(func(w http.ResponseWriter, r *http.Request) bool {
				at := filepath.Base(r.URL.Path)
				if strings.Contains(r.URL.Path, "/blobs/") && at != f.manifest.Config.Digest.String() {
					if at == broken {
						first.Do(func() { breakAfter(w, r, f.blobs[broken], 1000, true) })
					}
					once.Do(func() {
						over = r.Header.Get("Authorization")
						s.mu.Lock()
						defer s.mu.Unlock()
						if revoked {
							s.answer = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
						}
					})
					// Time ends a token; not to wait for it, the registry gets one of yesterday.
					if r.Header.Get("Authorization") == over {
						r.Header.Set("Authorization", "Bearer "+s.sign(time.Now().Add(-24*time.Hour), []string{"pull"}))
					}
				}
				proxy.ServeHTTP(w, r)
				return true
			})
			front.Start()
			defer front.Close()
			opt := brisk(t)
			opt.Platform, opt.Credentials = "linux/amd64", user+":"+password
			got, _, err := front.pull(t, "img:1", opt)
			if revoked {
				wantError(t, err, "sha256:", "the token server of "+front.host()+", says 403 Forbidden to the credentials from --creds")
				return
			}
			check(t, err)
			wantLayers(t, f, got)
			if s.given < 2 || refused == 0 || resumed == 0 {
				t.Errorf("%d tokens, %d requests refused, %d answers from the middle: nothing has ended", s.given, refused, resumed)
			}
		})
	}
}
