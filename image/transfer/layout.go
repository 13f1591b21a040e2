package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"thinrun/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// files is where an image's files lie, by their names there: a directory, an archive.
type files interface {
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

// directory is a directory; no link in it leads out (os.Root).
type directory struct{ *os.Root }

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	// Opening a fifo would wait for a writer.
	f, err := d.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, st.Size(), nil
}

// layout is an OCI image layout. The name of a blob is its digest, so a name that could
// lead elsewhere is no digest, and refused as such.
type layout struct{ files }

func (l layout) blob(_ context.Context, h v1.Hash) (io.ReadCloser, error) {
	r, _, err := l.open(blobName(h))
	return r, err
}

func (l layout) manifest(ctx context.Context, h v1.Hash) (io.ReadCloser, error) {
	return l.blob(ctx, h)
}

func openLayout(ctx context.Context, dir, ref string, opt Options) (*image.Source, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	src, err := fromLayout(ctx, directory{root}, ref, opt)
	if err != nil {
		root.Close()
		return nil, err
	}
	return src, nil
}

// fromLayout finds the image in a layout, whose files are closed with the Source.
func fromLayout(ctx context.Context, in files, ref string, opt Options) (*image.Source, error) {
	want, err := opt.wanted()
	if err != nil {
		return nil, err
	}
	var version struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := readJSON(in, "oci-layout", &version); err != nil {
		return nil, fmt.Errorf("not an OCI layout: %w", err)
	}
	if !strings.HasPrefix(version.Version, "1.") {
		return nil, fmt.Errorf("an OCI layout of version %q; thinrun knows 1", printable(version.Version))
	}
	var index document
	if err := readJSON(in, "index.json", &index); err != nil {
		return nil, err
	}
	d, err := named(index.Manifests, ref, want)
	if err != nil {
		return nil, err
	}
	img, err := find(ctx, layout{in}, d, want)
	if err != nil {
		return nil, err
	}
	src := img.source()
	src.Close = in.Close
	for i := range src.Layers {
		src.Layers[i].Open = func(ctx context.Context) (io.ReadCloser, error) {
			l := img.layers[i]
			r, err := layout{in}.blob(ctx, l.Digest)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.Digest, err)
			}
			seen := func(n int64) {
				opt.progress(Progress{Layer: i, Digest: l.Digest.String(), Bytes: n, Total: l.Size})
			}
			return rawLayer{name: l.Digest.String(), r: verify(r, l, seen), verified: true, ctx: ctx, close: r.Close}.open(), nil
		}
	}
	return src, nil
}

// Annotations that name an image in a layout. containerd, buildkit and docker save keep
// only the tag in the OCI's own.
const (
	refName  = "org.opencontainers.image.ref.name"
	fullName = "io.containerd.image.name"
)

func nameIn(d v1.Descriptor) string {
	if n := d.Annotations[fullName]; n != "" {
		return n
	}
	return d.Annotations[refName]
}

// named chooses from a layout's index by name or digest. In the end there has to be one
// image only, under however many names and for however many platforms.
func named(list []v1.Descriptor, ref string, want wanted) (v1.Descriptor, error) {
	called := list
	if ref != "" {
		if called = withName(list, ref); len(called) == 0 {
			return v1.Descriptor{}, noneOf(ref, namesOf(list))
		}
	}
	var found []v1.Descriptor
	for _, d := range called {
		if !slices.ContainsFunc(found, func(other v1.Descriptor) bool { return other.Digest == d.Digest }) {
			found = append(found, d)
		}
	}
	if names := namesOf(found); len(names) > 1 {
		return v1.Descriptor{}, severalOf(len(names), names, "oci:DIR:NAME or oci-archive:FILE:NAME")
	}
	d, err := only(found, want)
	if err != nil {
		return d, err
	}
	alike := slices.DeleteFunc(slices.Clone(found), func(other v1.Descriptor) bool { return platformOf(other) != platformOf(d) })
	if len(alike) > 1 {
		return d, severalOf(len(alike), []string{alike[0].Digest.String(), alike[1].Digest.String()}, "oci:DIR:DIGEST or oci-archive:FILE:DIGEST")
	}
	return d, nil
}

// withName finds what is called ref, or else what Docker would call so.
func withName(list []v1.Descriptor, ref string) []v1.Descriptor {
	found := slices.DeleteFunc(slices.Clone(list), func(d v1.Descriptor) bool {
		return nameIn(d) != ref && d.Annotations[refName] != ref && d.Digest.String() != ref
	})
	if len(found) > 0 {
		return found
	}
	return slices.DeleteFunc(slices.Clone(list), func(d v1.Descriptor) bool { return full(nameIn(d)) != full(ref) })
}

// namesOf are the names in an index, each once; "" is that of images without one.
func namesOf(list []v1.Descriptor) (names []string) {
	for _, d := range list {
		if n := nameIn(d); !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

func platformOf(d v1.Descriptor) string {
	if d.Platform == nil {
		return ""
	}
	return d.Platform.String()
}

// only takes a single image as it is, for whatever platform: the config is looked at.
func only(list []v1.Descriptor, want wanted) (v1.Descriptor, error) {
	if len(list) == 1 {
		return list[0], nil
	}
	return want.best(list)
}

func readJSON(in files, name string, into any) error {
	r, _, err := in.open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	body, err := readDocument(r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", name, errors.New(printable(err.Error())))
	}
	return nil
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
