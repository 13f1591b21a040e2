package transfer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"thinrun/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// file is a member of an archive, or a file of a layout.
type file struct {
	name    string
	content []byte
	link    string
}

// layoutFiles are the files of an OCI layout of images, each under its name.
func layoutFiles(t *testing.T, images map[string]*fixture) []file {
	t.Helper()
	list := []file{{name: "oci-layout", content: []byte(`{"imageLayoutVersion":"1.0.0"}`)}}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	seen := make(map[string]bool)
	for ref, f := range images {
		body := f.body(t)
		d := f.add(t, types.OCIManifestSchema1, body)
		if ref != "" {
			d.Annotations = map[string]string{refName: ref}
		}
		index.Manifests = append(index.Manifests, d)
		for digest, b := range f.blobs {
			if !seen[digest] {
				seen[digest] = true
				list = append(list, file{name: blobName(hashOf(t, digest)), content: b})
			}
		}
	}
	body, err := json.Marshal(index)
	check(t, err)
	return append(list, file{name: "index.json", content: body})
}

func dirOf(t *testing.T, files []file) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		p := filepath.Join(dir, f.name)
		check(t, os.MkdirAll(filepath.Dir(p), 0o755))
		if f.link != "" {
			check(t, os.Symlink(f.link, p))
		} else {
			check(t, os.WriteFile(p, f.content, 0o644))
		}
	}
	return dir
}

func archiveOf(t *testing.T, files []file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Size: int64(len(f.content)), Mode: 0o644}
		switch {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h = &tar.Header{Typeflag: tar.TypeSymlink, Name: f.name, Linkname: f.link}
		}
		check(t, w.WriteHeader(h))
		_, err := w.Write(f.content)
		check(t, err)
	}
	check(t, w.Close())
	return b.Bytes()
}

// dockerFiles is what docker save wrote before 25: a directory per layer.
func dockerFiles(t *testing.T, f *fixture, layers [][]byte, tags ...string) []file {
	t.Helper()
	var list []file
	var names []string
	for i, l := range layers {
		name := strings.Repeat("0123456789abcde"+string(rune('0'+i)), 4) + "/layer.tar"
		names = append(names, name)
		list = append(list, file{name: name, content: l})
	}
	config := strings.TrimPrefix(sum(f.config), "sha256:") + ".json"
	body, err := json.Marshal([]saved{{Config: config, RepoTags: tags, Layers: names}})
	check(t, err)
	return append(list, file{name: config, content: f.config}, file{name: "manifest.json", content: body})
}

// dockerSave is what docker save writes since 25, a layout and a manifest.json in one. A
// name of spaces stands for no name.
func dockerSave(t *testing.T, images map[string]*fixture) []file {
	t.Helper()
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	var list []saved
	blobs := make(map[string][]byte)
	for _, n := range slices.Sorted(maps.Keys(images)) {
		f := *images[n] // with layers that are not compressed
		f.blobs = make(map[string][]byte)
		f.manifest.Layers = nil
		entry := saved{Config: blobName(f.manifest.Config.Digest)}
		for _, l := range f.tars {
			d := f.add(t, types.OCIUncompressedLayer, l)
			f.manifest.Layers, entry.Layers = append(f.manifest.Layers, d), append(entry.Layers, blobName(d.Digest))
		}
		f.setConfig(t, f.config)
		d := f.add(t, types.OCIManifestSchema1, f.body(t))
		if n = strings.TrimSpace(n); n != "" {
			_, tag, _ := strings.Cut(n, ":")
			d.Annotations, entry.RepoTags = map[string]string{fullName: "docker.io/library/" + n, refName: tag}, []string{n}
		}
		index.Manifests, list = append(index.Manifests, d), append(list, entry)
		maps.Copy(blobs, f.blobs)
	}
	files := []file{{name: "blobs/"}}
	for digest, b := range blobs {
		files = append(files, file{name: blobName(hashOf(t, digest)), content: b})
	}
	for name, v := range map[string]any{"index.json": index, "manifest.json": list} {
		body, err := json.Marshal(v)
		check(t, err)
		files = append(files, file{name: name, content: body})
	}
	return append(files, file{name: "oci-layout", content: []byte(`{"imageLayoutVersion":"1.0.0"}`)})
}

