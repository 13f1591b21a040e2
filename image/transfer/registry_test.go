package transfer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"thinrun/image"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// fixture is an image as its parts, so that a test can spoil each of them.
type fixture struct {
	tars     [][]byte // uncompressed layers
	blobs    map[string][]byte
	config   []byte
	manifest v1.Manifest
}

// tarOf is a layer with one file of random content: it does not compress.
func tarOf(t *testing.T, name string, size int, seed uint64) []byte {
	t.Helper()
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(content)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(size), Mode: 0o644}))
	_, err := w.Write(content)
	check(t, err)
	check(t, w.Close())
	return b.Bytes()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

func hashOf(t *testing.T, digest string) v1.Hash {
	t.Helper()
	h, err := v1.NewHash(digest)
	check(t, err)
	return h
}

func newFixture(t *testing.T, arch string, sizes ...int) *fixture {
	t.Helper()
	f := &fixture{blobs: make(map[string][]byte)}
	var diffs []string
	f.manifest = v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for i, size := range sizes {
		plain := tarOf(t, fmt.Sprintf("file%d", i), size, uint64(size+i))
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(plain)
		check(t, w.Close())
		f.tars, diffs = append(f.tars, plain), append(diffs, sum(plain))
		f.manifest.Layers = append(f.manifest.Layers, f.add(t, types.OCILayer, z.Bytes()))
	}
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": arch, "config": map[string]any{"Cmd": []string{"sh"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	check(t, err)
	f.setConfig(t, config)
	return f
}

func (f *fixture) add(t *testing.T, kind types.MediaType, content []byte) v1.Descriptor {
	t.Helper()
	f.blobs[sum(content)] = content
	return v1.Descriptor{MediaType: kind, Size: int64(len(content)), Digest: hashOf(t, sum(content))}
}

func (f *fixture) setConfig(t *testing.T, config []byte) {
	f.config = config
	f.manifest.Config = f.add(t, types.OCIConfigJSON, config)
}

func (f *fixture) body(t *testing.T) []byte {
	t.Helper()
	b, err := json.Marshal(f.manifest)
	check(t, err)
	return b
}

