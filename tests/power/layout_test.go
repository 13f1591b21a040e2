package power

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// contents are the generated trees.
const contents = 8

// writeImage puts a content below dir in two forms: CONTENT.tar, a plain tar, and
// CONTENT, an OCI image layout of three layers.
func writeImage(dir, content string) error {
	whole, err := makeTar(tree(content))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, content+".tar"), whole, 0o644); err != nil {
		return err
	}
	layout := filepath.Join(dir, content)
	if err := os.MkdirAll(filepath.Join(layout, "blobs/sha256"), 0o755); err != nil {
		return err
	}
	type object = map[string]any
	var failed error
	blob := func(media string, b []byte) object {
		sum := fmt.Sprintf("%x", sha256.Sum256(b))
		if err := os.WriteFile(filepath.Join(layout, "blobs/sha256", sum), b, 0o644); err != nil {
			failed = err
		}
		return object{"mediaType": media, "digest": "sha256:" + sum, "size": len(b)}
	}
	document := func(media string, v any) object {
		b, err := json.Marshal(v)
		if err != nil {
			failed = err
		}
		return blob(media, b)
	}
	var descriptors []object
	var diffs []any
	for _, files := range layers(content) {
		b, err := makeTar(files)
		if err != nil {
			return err
		}
		d := blob("application/vnd.oci.image.layer.v1.tar", b)
		descriptors, diffs = append(descriptors, d), append(diffs, d["digest"])
	}
	config := document("application/vnd.oci.image.config.v1+json", object{
		"architecture": runtime.GOARCH, "os": "linux", "config": object{},
		"rootfs": object{"type": "layers", "diff_ids": diffs},
	})
	const manifestType = "application/vnd.oci.image.manifest.v1+json"
	manifest := document(manifestType, object{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": descriptors})
	manifest["annotations"] = object{"org.opencontainers.image.ref.name": "latest"}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []any{manifest}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(layout, "index.json"), index, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	return failed
}