func withoutLayout(list []file) []file { return list[:len(list)-1] }

// craneFiles is what crane, ko and kaniko write.
func craneFiles(t *testing.T, f *fixture, tags ...string) []file {
	t.Helper()
	config := sum(f.config)
	list, entry := []file{{name: config, content: f.config}}, saved{Config: config, RepoTags: tags}
	for _, l := range f.manifest.Layers {
		name := l.Digest.Hex + ".tar.gz"
		list, entry.Layers = append(list, file{name: name, content: f.blobs[l.Digest.String()]}), append(entry.Layers, name)
	}
	body, err := json.Marshal([]saved{entry})
	check(t, err)
	return append(list, file{name: "manifest.json", content: body})
}

func gz(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	check(t, err)
	check(t, w.Close())
	return out.Bytes()
}

func zst(t *testing.T, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil, opts...)
	check(t, err)
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// opened opens and drains what an import would.
func opened(t *testing.T, what string, opt Options) (got [][]byte, src *image.Source, err error) {
	t.Helper()
	opt.Platform = "linux/amd64"
	return openedAsIs(t, what, opt)
}

func openedAsIs(t *testing.T, what string, opt Options) (got [][]byte, src *image.Source, err error) {
	t.Helper()
	if opt.Spool == "" {
		opt.Spool = t.TempDir()
	}
	src, err = Open(t.Context(), what, opt)
	if err != nil {
		return nil, nil, oneLine(t, err)
	}
	got, err = drain(t.Context(), src)
	check(t, src.Close())
	return got, src, oneLine(t, err)
}

