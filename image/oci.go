package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxOCI is far above any image config there is; the largest ones hold a long history.
const maxOCI = 4 << 20

// document is what of an OCI image config we understand. The document itself is kept as
// its bytes, with all that we do not.
type document struct {
	Platform
	Config struct {
		Config
		Volumes map[string]struct{} // a set there, a list in our record
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// parseOCI reads an OCI image config. Any platform is good here: the source has chosen, and
// run looks again.
func parseOCI(data []byte) (*document, error) {
	if len(data) > maxOCI {
		return nil, fmt.Errorf("image config of %d bytes; at most %d MiB", len(data), maxOCI>>20)
	}
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	if doc.RootFS.Type != "layers" && doc.RootFS.Type != "" {
		return nil, fmt.Errorf("image config: rootfs.type is %q, not layers", doc.RootFS.Type)
	}
	if len(doc.RootFS.DiffIDs) == 0 {
		return nil, errors.New("image config: no layers in rootfs.diff_ids")
	}
	for _, d := range doc.RootFS.DiffIDs {
		if !isDigest(d) {
			return nil, fmt.Errorf("image config: rootfs.diff_ids: %q is not a sha256 digest", shorten(d))
		}
	}
	return &doc, nil
}

// config is what the record keeps of it.
func (d *document) config() Config {
	c := d.Config.Config
	c.Volumes = slices.Sorted(maps.Keys(d.Config.Volumes))
	return c
}

func isDigest(s string) bool {
	digits, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == ""
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hexDigest(sum[:])
}

func hexDigest(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }

// chainIDs are the OCI's names for a layer together with all below it. From a layer that
// has no diff id on there are none: "".
func chainIDs(diffIDs []string) []string {
	chains := make([]string, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			chains[i] = d
		} else {
			chains[i] = chainID(chains[i-1], d)
		}
	}
	return chains
}

// chainID is that of a layer on top of parent.
func chainID(parent, diffID string) string {
	if parent == "" || diffID == "" {
		return ""
	}
	return digest([]byte(parent + " " + diffID))
}
