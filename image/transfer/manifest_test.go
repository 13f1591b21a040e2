package transfer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// index pushes a manifest list of images for the platforms, "os/arch/variant" each.
func (s *site) index(t *testing.T, tag string, platforms ...string) map[string]*fixture {
	t.Helper()
	list := v1.IndexManifest{SchemaVersion: 2, MediaType: types.DockerManifestList}
	made := make(map[string]*fixture)
	for i, p := range platforms {
		platform, err := v1.ParsePlatform(p)
		check(t, err)
		f := newFixture(t, platform.Architecture, 100+i)
		f.manifest.MediaType = types.DockerManifestSchema2
		s.push(t, f, fmt.Sprintf("part%d", i))
		body := f.body(t)
		list.Manifests = append(list.Manifests, v1.Descriptor{MediaType: f.manifest.MediaType, Size: int64(len(body)), Digest: hashOf(t, sum(body)), Platform: platform})
		made[p] = f
	}
	body, err := json.Marshal(list)
	check(t, err)
	s.send(t, "PUT", "/v2/img/manifests/"+tag, string(list.MediaType), body)
	return made
}

func TestPlatformChoice(t *testing.T) {
	s := newSite(t)
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	made := s.index(t, "multi", "unknown/unknown", "linux/s390x", "linux/arm/v7", "linux/arm/v6", "linux/amd64/v3", "linux/amd64", "linux/arm64/v8", "windows/amd64")
	s.index(t, "strange", "linux/s390x", "unknown/unknown", "linux/ppc64le")
	s.push(t, newFixture(t, other, 10), "other")
	table := []struct {
		ref, platform string
		want          string // key of made
		words         []string
	}{
		{ref: "multi", want: map[string]string{"amd64": "linux/amd64", "arm64": "linux/arm64/v8"}[runtime.GOARCH]},
		{ref: "multi", platform: "linux/amd64", want: "linux/amd64"},
		{ref: "multi", platform: "linux/amd64/v3", want: "linux/amd64/v3"},
		{ref: "multi", platform: "linux/arm64", want: "linux/arm64/v8"},
		{ref: "multi", platform: "linux/aarch64", want: "linux/arm64/v8"},
		{ref: "multi", platform: "Linux/x86_64", want: "linux/amd64"},
		{ref: "multi", platform: "linux/arm/v6", want: "linux/arm/v6"},
		{ref: "multi", platform: "linux/arm", want: "linux/arm/v7"},
		{ref: "multi", platform: "linux/riscv64", words: []string{"nothing for linux/riscv64, only for linux/amd64, linux/amd64/v3, linux/arm/v6", "windows/amd64 (see --platform)"}},
		{ref: "strange", words: []string{"nothing for linux/" + runtime.GOARCH + ", only for linux/ppc64le, linux/s390x"}},
		{ref: "other", words: []string{"the image is for linux/" + other + ", not for linux/" + runtime.GOARCH, "--platform linux/" + other}},
		{ref: "other", platform: "linux/s390x", words: []string{"the image is for linux/" + other}},
		{ref: "multi", platform: "amd64", words: []string{"--platform", "want os/arch"}},
		{ref: "multi", platform: "linux/a/b/c", words: []string{"--platform", "want os/arch"}},
	}
	for _, row := range table {
		opt := brisk(t)
		opt.Platform = row.platform
		got, _, err := s.pull(t, "img:"+row.ref, opt)
		if row.words != nil {
			wantError(t, err, row.words...)
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", row, err)
			continue
		}
		wantLayers(t, made[row.want], got)
	}
	opt := brisk(t)
	opt.Platform = "linux/" + other
	if _, _, err := s.pull(t, "img:other", opt); err != nil {
		t.Errorf("an image of another architecture, asked for: %v", err)
	}
}