func TestArchivesAndLayouts(t *testing.T) {
	one, two := newFixture(t, "amd64", 3000, 200_000), newFixture(t, "amd64", 500)
	write := func(name string, b []byte) string {
		p := filepath.Join(t.TempDir(), name)
		check(t, os.WriteFile(p, b, 0o644))
		return p
	}
	single := layoutFiles(t, map[string]*fixture{"": one})
	both := layoutFiles(t, map[string]*fixture{"one": one, "host:5000/two:v1": two})
	docker := dockerFiles(t, one, one.tars, "docker.io/library/one:1", "other:2")
	packed := dockerFiles(t, one, [][]byte{gz(t, one.tars[0]), zst(t, one.tars[1])}, "one:1")
	linked := dockerFiles(t, one, one.tars, "one:1")
	linked = append([]file{{name: "shared/layer.tar", content: linked[1].content}}, linked...)
	linked[2] = file{name: linked[2].name, link: "../shared/layer.tar"}
	layoutDir := dirOf(t, both)
	colon := filepath.Join(t.TempDir(), "a:b")
	check(t, os.Rename(dirOf(t, single), colon))
	saved25 := write("a.tar", archiveOf(t, dockerSave(t, map[string]*fixture{"one:latest": one, "two:latest": two})))
	craned := craneFiles(t, one, "one:1")
	underDot := archiveOf(t, append([]file{{name: "./"}}, single...))

	table := []struct {
		name, what string
		stdin      []byte
		want       *fixture
		words      []string
	}{
		{"a layout of one image", "oci:" + dirOf(t, single), nil, one, nil},
		{"by name", "oci:" + layoutDir + ":one", nil, one, nil},
		{"by a name with colons", "oci:" + layoutDir + ":host:5000/two:v1", nil, two, nil},
		{"by digest", "oci:" + layoutDir + ":" + sum(two.body(t)), nil, two, nil},
		{"which of two", "oci:" + layoutDir, nil, nil, []string{"holds 2 images", "oci:DIR:NAME or oci-archive:FILE:NAME takes one"}},
		{"no such name", "oci:" + layoutDir + ":three", nil, nil, []string{`holds no image "three", only`}},
		{"no names at all", "oci:" + dirOf(t, single) + ":three", nil, nil, []string{`holds no image "three", and none that has a name`}},
		{"a colon in the directory", "oci:" + colon, nil, one, nil},
		{"a layout, known by its files", colon, nil, one, nil},
		{"no such directory", "oci:/nonexistent/x:y", nil, nil, []string{"/nonexistent/x"}},
		{"not a layout", "oci:" + t.TempDir(), nil, nil, []string{"not an OCI layout"}},
		{"archive", "oci-archive:" + write("a", archiveOf(t, both)) + ":one", nil, one, nil},
		{"archive, gzip", "oci-archive:" + write("a", gz(t, archiveOf(t, single))), nil, one, nil},
		{"archive, known by its content", write("a.tar", archiveOf(t, single)), nil, one, nil},
		{"archive below a dot", write("a.tar", underDot), nil, one, nil},
		{"archive, zstd, known by its content", write("a.tar", zst(t, archiveOf(t, single))), nil, one, nil},
		{"archive from standard input", "-", archiveOf(t, single), one, nil},
		{"named archive from standard input", "oci-archive:-:one", archiveOf(t, both), one, nil},
		{"docker", "docker-archive:" + write("a", archiveOf(t, docker)), nil, one, nil},
		{"docker by tag", "docker-archive:" + write("a", archiveOf(t, docker)) + ":one:1", nil, one, nil},
		{"docker, no such tag", "docker-archive:" + write("a", archiveOf(t, docker)) + ":one:3", nil, nil, []string{"holds no image", "other:2"}},
		{"docker with compressed layers", "docker-archive:" + write("a", archiveOf(t, packed)), nil, one, nil},
		{"docker with a linked layer", "docker-archive:" + write("a", archiveOf(t, linked)), nil, one, nil},
		{"docker, known by its content", write("a.tar", gz(t, archiveOf(t, docker))), nil, one, nil},
		{"docker, which of two", write("a.tar", archiveOf(t, withoutLayout(dockerSave(t, map[string]*fixture{"one:1": one, "two:1": two})))), nil, nil, []string{"holds 2 images: ", "one:1", "docker-archive:FILE:NAME takes one"}},
		{"docker 25", write("a.tar", archiveOf(t, dockerSave(t, map[string]*fixture{"one:1": one}))), nil, one, nil},
		{"docker 25, two names of one image", write("a.tar", archiveOf(t, dockerSave(t, map[string]*fixture{"one:1": one, "one:2": one}))), nil, one, nil},
		{"docker 25, which of two", saved25, nil, nil, []string{"holds 2 images: ", "docker.io/library/one:latest", "docker.io/library/two:latest"}},
		{"docker 25, of one tag", "oci-archive:" + saved25 + ":latest", nil, nil, []string{"holds 2 images: ", "oci-archive:FILE:NAME takes one"}},
		{"docker 25, by name", "oci-archive:" + saved25 + ":docker.io/library/two:latest", nil, two, nil},
		{"docker 25, by short name", "oci-archive:" + saved25 + ":two", nil, two, nil},
		{"docker 25, as docker's", "docker-archive:" + saved25 + ":two", nil, two, nil},
		{"docker 25, no names", write("a.tar", archiveOf(t, dockerSave(t, map[string]*fixture{"": one, " ": two}))), nil, nil, []string{"holds 2 images: sha256:", "oci-archive:FILE:DIGEST takes one"}},
		{"crane, known by its content", write("a.tar", archiveOf(t, craned)), nil, one, nil},
		{"not docker's", "docker-archive:" + write("a", archiveOf(t, single)), nil, nil, []string{"not a docker archive"}},
		{"not an archive", "oci-archive:" + write("a", bytes.Repeat([]byte("no tar "), 1000)), nil, nil, []string{"tar"}},
		{"nothing", "", nil, nil, []string{"nothing to import"}},
		{"a socket", "/dev/null", nil, nil, []string{"neither a directory nor a tar"}},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			opt := Options{Stdin: bytes.NewReader(row.stdin)}
			got, src, err := opened(t, row.what, opt)
			if row.words != nil {
				wantError(t, err, row.words...)
				return
			}
			check(t, err)
			wantLayers(t, row.want, got)
			if !bytes.Equal(src.Config, row.want.config) || src.From != row.what {
				t.Errorf("config %s from %q", src.Config, src.From)
			}
			for i, l := range src.Layers {
				if l.DiffID != sum(row.want.tars[i]) {
					t.Errorf("layer %d: diff id %s", i+1, l.DiffID)
				}
			}
		})
	}
}