// site is a registry on loopback: the library's own, with what a test does to requests
// in front of it. hook answers true when it has answered.
type site struct {
	*httptest.Server
	mu   sync.Mutex
	hook func(w http.ResponseWriter, r *http.Request) bool
	seen []string // "GET /v2/...", with the range if there is one
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := newStoppedSite()
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func newStoppedSite() *site {
	s := &site{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		line := r.Method + " " + r.URL.Path
		if at := r.Header.Get("Range"); at != "" {
			line += " " + at
		}
		s.seen = append(s.seen, line)
		hook := s.hook
		s.mu.Unlock()
		if hook == nil || !hook(w, r) {
			inner.ServeHTTP(w, r)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	return s
}

func (s *site) host() string { return s.Listener.Addr().String() }

func (s *site) set(hook func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

func (s *site) requests(what string) (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.seen {
		if strings.Contains(r, what) {
			list = append(list, r)
		}
	}
	return list
}

func (s *site) send(t *testing.T, method, path, kind string, body []byte) {
	t.Helper()
	req, err := http.NewRequest(method, s.URL+path, bytes.NewReader(body))
	check(t, err)
	req.Header.Set("Content-Type", kind)
	resp, err := s.Client().Do(req)
	check(t, err)
	resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// push stores an image under name:tag, by the protocol.
func (s *site) push(t *testing.T, f *fixture, tag string) (digest string) {
	t.Helper()
	for digest, b := range f.blobs {
		s.send(t, "POST", "/v2/img/blobs/uploads/?digest="+digest, "application/octet-stream", b)
	}
	body := f.body(t)
	s.send(t, "PUT", "/v2/img/manifests/"+tag, string(f.manifest.MediaType), body)
	return sum(body)
}

// brisk asks again at once, because a test waits for it. What is silent is slow, here.
func brisk(t *testing.T) Options {
	return Options{Spool: t.TempDir(), patience: patience{idle: 5 * time.Minute, pause: time.Millisecond, tries: 3}}
}

func (s *site) pull(t *testing.T, ref string, opt Options) (tars [][]byte, src *image.Source, err error) {
	t.Helper()
	return pulled(t, s.host()+"/"+ref, opt)
}

// pulled knows no credentials and certificates but those of the test.
func pulled(t *testing.T, ref string, opt Options) (tars [][]byte, src *image.Source, err error) {
	t.Helper()
	for _, v := range []string{"REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG"} {
		if _, set := os.LookupEnv(v); !set || !strings.HasPrefix(os.Getenv(v), os.TempDir()) {
			t.Setenv(v, "")
		}
	}
	if os.Getenv("HOME") == "" || !strings.HasPrefix(os.Getenv("HOME"), os.TempDir()) {
		t.Setenv("HOME", t.TempDir())
	}
	src, err = Open(t.Context(), "docker://"+ref, opt)
	if err != nil {
		return nil, nil, oneLine(t, err)
	}
	tars, err = drain(t.Context(), src)
	if e := src.Close(); e != nil {
		t.Errorf("close: %v", e)
	}
	left, _ := os.ReadDir(opt.Spool)
	if len(left) > 0 {
		t.Errorf("left in the spool: %v", left)
	}
	return tars, src, oneLine(t, err)
}

func oneLine(t *testing.T, err error) error {
	t.Helper()
	if err != nil && (strings.ContainsAny(err.Error(), "\n\r\x1b") || len(err.Error()) > 1200) {
		t.Errorf("not one line: %q", err)
	}
	return err
}

// drain reads all layers, base first, as an import does.
func drain(ctx context.Context, src *image.Source) (tars [][]byte, err error) {
	var all []int
	for i := range src.Layers {
		all = append(all, i)
	}
	if src.Need != nil {
		src.Need(all)
	}
	for _, l := range src.Layers {
		r, err := l.Open(ctx)
		if err != nil {
			return tars, err
		}
		b, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return tars, err
		}
		tars = append(tars, b)
	}
	return tars, nil
}

func wantLayers(t *testing.T, f *fixture, got [][]byte) {
	t.Helper()
	if len(got) != len(f.tars) {
		t.Fatalf("%d layers, want %d", len(got), len(f.tars))
	}
	for i := range got {
		if !bytes.Equal(got[i], f.tars[i]) {
			t.Errorf("layer %d differs: %d bytes, want %d", i+1, len(got[i]), len(f.tars[i]))
		}
	}
}

// wantPull: without words the pull has brought f, else its error has them, and no secret of
// the test's files.
func wantPull(t *testing.T, f *fixture, got [][]byte, err error, words []string) {
	t.Helper()
	if words == nil {
		check(t, err)
		wantLayers(t, f, got)
		return
	}
	wantError(t, err, words...)
	if strings.Contains(err.Error(), "ecret") {
		t.Errorf("the error tells a secret: %v", err)
	}
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
}

func TestPullGivesLayersAndConfig(t *testing.T) {
	s := newSite(t)
	f := newFixture(t, "amd64", 100, 3<<20, 700<<10, 0, 12345)
	digest := s.push(t, f, "1")
	for _, ref := range []string{"img:1", "img@" + digest, "img:1@" + digest} {
		opt := brisk(t)
		opt.Platform = "linux/amd64"
		var mu sync.Mutex
		last := make(map[int]Progress)
		opt.Progress = func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			if p.Bytes < last[p.Layer].Bytes {
				t.Errorf("progress goes back: %+v after %+v", p, last[p.Layer])
			}
			last[p.Layer] = p
		}
		got, src, err := s.pull(t, ref, opt)
		check(t, err)
		wantLayers(t, f, got)
		if src.Digest != digest || !bytes.Equal(src.Config, f.config) {
			t.Errorf("%s: digest %s, config %s", ref, src.Digest, src.Config)
		}
		for i, l := range f.manifest.Layers {
			if p := last[i]; p.Bytes != l.Size || p.Total != l.Size || p.Digest != l.Digest.String() {
				t.Errorf("%s: layer %d: last progress %+v", ref, i+1, p)
			}
		}
	}
}

// TestOnlyWhatIsNeededIsFetched: the layers that are there already cost nothing.
func TestOnlyWhatIsNeededIsFetched(t *testing.T) {
	s := newSite(t)
	f := newFixture(t, "amd64", 1000, 2000, 3000)
	s.push(t, f, "1")
	opt := brisk(t)
	opt.Platform = "linux/amd64"
	src, err := Open(t.Context(), "docker://"+s.host()+"/img:1", opt)
	check(t, err)
	defer src.Close()
	src.Need([]int{2})
	r, err := src.Layers[2].Open(t.Context())
	check(t, err)
	got, err := io.ReadAll(r)
	check(t, errors.Join(err, r.Close()))
	if !bytes.Equal(got, f.tars[2]) {
		t.Error("layer 3 differs")
	}
	for i, want := range []int{0, 0, 1} {
		if got := s.requests("blobs/" + f.manifest.Layers[i].Digest.String()); len(got) != want {
			t.Errorf("layer %d: %d requests, want %d: %q", i+1, len(got), want, got)
		}
	}
}

// blobHook is about the requests for one blob, counted from 0.
func (s *site) blobHook(d v1.Descriptor, hook func(n int, w http.ResponseWriter, r *http.Request) bool) {
	var mu sync.Mutex
	n := 0
	s.set(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != "GET" || !strings.HasSuffix(r.URL.Path, "/blobs/"+d.Digest.String()) {
			return false
		}
		mu.Lock()
		at := n
		n++
		mu.Unlock()
		return hook(at, w, r)
	})
}

// breakAfter answers like a server that does ranges, or does not, and hangs up.
func breakAfter(w http.ResponseWriter, r *http.Request, content []byte, n int, ranges bool) {
	from := 0
	if ranges {
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(content[from:min(from+n, len(content))])
	w.(http.Flusher).Flush()
	if from+n < len(content) {
		panic(http.ErrAbortHandler)
	}
}

func TestBrokenConnectionGoesOn(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		t.Run(fmt.Sprintf("ranges=%v", ranges), func(t *testing.T) {
			s := newSite(t)
			f := newFixture(t, "amd64", 10, 1<<20)
			s.push(t, f, "1")
			d := f.manifest.Layers[1]
			content := f.blobs[d.Digest.String()]
			// Without ranges each request has to come further than the one before.
			s.blobHook(d, func(n int, w http.ResponseWriter, r *http.Request) bool {
				size := 200_000
				if !ranges {
					size *= n + 1
				}
				breakAfter(w, r, content, size, ranges)
				return true
			})
			opt := brisk(t)
			opt.Platform = "linux/amd64"
			got, _, err := s.pull(t, "img:1", opt)
			check(t, err)
			wantLayers(t, f, got)
			asked := s.requests(d.Digest.String() + " bytes=")
			if len(asked) != 5 || ranges && !strings.HasSuffix(asked[4], "bytes=1000000-") {
				t.Errorf("asked %d times to go on: %q", len(asked), asked)
			}
		})
	}
}

func TestLayerFaults(t *testing.T) {
	const size = 300_000
	table := []struct {
		name  string
		hook  func(n int, w http.ResponseWriter, r *http.Request, content []byte)
		words []string // of the error; none: it succeeds
	}{
		{"broken for good", func(_ int, w http.ResponseWriter, r *http.Request, content []byte) {
			if r.Header.Get("Range") != "" {
				panic(http.ErrAbortHandler)
			}
			breakAfter(w, r, content, 1000, true)
		}, []string{"hung up"}},
		{"500 three times", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			http.Error(w, "no", http.StatusInternalServerError)
		}, []string{"500 Internal Server Error"}},
		{"500 once", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			if n == 0 {
				http.Error(w, "no", http.StatusBadGateway)
				return
			}
			w.Write(content)
		}, nil},
		{"429 once", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			if n == 0 {
				w.Header().Set("Retry-After", "0")
				http.Error(w, "slowly", http.StatusTooManyRequests)
				return
			}
			w.Write(content)
		}, nil},
		{"429 until tomorrow", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			if n > 0 {
				w.Write(content) // who asks again gets it, and has waited
				return
			}
			w.Header().Set("Retry-After", "86400")
			w.WriteHeader(http.StatusTooManyRequests)
		}, []string{"429 Too Many Requests"}},
		{"429 until a date", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			if n > 0 {
				w.Write(content)
				return
			}
			w.Header().Set("Retry-After", "Fri, 31 Dec 9999 23:59:59 GMT")
			w.WriteHeader(http.StatusTooManyRequests)
		}, []string{"429 Too Many Requests"}},
		{"429 for ever", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			io.WriteString(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached\nyour limit"}]}`)
		}, []string{"429 Too Many Requests: you have reached?your limit"}},
		{"404", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			http.NotFound(w, r)
		}, []string{"404 Not Found: it lacks a part of the image"}},
		{"hangs up", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			panic(http.ErrAbortHandler)
		}, []string{": hung up without an answer"}},
		{"other bytes", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			other := bytes.Clone(content)
			other[len(other)-1] ^= 1 // in gzip's own checksum: the digest has to find it
			w.Write(other)
		}, []string{"its content has digest sha256:"}},
		{"shorter, and says so", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(size/2))
			w.Write(content[:size/2])
		}, []string{"has 150000 bytes in the registry"}},
		{"shorter, chunked", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			w.(http.Flusher).Flush()
			w.Write(content[:size/2])
		}, []string{"broke off after 150000 of"}},
		{"longer, and says so", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			w.Write(append(bytes.Clone(content), "more"...))
		}, []string{"longer than the"}},
		{"longer, chunked", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			w.(http.Flusher).Flush()
			w.Write(content)
			for range 1000 {
				if _, err := w.Write(content); err != nil {
					return // it hung up, as it should
				}
			}
		}, []string{"longer than the"}},
		{"a range from elsewhere", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			if r.Header.Get("Range") == "" {
				breakAfter(w, r, content, 1000, true)
			}
			w.Header().Set("Content-Range", "bytes 200000-300000/300001")
			w.WriteHeader(http.StatusPartialContent)
		}, []string{"asked from byte 1000 on"}},
		{"sends to plain http elsewhere", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			http.Redirect(w, r, "http://192.0.2.1/blob", http.StatusTemporaryRedirect)
		}, []string{"plain http to 192.0.2.1"}},
		{"redirects for ever", func(n int, w http.ResponseWriter, r *http.Request, content []byte) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, []string{"redirects"}},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			s := newSite(t)
			f := newFixture(t, "amd64", 10, size)
			s.push(t, f, "1")
			d := f.manifest.Layers[1]
			s.blobHook(d, func(n int, w http.ResponseWriter, r *http.Request) bool {
				row.hook(n, w, r, f.blobs[d.Digest.String()])
				return true
			})
			opt := brisk(t)
			opt.Platform = "linux/amd64"
			got, _, err := s.pull(t, "img:1", opt)
			if row.words == nil {
				check(t, err)
				wantLayers(t, f, got)
				return
			}
			wantError(t, err, append(row.words, d.Digest.String()+": ")...)
			if len(got) != 1 {
				t.Errorf("%d layers came to their end; the second must not", len(got))
			}
		})
	}
}

