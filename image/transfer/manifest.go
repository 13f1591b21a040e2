package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"thinrun/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const (
	maxDocument = 4 << 20 // of a manifest or config; what registries refuse to take, too
	maxLayers   = 1024    // Docker stops at 127
	maxNesting  = 3       // of an index in an index
)

// contents is where documents lie: a registry, an OCI layout.
type contents interface {
	// manifest and blob open a document by its digest; who reads verifies it.
	manifest(context.Context, v1.Hash) (io.ReadCloser, error)
	blob(context.Context, v1.Hash) (io.ReadCloser, error)
}

// found is an image whose manifest and config are read and verified.
type found struct {
	digest  v1.Hash // of the manifest
	config  []byte
	diffIDs []string
	layers  []v1.Descriptor
}

// find follows a descriptor through indexes to the image for the wanted platform.
func find(ctx context.Context, in contents, d v1.Descriptor, want wanted) (*found, error) {
	for range maxNesting {
		body, err := readVerified(d, func() (io.ReadCloser, error) { return in.manifest(ctx, d.Digest) })
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		doc, err := parse(body, d.MediaType)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
		}
		if doc.Manifests == nil {
			return doc.image(ctx, in, d.Digest, want)
		}
		if d, err = want.best(doc.Manifests); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("an index in an index in an index: more than %d levels", maxNesting)
}

// document is a manifest or an index: Manifests is nil for a manifest.
type document struct {
	MediaType     types.MediaType `json:"mediaType"`
	SchemaVersion int             `json:"schemaVersion"`
	Config        *v1.Descriptor  `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Manifests     []v1.Descriptor `json:"manifests"`
}

// parse decides what a document is. One that could be read as either is refused: two
// programs would see different images under one digest (CVE-2021-41190).
func parse(body []byte, hint types.MediaType) (*document, error) {
	var doc document
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, fmt.Errorf("not a manifest: %s", printable(err.Error()))
	}
	kind := doc.MediaType
	if kind == "" {
		kind = hint
	}
	switch {
	case doc.Manifests != nil && (doc.Layers != nil || doc.Config != nil):
		return nil, errors.New("is a manifest and an index in one")
	case doc.SchemaVersion == 1 || kind == types.DockerManifestSchema1 || kind == types.DockerManifestSchema1Signed:
		return nil, errors.New("of Docker's schema 1, which was given up in 2020: push the image again with a newer docker or skopeo")
	case kind == types.OCIImageIndex || kind == types.DockerManifestList:
		if doc.Manifests == nil {
			doc.Manifests = []v1.Descriptor{}
		}
		if doc.Layers != nil || doc.Config != nil {
			return nil, errors.New("says that it is an index, and has layers")
		}
	case kind == types.OCIManifestSchema1 || kind == types.DockerManifestSchema2:
		if doc.Manifests != nil {
			return nil, errors.New("says that it is a manifest, and is an index")
		}
	case doc.MediaType != "":
		return nil, fmt.Errorf("media type %q is neither an image nor an index", doc.MediaType)
	case doc.Manifests == nil && doc.Config == nil:
		return nil, errors.New("neither a manifest nor an index")
	}
	return &doc, nil
}

// image reads the config and checks that manifest and config are of one image.
func (doc *document) image(ctx context.Context, in contents, digest v1.Hash, want wanted) (*found, error) {
	if doc.Config == nil {
		return nil, fmt.Errorf("manifest %s: no config", digest)
	}
	switch doc.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON, "": // "" is older than the types
	default:
		return nil, fmt.Errorf("not an image to run: its config is of type %q", doc.Config.MediaType)
	}
	if len(doc.Layers) > maxLayers {
		return nil, fmt.Errorf("manifest %s: %d layers; thinrun takes %d", digest, len(doc.Layers), maxLayers)
	}
	for i, l := range doc.Layers {
		if !isLayer(l.MediaType) {
			return nil, fmt.Errorf("layer %d of %d: media type %q is not a layer that thinrun knows", i+1, len(doc.Layers), l.MediaType)
		}
		if l.Size < 0 {
			return nil, fmt.Errorf("layer %d of %d: a size of %d", i+1, len(doc.Layers), l.Size)
		}
	}
	config, err := readVerified(*doc.Config, func() (io.ReadCloser, error) { return in.blob(ctx, doc.Config.Digest) })
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", doc.Config.Digest, err)
	}
	f := &found{digest: digest, config: config, layers: doc.Layers}
	f.diffIDs, err = checkConfig(config, len(doc.Layers), want)
	return f, err
}

// isLayer knows the layers of Docker and of the OCI, foreign ones included: a registry
// may have those too.
func isLayer(t types.MediaType) bool {
	return slices.Contains([]types.MediaType{
		types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer,
		types.OCIRestrictedLayer, types.OCIUncompressedRestrictedLayer, "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
		types.DockerLayer, types.DockerUncompressedLayer, types.DockerForeignLayer,
		"application/vnd.docker.image.rootfs.diff.tar.zstd", "application/vnd.docker.image.rootfs.foreign.diff.tar",
	}, t)
}

// checkConfig looks at what of an image's config decides whether it can be taken.
func checkConfig(config []byte, layers int, want wanted) (diffIDs []string, err error) {
	var c struct {
		v1.Platform // architecture, os, variant
		RootFS      struct {
			Type    string    `json:"type"`
			DiffIDs []v1.Hash `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("config: %s", printable(err.Error()))
	}
	if c.Variant == "" { // most configs leave it out; the index has it
		c.Variant = want.Variant
	}
	switch {
	case c.RootFS.Type != "layers":
		return nil, fmt.Errorf("config: rootfs.type is %q, not \"layers\"", c.RootFS.Type)
	case len(c.RootFS.DiffIDs) != layers:
		return nil, fmt.Errorf("config: %d diff_ids for %d layers", len(c.RootFS.DiffIDs), layers)
	case layers == 0:
		return nil, errors.New("an image without layers")
	case c.OS == "" && c.Architecture == "": // made by hand: umoci new asks, others do not
	case !want.takes(c.Platform):
		err := fmt.Errorf("the image is for %s, not for %s", printable(c.Platform.String()), want)
		if !want.asked {
			err = fmt.Errorf("%w (--platform %s takes it nevertheless)", err, printable(c.Platform.String()))
		}
		return nil, err
	}
	for _, h := range c.RootFS.DiffIDs {
		diffIDs = append(diffIDs, h.String())
	}
	return diffIDs, nil
}