// TestPlainTars: one layer, no config, whatever the compression.
func TestPlainTars(t *testing.T) {
	plain := tarOf(t, "etc/passwd", 3<<20, 7)
	long := bytes.Repeat(plain, 3) // a window of 8 MiB and more has something to refer to
	table := []struct {
		name string
		file []byte
		want []byte
		err  string
	}{
		{"plain", plain, plain, ""},
		{"gzip", gz(t, plain), plain, ""},
		{"gzip of two members", append(gz(t, plain[:1<<20]), gz(t, plain[1<<20:])...), plain, ""},
		{"zstd", zst(t, plain), plain, ""},
		{"zstd --long", zst(t, long, zstd.WithWindowSize(256<<20)), long, ""},
		{"zstd after a skippable frame", append([]byte("\x50\x2a\x4d\x18\x03\x00\x00\x00abc"), zst(t, plain)...), plain, ""},
		{"empty", nil, nil, ""},
		{"short", []byte("abc"), []byte("abc"), ""},
		{"xz", []byte("\xfd7zXZ\x00 and so on"), nil, "compressed with xz; thinrun takes plain, gzip and zstd: pipe the output of xz -dc in"},
		{"bzip2", []byte("BZh91AY"), nil, "compressed with bzip2"},
		{"zip", []byte("PK\x03\x04....."), nil, "compressed with zip"},
		{"cut gzip", gz(t, plain)[:1<<20], nil, "gzip: unexpected EOF"},
		{"cut zstd", zst(t, plain)[:1<<20], nil, "zstd: unexpected EOF"},
		{"gzip with something behind", append(gz(t, plain), "garbage"...), nil, "gzip: "},
		{"a gzip header alone", []byte("\x1f\x8b"), nil, "gzip: unexpected EOF"},
	}
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "x.tar")
			check(t, os.WriteFile(p, row.file, 0o644))
			for _, what := range []string{p, "-"} {
				got, src, err := openedAsIs(t, what, Options{Stdin: bytes.NewReader(row.file)})
				if row.err != "" {
					wantError(t, err, row.err)
					continue
				}
				check(t, err)
				if len(got) != 1 || !bytes.Equal(got[0], row.want) {
					t.Errorf("%s: %d layers, not the same bytes", what, len(got))
				}
				if src.Config != nil || src.Layers[0].DiffID != "" || src.Digest != "" {
					t.Errorf("%s: more than a plain tree: %+v", what, src)
				}
			}
		})
	}
}

func TestDirectoryIsHandedOn(t *testing.T) {
	dir := t.TempDir()
	src, err := Open(t.Context(), dir, Options{})
	check(t, err)
	if len(src.Layers) != 1 || src.Layers[0].Dir == nil || src.Layers[0].Dir.Name() != dir {
		t.Errorf("%+v", src.Layers)
	}
	check(t, src.Close())
}