// TestStalledRegistry: silence ends a pull, in a request's answer and before it; what is
// slow but alive does not. Closing the Source ends what still waits.
func TestStalledRegistry(t *testing.T) {
	for _, when := range []string{"before the answer", "inside the layer", "at the manifest"} {
		t.Run(when, func(t *testing.T) {
			s := newSite(t)
			f := newFixture(t, "amd64", 10, 200_000)
			s.push(t, f, "1")
			d := f.manifest.Layers[1]
			hang := func(w http.ResponseWriter, r *http.Request) bool {
				if when == "inside the layer" {
					w.Write(f.blobs[d.Digest.String()][:1000])
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
				return true
			}
			if when == "at the manifest" {
				s.set(func(w http.ResponseWriter, r *http.Request) bool {
					return strings.Contains(r.URL.Path, "/manifests/") && hang(w, r)
				})
			} else {
				s.blobHook(d, func(_ int, w http.ResponseWriter, r *http.Request) bool { return hang(w, r) })
			}
			opt := brisk(t)
			opt.Platform = "linux/amd64"
			opt.patience = patience{idle: 50 * time.Millisecond, pause: time.Millisecond, tries: 2}
			_, _, err := s.pull(t, "img:1", opt)
			wantError(t, err, "the registry went silent: no byte in 50ms")
		})
	}
}

func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	s := newSite(t)
	f := newFixture(t, "amd64", 10, 200_000)
	s.push(t, f, "1")
	d := f.manifest.Layers[1]
	asked := make(chan bool)
	s.blobHook(d, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		asked <- true
		<-r.Context().Done()
		return true
	})
	opt := brisk(t)
	opt.Platform, opt.patience.idle = "linux/amd64", time.Hour
	src, err := Open(t.Context(), "docker://"+s.host()+"/img:1", opt)
	check(t, err)
	src.Need([]int{0, 1})
	r, err := src.Layers[1].Open(t.Context())
	check(t, err)
	<-asked
	check(t, src.Close())
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a layer that was not fetched ends well")
	}
	r.Close()
}

