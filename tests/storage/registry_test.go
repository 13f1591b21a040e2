package storage

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
)

// hub is a registry in this process, on loopback.
type hub struct {
	t    testing.TB
	host string
}

func newHub(t testing.TB) *hub {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	return &hub{t, strings.TrimPrefix(server.URL, "http://")}
}

func (h *hub) put(method, path, kind string, body []byte) {
	h.t.Helper()
	req, err := http.NewRequest(method, "http://"+h.host+path, bytes.NewReader(body))
	check(h.t, err)
	req.Header.Set("Content-Type", kind)
	answer, err := http.DefaultClient.Do(req)
	check(h.t, err)
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		text, _ := io.ReadAll(answer.Body)
		h.t.Fatalf("%s %s: %s: %s", method, path, answer.Status, text)
	}
}

func sum(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// push makes an image of the layers, each an uncompressed tar, base first, and returns its
// reference.
func (h *hub) push(name, tag string, layers ...[]byte) (ref string) {
	h.t.Helper()
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	blob := func(kind string, content []byte) descriptor {
		h.put("POST", "/v2/"+name+"/blobs/uploads/?digest="+sum(content), "application/octet-stream", content)
		return descriptor{kind, sum(content), len(content)}
	}
	var descriptors []descriptor
	var diffIDs []string
	for _, layer := range layers {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write(layer)
		check(h.t, err)
		check(h.t, z.Close())
		descriptors = append(descriptors, blob("application/vnd.oci.image.layer.v1.tar+gzip", b.Bytes()))
		diffIDs = append(diffIDs, sum(layer))
	}
	text := func(v any) []byte {
		b, err := json.Marshal(v)
		check(h.t, err)
		return b
	}
	config := blob("application/vnd.oci.image.config.v1+json", text(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Env": []string{"PATH=/bin"}, "Cmd": []string{"cat", "/version"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}))
	const kind = "application/vnd.oci.image.manifest.v1+json"
	h.put("PUT", "/v2/"+name+"/manifests/"+tag, kind, text(map[string]any{
		"schemaVersion": 2, "mediaType": kind, "config": config, "layers": descriptors,
	}))
	return h.host + "/" + name + ":" + tag
}

// baseLayer is a directory as a layer.
func baseLayer(t testing.TB, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	check(t, w.AddFS(os.DirFS(dir)))
	check(t, w.Close())
	return b.Bytes()
}

// fileLayer is a layer of files, name and content in turn. A name that ends in .wh is one
// that the layer removes.
func fileLayer(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(pairs); i += 2 {
		name, content := pairs[i], pairs[i+1]
		if plain, gone := strings.CutSuffix(name, ".wh"); gone {
			name = filepath.Join(filepath.Dir(plain), ".wh."+filepath.Base(plain))
		}
		check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write([]byte(content))
		check(t, err)
	}
	check(t, w.Close())
	return b.Bytes()
}