// TestHostileLayouts: nothing outside is read, nothing hangs, one line each.
func TestHostileLayouts(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(secret, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	f := newFixture(t, "amd64", 1000)
	good := layoutFiles(t, map[string]*fixture{"": f})
	blob := blobName(f.manifest.Layers[0].Digest)
	except := func(name string, repl ...file) (list []file) {
		for _, g := range good {
			if g.name != name {
				list = append(list, g)
			}
		}
		return append(list, repl...)
	}
	dirs := []struct {
		name  string
		make  func() string
		words []string
	}{
		{"a link out of it", func() string { return dirOf(t, except("oci-layout", file{name: "oci-layout", link: secret})) }, []string{"not an OCI layout"}},
		{"a blob that leads out", func() string {
			return dirOf(t, except(blob, file{name: blob, link: "../../../../../../../../etc/passwd"}))
		}, []string{f.manifest.Layers[0].Digest.String()}},
		{"a fifo for a blob", func() string {
			dir := dirOf(t, except(blob))
			check(t, unix.Mkfifo(filepath.Join(dir, blob), 0o644))
			return dir
		}, []string{f.manifest.Layers[0].Digest.String() + ": ", "not a regular file"}},
		{"a directory for a document", func() string {
			dir := dirOf(t, except("index.json"))
			check(t, os.Mkdir(filepath.Join(dir, "index.json"), 0o755))
			return dir
		}, []string{"index.json is not a regular file"}},
		{"a blob that is missing", func() string { return dirOf(t, except(blob)) }, []string{f.manifest.Layers[0].Digest.String() + ": ", "no such file"}},
		{"another blob", func() string {
			return dirOf(t, except(blob, file{name: blob, content: make([]byte, f.manifest.Layers[0].Size)}))
		}, []string{f.manifest.Layers[0].Digest.String() + ": ", "its content has digest"}},
		{"a longer blob", func() string { return dirOf(t, except(blob, file{name: blob, content: make([]byte, 1<<20)})) }, []string{f.manifest.Layers[0].Digest.String() + ": ", "longer than"}},
		{"a shorter blob", func() string {
			return dirOf(t, except(blob, file{name: blob, content: f.blobs[f.manifest.Layers[0].Digest.String()][:500]}))
		}, []string{f.manifest.Layers[0].Digest.String() + ": ", "ends after 500 of"}},
		{"a huge index", func() string {
			return dirOf(t, except("index.json", file{name: "index.json", content: make([]byte, 5<<20)}))
		}, []string{"larger than 4 MiB"}},
		{"another version", func() string {
			return dirOf(t, except("oci-layout", file{name: "oci-layout", content: []byte(`{"imageLayoutVersion":"2.0"}`)}))
		}, []string{"version"}},
	}
	for _, row := range dirs {
		t.Run(row.name, func(t *testing.T) {
			_, _, err := opened(t, "oci:"+row.make(), Options{})
			wantError(t, err, row.words...)
		})
	}
	dockerConfig := func(name string) []file {
		body, err := json.Marshal([]saved{{Config: name, Layers: []string{"x"}}})
		check(t, err)
		return []file{{name: "manifest.json", content: body}, {name: "a", link: "b"}, {name: "b", link: "a"}, {name: "out", link: "/etc/passwd"}}
	}
	for _, row := range []struct {
		name  string
		files []file
		words []string
	}{
		{"links in a circle", dockerConfig("a"), []string{"links in a circle"}},
		{"a link out of the archive", dockerConfig("out"), []string{"no member"}},
		{"a path out of the archive", dockerConfig("../../../etc/passwd"), []string{"no member"}},
		{"an absolute path", dockerConfig("/etc/passwd\x1b[2J"), []string{"no member"}},
		{"manifest.json is a list of nothing", []file{{name: "manifest.json", content: []byte("[]")}}, []string{"names no image"}},
		{"manifest.json is a bomb", []file{{name: "manifest.json", content: bytes.Repeat([]byte("["), 5<<20)}}, []string{"larger than 4 MiB"}},
		{"manifest.json is deep", []file{{name: "manifest.json", content: bytes.Repeat([]byte("["), 1<<20)}}, []string{"exceeded max depth"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			p := filepath.Join(t.TempDir(), "x")
			check(t, os.WriteFile(p, archiveOf(t, row.files), 0o644))
			_, _, err := opened(t, "docker-archive:"+p, Options{})
			wantError(t, err, row.words...)
		})
	}
}

// TestMutatedLayouts changes bytes at random: an error of one line, or the very image.
func TestMutatedLayouts(t *testing.T) {
	f := newFixture(t, "amd64", 300, 2000)
	good := layoutFiles(t, map[string]*fixture{"x": f})
	random := rand.New(rand.NewPCG(1, 2))
	whole, refused := 0, 0
	for range 400 {
		files := make([]file, len(good))
		copy(files, good)
		g := &files[random.IntN(len(files))]
		g.content = bytes.Clone(g.content)
		for range 1 + random.IntN(4) {
			at := random.IntN(len(g.content))
			switch random.IntN(4) {
			case 0:
				g.content[at] ^= 1 << random.IntN(8)
			case 1:
				g.content = append(g.content[:at], g.content[min(len(g.content)-1, at+1+random.IntN(50)):]...)
			case 2:
				g.content = append(g.content[:at:at], append(bytes.Repeat([]byte{byte(random.IntN(256))}, random.IntN(99)), g.content[at:]...)...)
			case 3:
				g.content[at] = `{}[]",:0-/.`[random.IntN(11)]
			}
		}
		got, src, err := openMutated(t, files)
		switch {
		case err != nil:
			refused++
		case len(got) != 2 || !bytes.Equal(got[0], f.tars[0]) || !bytes.Equal(got[1], f.tars[1]) || !bytes.Equal(src.Config, f.config):
			t.Errorf("another image under the same digest from %q", g.name)
		default:
			whole++ // in the name, in white space
		}
	}
	if refused < 300 || whole == 0 {
		t.Errorf("%d refused, %d whole: the mutations do not mutate", refused, whole)
	}
}

func openMutated(t *testing.T, files []file) ([][]byte, *image.Source, error) {
	t.Helper()
	p := filepath.Join(t.TempDir(), "x")
	check(t, os.WriteFile(p, archiveOf(t, files), 0o644))
	return opened(t, "oci-archive:"+p, Options{})
}

// TestTempFileLeavesNoName, on a file system without O_TMPFILE, too.
func TestTempFileLeavesNoName(t *testing.T) {
	for _, open := range []func(string) (*os.File, error){tempFile, namedTemp} {
		dir := t.TempDir()
		check(t, os.WriteFile(filepath.Join(dir, ".spool"), []byte("of somebody who died"), 0o600))
		a, err := open(dir)
		check(t, err)
		defer a.Close()
		b, err := open(dir)
		check(t, err)
		defer b.Close()
		_, err = a.WriteString("a")
		check(t, err)
		if _, err := b.ReadAt(make([]byte, 1), 0); !errors.Is(err, io.EOF) {
			t.Errorf("two callers share a file: %v", err)
		}
	}
	dir := t.TempDir()
	f, err := namedTemp(dir)
	check(t, err)
	defer f.Close()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// TestInterruptEndsWaitingForInput: nobody writes to the pipe, and nobody will.
func TestInterruptEndsWaitingForInput(t *testing.T) {
	for _, sent := range [][]byte{nil, tarOf(t, "x", 100_000, 1)[:50_000]} {
		r, w, err := os.Pipe()
		check(t, err)
		defer r.Close()
		defer w.Close()
		interrupted := errors.New("interrupted")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			w.Write(sent)
			cancel(interrupted)
		}()
		src, err := Open(ctx, "-", Options{Stdin: r})
		if err == nil {
			_, err = drain(ctx, src)
			check(t, src.Close())
		}
		if !errors.Is(err, interrupted) {
			t.Errorf("after %d bytes: %v", len(sent), err)
		}
	}
}

// TestPlainTreeHasNoPlatform: there is nothing that could be chosen by it.
func TestPlainTreeHasNoPlatform(t *testing.T) {
	_, err := Open(t.Context(), t.TempDir(), Options{Platform: "linux/arm64"})
	wantError(t, err, "a plain tree", "--platform")
}
