package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func importInto(t *testing.T, src *Source) (dir string, img *Image) {
	t.Helper()
	s, layers := fixture(t)
	img, err := s.Import(context.Background(), Import{
		Name: "x", Driver: "plain", Layers: layers, InUse: nobody, Source: src,
		Note: func(s string) { t.Errorf("note: %s", s) },
	})
	must(t, err)
	return filepath.Join(layers.dir, img.Layer()), img
}

func newZstd(t *testing.T, w io.Writer, o ...zstd.EOption) *zstd.Encoder {
	t.Helper()
	z, err := zstd.NewWriter(w, o...)
	must(t, err)
	return z
}

// iotestHalf gives less than it is asked for, as a pipe does.
type iotestHalf struct{ r io.Reader }

func (h iotestHalf) Read(p []byte) (int, error) { return h.r.Read(p[:(len(p)+1)/2]) }

// A compressed stream with a wrong byte or a missing end is not an image.
func TestBrokenCompression(t *testing.T) {
	var plain bytes.Buffer
	plain.Write(oneFile(t, strings.Repeat("some text that compresses\n", 4000)))
	var gz, zs bytes.Buffer
	for _, w := range []io.WriteCloser{gzip.NewWriter(&gz), newZstd(t, &zs)} {
		_, err := w.Write(plain.Bytes())
		must(t, err)
		must(t, w.Close())
	}
	for name, whole := range map[string][]byte{"gzip": gz.Bytes(), "zstd": zs.Bytes()} {
		for _, cut := range []int{len(whole) - 1, len(whole) - 4, len(whole) / 2, 20} {
			broken(t, fmt.Sprintf("%s cut at %d", name, cut), whole[:cut])
		}
		sum := bytes.Clone(whole)
		sum[len(sum)-6] ^= 1 // the checksum, or the data just before it
		broken(t, name+" with a wrong byte", sum)
	}
}

func broken(t *testing.T, what string, data []byte) {
	t.Helper()
	s, layers := fixture(t)
	_, err := s.Import(context.Background(), Import{Name: "x", Source: stdin(bytes.NewReader(data)), Layers: layers, InUse: nobody})
	if err == nil {
		t.Errorf("%s: no error", what)
	}
	equal(t, "layers", layers.has(t), nil)
}

// The decoder keeps 8 MiB: what refers further back is refused before a byte is written.
func TestZstdWindow(t *testing.T) {
	for _, window := range []int{8 << 20, 16 << 20, 128 << 20} {
		var b bytes.Buffer
		w := newZstd(t, &b, zstd.WithWindowSize(window), zstd.WithSingleSegment(false))
		_, err := w.Write(oneFile(t, strings.Repeat("x", 1<<20)))
		must(t, err)
		must(t, w.Flush())
		must(t, w.Close())
		s, layers := fixture(t)
		_, err = s.Import(context.Background(), Import{Name: "x", Source: stdin(&b), Layers: layers, InUse: nobody})
		if window == 8<<20 {
			must(t, err)
		} else if want := fmt.Sprintf("window of %d MiB", window>>20); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want an error with %q", err, want)
		}
	}
	// One segment of known size is its own window.
	data := oneFile(t, strings.Repeat("x", 20<<20))
	whole := newZstd(t, nil, zstd.WithWindowSize(128<<20), zstd.WithSingleSegment(true)).EncodeAll(data, nil)
	if w := zstdWindow(bufio.NewReader(bytes.NewReader(whole))); w != uint64(len(data)) {
		t.Errorf("window %d of a single segment of %d", w, len(data))
	}
}

// Two gzip members in a row are one stream: pigz and others write such.
func TestGzipMembers(t *testing.T) {
	data := oneFile(t, "two members")
	var b bytes.Buffer
	for _, part := range [][]byte{data[:700], data[700:]} {
		w := gzip.NewWriter(&b)
		_, err := w.Write(part)
		must(t, err)
		must(t, w.Close())
	}
	dir, _ := importInto(t, stdin(&b))
	got, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil || string(got) != "two members" {
		t.Errorf("%q, %v", got, err)
	}
}
