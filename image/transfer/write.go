package transfer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"thinrun/image"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// WriteArchive writes an image as an OCI archive, the tar of a layout of this one image,
// and returns the digest of its manifest. The same layers give the same bytes.
//
// A layer's tar is made anew from its files, and its diff id with it: the config is
// corrected to that.
func WriteArchive(ctx context.Context, w io.Writer, e *image.Export, opt Options) (digest string, err error) {
	a := archiver{tar: tar.NewWriter(w), written: make(map[v1.Hash]bool)}
	a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	manifest := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	var diffIDs []string
	for _, l := range e.Layers {
		d, diffID, err := a.layer(ctx, l, opt.Spool)
		if err != nil {
			return "", err
		}
		manifest.Layers, diffIDs = append(manifest.Layers, d), append(diffIDs, diffID)
	}
	config, err := withDiffIDs(e.OCI, diffIDs)
	if err != nil {
		return "", fmt.Errorf("config: %w", err)
	}
	manifest.Config = a.document(types.OCIConfigJSON, config)
	body, err := json.Marshal(manifest)
	if err != nil {
		return "", err
	}
	d := a.document(types.OCIManifestSchema1, body)
	d.Annotations = map[string]string{refName: e.Name}
	var platform v1.Platform
	if err := json.Unmarshal(config, &platform); err == nil && platform.OS != "" && platform.Architecture != "" {
		d.Platform = &v1.Platform{OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant}
	}
	index, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{d}})
	if err != nil {
		return "", err
	}
	a.file("index.json", index)
	if a.err == nil {
		a.err = a.tar.Close()
	}
	return d.Digest.String(), a.err
}

// archiver writes members; after an error it does nothing more.
type archiver struct {
	tar     *tar.Writer
	written map[v1.Hash]bool
	err     error
}

// member begins a file. Times and owners are those of nobody, so that they do not matter.
func (a *archiver) member(name string, size int64) {
	if a.err == nil {
		a.err = a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR})
	}
}

func (a *archiver) file(name string, content []byte) {
	if a.member(name, int64(len(content))); a.err == nil {
		_, a.err = a.tar.Write(content)
	}
}

func (a *archiver) document(kind types.MediaType, content []byte) v1.Descriptor {
	h := digestOf(content)
	a.file(blobName(h), content)
	return v1.Descriptor{MediaType: kind, Size: int64(len(content)), Digest: h}
}

// layer spools a layer, compressed, because a member's size stands before its content.
func (a *archiver) layer(ctx context.Context, l image.ExportLayer, spoolDir string) (d v1.Descriptor, diffID string, err error) {
	f, err := tempFile(spoolDir)
	if err != nil {
		return d, "", fmt.Errorf("spool: %w", err)
	}
	defer f.Close()
	if diffID, d, err = compress(ctx, l, f); err != nil {
		return d, "", err
	}
	if a.written[d.Digest] { // the same layer twice: one blob
		return d, diffID, a.err
	}
	a.written[d.Digest] = true
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return d, "", err
	}
	if a.member(blobName(d.Digest), d.Size); a.err == nil {
		_, a.err = io.CopyN(a.tar, f, d.Size)
	}
	return d, diffID, a.err
}

// compress writes the layer to f. The header of the gzip has neither name nor time.
func compress(ctx context.Context, l image.ExportLayer, f *os.File) (diffID string, d v1.Descriptor, err error) {
	plain, packed, size := sha256.New(), sha256.New(), int64(0)
	z := gzip.NewWriter(io.MultiWriter(f, packed, writerFunc(func(p []byte) { size += int64(len(p)) })))
	if err := errors.Join(l.Tar(ctx, io.MultiWriter(plain, z)), z.Close()); err != nil {
		return "", d, err
	}
	d = v1.Descriptor{MediaType: types.OCILayer, Size: size, Digest: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(packed.Sum(nil))}}
	return "sha256:" + hex.EncodeToString(plain.Sum(nil)), d, nil
}

// withDiffIDs puts the layers' digests into a config, and leaves all else in it as it is.
func withDiffIDs(config []byte, diffIDs []string) ([]byte, error) {
	doc := make(map[string]json.RawMessage)
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, err
	}
	rootfs, err := json.Marshal(struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}{"layers", diffIDs})
	if err != nil {
		return nil, err
	}
	doc["rootfs"] = rootfs
	return json.Marshal(doc) // in the order of the keys
}