// TestCertificateOfNobody: https with a certificate that nobody signed is taken only when
// asked for, and never left for plain http in silence.
func TestCertificateOfNobody(t *testing.T) {
	s := newStoppedSite()
	s.StartTLS()
	defer s.Close()
	f := newFixture(t, "amd64", 10, 1000)
	s.push(t, f, "1")
	opt := brisk(t)
	opt.Platform = "linux/amd64"
	_, _, err := s.pull(t, "img:1", opt)
	wantError(t, err, "certificate")
	opt.Insecure = true
	got, _, err := s.pull(t, "img:1", opt)
	check(t, err)
	wantLayers(t, f, got)
}

// TestReferences: what Docker takes is taken; of the rest it is said what is wrong.
func TestReferences(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	for text, want := range map[string]string{
		"debian": "index.docker.io/library/debian:latest", "docker.io/debian:12": "index.docker.io/library/debian:12", "me/x": "index.docker.io/me/x:latest",
		"docker://quay.io/a/b": "quay.io/a/b:latest", "localhost/x": "localhost/x:latest", "LocalHost:5000/x": "LocalHost:5000/x:latest",
		"[::1]:5000/x:1": "[::1]:5000/x:1", "quay.io/a@" + digest: "quay.io/a@" + digest, "quay.io:443/a:1@" + digest: "quay.io:443/a@" + digest,
	} {
		check(t, CheckReference(text))
		ref, err := parseReference(strings.TrimPrefix(text, "docker://"), false)
		check(t, err)
		if ref.Name() != want {
			t.Errorf("%s is %s, want %s", text, ref.Name(), want)
		}
	}
	for text, word := range map[string]string{
		"": "must be specified", "Debian": "can only contain", "quay.io/Debian": "can only contain", "debian:": "after the colon", "a:b:c": "can only contain", "a:b c": "can only contain",
		"a@sha256:12": "invalid checksum digest length", "a@" + digest[7:]: "invalid checksum digest format", "a@md5:12": "unsupported digest", "a@b@c": "exactly one '@'",
		"http://quay.io/a": `leave out "http://"`, "docker://docker://a": `leave out "docker://"`, "quay.io/a/../b": `".." is no part`, "a\x1b[2J": "can only contain",
	} {
		wantError(t, oneLine(t, CheckReference(text)), "reference ", word)
	}
}