// readVerified reads a document whole, never more than its size says.
func readVerified(d v1.Descriptor, open func() (io.ReadCloser, error)) ([]byte, error) {
	if d.Size > maxDocument {
		return nil, tooLarge(d.Size)
	}
	if d.Size < 0 {
		return nil, fmt.Errorf("a size of %d", d.Size)
	}
	r, err := open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body, err := readDocument(r)
	if err != nil {
		return nil, err
	}
	if d.Size > 0 && int64(len(body)) != d.Size {
		return nil, fmt.Errorf("has %d bytes, its descriptor says %d", len(body), d.Size)
	}
	if got := digestOf(body); got != d.Digest {
		return nil, fmt.Errorf("its content has digest %s", got)
	}
	return body, nil
}

// readDocument reads a document of unknown size.
func readDocument(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	n, err := io.Copy(&b, io.LimitReader(r, maxDocument+1))
	if err == nil && n > maxDocument {
		err = tooLarge(n)
	}
	return b.Bytes(), err
}

func tooLarge(n int64) error {
	return fmt.Errorf("larger than %d MiB (%d bytes): thinrun takes no such document", maxDocument>>20, n)
}

func digestOf(b []byte) v1.Hash {
	sum := sha256.Sum256(b)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}
}

// printable keeps a stranger's bytes from driving the terminal.
func printable(s string) string {
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// noneOf says which names there are instead of ref.
func noneOf(ref string, names []string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == "" })
	if len(names) == 0 {
		return fmt.Errorf("holds no image %q, and none that has a name", printable(ref))
	}
	return fmt.Errorf("holds no image %q, only %s", printable(ref), printable(strings.Join(names[:min(len(names), 20)], ", ")))
}

// severalOf says how to name one of n images.
func severalOf(n int, names []string, how string) error {
	names = slices.Clone(names[:min(len(names), 20)])
	for i, name := range names {
		if name == "" {
			names[i] = "one without a name"
		}
	}
	return fmt.Errorf("holds %d images: %s; %s takes one", n, printable(strings.Join(names, ", ")), how)
}

// source begins an image.Source; who calls adds the way to open the layers.
func (f *found) source() *image.Source {
	src := &image.Source{Digest: f.digest.String(), Config: f.config}
	for i, l := range f.layers {
		src.Layers = append(src.Layers, image.SourceLayer{DiffID: f.diffIDs[i], Bytes: l.Size})
	}
	return src
}