// TestBadManifests: what a digest vouches for can still be nonsense.
func TestBadManifests(t *testing.T) {
	edit := func(change func(m *v1.Manifest)) func(*testing.T, *fixture) []byte {
		return func(t *testing.T, f *fixture) []byte { change(&f.manifest); return f.body(t) }
	}
	raw := func(text string) func(*testing.T, *fixture) []byte {
		return func(*testing.T, *fixture) []byte { return []byte(text) }
	}
	config := func(text string) func(*testing.T, *fixture) []byte {
		return func(t *testing.T, f *fixture) []byte { f.setConfig(t, []byte(text)); return f.body(t) }
	}
	table := []struct {
		name  string
		make  func(*testing.T, *fixture) []byte
		words []string
	}{
		{"unknown layer type", edit(func(m *v1.Manifest) { m.Layers[1].MediaType = "application/x-rpm\x1b[2J" }), []string{"layer 2 of 2: media type", "is not a layer"}},
		{"encrypted layer", edit(func(m *v1.Manifest) { m.Layers[0].MediaType = types.OCILayer + "+encrypted" }), []string{"layer 1 of 2: media type", "encrypted"}},
		{"a chart", edit(func(m *v1.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }), []string{"not an image to run", "helm"}},
		{"unknown manifest", edit(func(m *v1.Manifest) { m.MediaType = "application/x-manifest" }), []string{"neither an image nor an index"}},
		{"schema 1", raw(`{"schemaVersion":1,"name":"img","fsLayers":[]}`), []string{"schema 1"}},
		{"both", raw(`{"schemaVersion":2,"manifests":[],"layers":[]}`), []string{"a manifest and an index in one"}},
		{"an index that is a manifest", raw(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":{},"layers":[]}`), []string{"manifest"}},
		{"a manifest that is an index", raw(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}`), []string{"is an index"}},
		{"empty index", raw(`{"schemaVersion":2,"manifests":[]}`), []string{"nothing for linux/amd64"}},
		{"empty object", raw(`{}`), []string{"neither a manifest nor an index"}},
		{"a digest that climbs", func(t *testing.T, f *fixture) []byte {
			return bytes.ReplaceAll(f.body(t), []byte(f.manifest.Layers[0].Digest.String()), []byte("sha256:../../../../etc/shadow"))
		}, []string{"not a manifest"}},
		{"a digest of a kind that is not known", func(t *testing.T, f *fixture) []byte {
			return bytes.ReplaceAll(f.body(t), []byte("sha256:"), []byte("md5:"))
		}, []string{"not a manifest", "md5"}},
		{"negative size", edit(func(m *v1.Manifest) { m.Layers[0].Size = -1 }), []string{"a size of -1"}},
		{"size that is not one", func(t *testing.T, f *fixture) []byte {
			return bytes.Replace(f.body(t), []byte(`"size":`), []byte(`"size":1e300,"s":`), 1)
		}, []string{"not a manifest"}},
		{"too small a size", edit(func(m *v1.Manifest) { m.Layers[0].Size-- }), []string{"sha256:", "longer than"}},
		{"too large a size", edit(func(m *v1.Manifest) { m.Layers[0].Size++ }), []string{"sha256:", "bytes in the registry, its descriptor says"}},
		{"config of another size", edit(func(m *v1.Manifest) { m.Config.Size++ }), []string{"config sha256:", "its descriptor says"}},
		{"huge config", edit(func(m *v1.Manifest) { m.Config.Size = 1 << 40 }), []string{"larger than 4 MiB"}},
		{"more layers than diff_ids", edit(func(m *v1.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }), []string{"2 diff_ids for 3 layers"}},
		{"2000 layers", edit(func(m *v1.Manifest) {
			for range 2000 {
				m.Layers = append(m.Layers, m.Layers[0])
			}
		}), []string{"2002 layers; thinrun takes 1024"}},
		{"no layers", config(`{"rootfs":{"type":"layers"}}`), []string{"diff_ids"}},
		{"config is not json", config("\x7fELF"), []string{"config:"}},
		{"config without rootfs", config(`{"os":"linux","architecture":"amd64"}`), []string{"rootfs.type"}},
		{"config of another digest kind", config(`{"rootfs":{"type":"layers","diff_ids":["sha256:../x","a"]}}`), []string{"config:"}},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			s := newSite(t)
			f := newFixture(t, "amd64", 10, 20)
			body := row.make(t, f)
			for digest, b := range f.blobs {
				s.send(t, "POST", "/v2/img/blobs/uploads/?digest="+digest, "application/octet-stream", b)
			}
			s.set(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "/manifests/") {
					w.Write(body)
					return true
				}
				return false
			})
			opt := brisk(t)
			opt.Platform = "linux/amd64"
			_, _, err := s.pull(t, "img:bad", opt)
			wantError(t, err, row.words...)
		})
	}
}

// TestIndexInIndex: so deep and no deeper.
func TestIndexInIndex(t *testing.T) {
	s := newSite(t)
	f := newFixture(t, "amd64", 10)
	s.push(t, f, "leaf")
	body := f.body(t)
	for depth := range 4 {
		opt := brisk(t)
		opt.Platform = "linux/amd64"
		got, _, err := s.pull(t, fmt.Sprintf("img@%s", sum(body)), opt)
		if depth < maxNesting {
			check(t, err)
			wantLayers(t, f, got)
		} else {
			wantError(t, err, "levels")
		}
		var kind types.MediaType = types.OCIImageIndex
		if depth == 0 {
			kind = types.OCIManifestSchema1
		}
		next, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{
			{MediaType: kind, Size: int64(len(body)), Digest: hashOf(t, sum(body)), Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}}})
		check(t, err)
		body = next
		s.send(t, "PUT", fmt.Sprintf("/v2/img/manifests/depth%d", depth), string(types.OCIImageIndex), body)
	}
}

// TestLayerTypes: the content is looked at, not the type; a foreign layer is one that the
// registry may have.
func TestLayerTypes(t *testing.T) {
	plain := func(_ *testing.T, b []byte) []byte { return b }
	zstd := func(t *testing.T, b []byte) []byte { return zst(t, b) }
	for _, row := range []struct {
		kind types.MediaType
		pack func(*testing.T, []byte) []byte
		lost bool // the registry does not have it
	}{
		{types.OCIUncompressedLayer, plain, false},
		{types.OCILayer, gz, false},
		{types.OCILayerZStd, zstd, false},
		{types.DockerLayer, gz, false},
		{types.DockerLayer, plain, false}, // podman push --compress=false says so
		{types.DockerForeignLayer, gz, false},
		{types.OCIRestrictedLayer, gz, false},
		{types.DockerForeignLayer, gz, true},
	} {
		t.Run(fmt.Sprintf("%s, lost=%v", row.kind, row.lost), func(t *testing.T) {
			s := newSite(t)
			f := newFixture(t, "amd64", 4000)
			delete(f.blobs, f.manifest.Layers[0].Digest.String())
			packed := row.pack(t, f.tars[0])
			f.manifest.Layers[0] = f.add(t, row.kind, packed)
			s.push(t, f, "1")
			if row.lost {
				f.manifest.Layers[0].URLs = []string{s.URL + "/elsewhere"}
				s.push(t, f, "1")
				s.blobHook(f.manifest.Layers[0], func(_ int, w http.ResponseWriter, r *http.Request) bool {
					http.NotFound(w, r)
					return true
				})
			}
			opt := brisk(t)
			opt.Platform = "linux/amd64"
			got, _, err := s.pull(t, "img:1", opt)
			if row.lost {
				wantError(t, err, "foreign layer", "does not follow the URLs")
				if followed := s.requests("/elsewhere"); len(followed) > 0 {
					t.Errorf("followed: %q", followed)
				}
				return
			}
			check(t, err)
			wantLayers(t, f, got)
		})
	}
}