// TestProxyThatRefuses is not taken for the registry, and its password is not told.
func TestProxyThatRefuses(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") == "" {
			t.Errorf("%s with %q", r.Method, r.Header)
		}
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	p := newPatient(Options{patience: brisk(t).patience}, name.Registry{}, certificates{})
	p.inner.plain.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy.Listener.Addr().String(), User: url.UserPassword(user, password)})
	req, err := http.NewRequest("GET", "https://registry.test/v2/", nil)
	check(t, err)
	_, err = p.RoundTrip(req)
	wantError(t, err, "the proxy "+proxy.Listener.Addr().String()+" says 407 Proxy Authentication Required")
	if strings.Contains(err.Error(), "ecret") {
		t.Errorf("the error tells the password: %v", err)
	}
}

func TestPlainHTTPOnlyToThisMachine(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "LocalHost": true, "127.0.0.1": true, "127.8.9.1": true, "::1": true,
		"10.0.0.1": false, "192.168.1.1": false, "example.com": false, "localhost.example.com": false, "0.0.0.0": false} {
		if isLoopback(host) != want {
			t.Errorf("%s: %v", host, !want)
		}
	}
	req, err := http.NewRequest("GET", "http://192.0.2.1/v2/", nil)
	check(t, err)
	_, err = newPatient(Options{patience: brisk(t).patience}, name.Registry{}, certificates{}).RoundTrip(req)
	wantError(t, err, "plain http to 192.0.2.1, which is not this machine (--tls-verify=false allows it)")
}
