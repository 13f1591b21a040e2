package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// A record's file is a JSON object with what a start needs, of the layers only the top
// one; then an object with the layers; then the OCI config as its bytes. Each is parsed by
// those who want it: a thousand layers are 170 KB, and 2 ms of every start.

// errDamaged: the disk was, or somebody has edited the file. What it named is not known.
var errDamaged = errors.New("damaged image record")

// head is the first object. In the records of older thinruns it is the only one, has all
// layers, and no depth.
type head struct {
	Image
	Depth int `json:"depth,omitempty"` // how many layers the second object has
}

// chain is the second object.
type chain struct {
	Layers  []string `json:"layers"`
	Sizes   []int64  `json:"sizes,omitempty"`
	DiffIDs []string `json:"diffIds,omitempty"`
	Chains  []string `json:"chains,omitempty"`
}

func encode(img *Image) ([]byte, error) {
	h := head{Image: *img, Depth: len(img.Layers)}
	h.Layers, h.Sizes, h.DiffIDs, h.Chains = []string{img.Layer()}, nil, nil, nil
	first, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return nil, err
	}
	second, err := json.MarshalIndent(chain{img.Layers, img.Sizes, img.DiffIDs, img.Chains}, "", "  ")
	if err != nil {
		return nil, err
	}
	return slices.Concat(first, []byte("\n"), second, []byte("\n"), img.OCI), nil
}

// first reads what a start needs.
func first(data []byte, name string) (*Image, error) {
	h, _, err := decodeHead(data, name)
	if err != nil {
		return nil, err
	}
	return &h.Image, nil
}

// whole reads everything.
func whole(data []byte, name string) (*Image, error) {
	h, rest, err := decodeHead(data, name)
	if err != nil {
		return nil, err
	}
	img, top := &h.Image, h.Layer()
	if h.Depth > 0 {
		var c chain
		if rest, err = decodeNext(rest, &c); err != nil {
			return nil, err
		}
		img.Layers, img.Sizes, img.DiffIDs, img.Chains = c.Layers, c.Sizes, c.DiffIDs, c.Chains
		if len(c.Layers) != h.Depth || img.Layer() != top {
			return nil, fmt.Errorf("%w: its layers are not the %d that end in %q", errDamaged, h.Depth, top)
		}
	}
	n := len(img.Layers)
	switch {
	case slices.Contains(img.Layers, ""):
		return nil, fmt.Errorf("%w: a layer without an id", errDamaged)
	case img.Chains != nil && len(img.Chains) != n || img.DiffIDs != nil && len(img.DiffIDs) != n || img.Sizes != nil && len(img.Sizes) != n:
		return nil, fmt.Errorf("%w: not as many digests or sizes as layers", errDamaged)
	}
	if len(rest) > 0 {
		img.OCI = rest
	}
	return img, nil
}

func decodeHead(data []byte, name string) (h *head, rest []byte, err error) {
	h = new(head)
	if rest, err = decodeNext(data, h); err != nil {
		return nil, nil, err
	}
	switch {
	case h.Version > Version:
		return nil, nil, fmt.Errorf("image record of version %d, made by a newer thinrun; this one reads up to %d", h.Version, Version)
	case h.Version < 1 || len(h.Layers) == 0 || h.Layer() == "":
		return nil, nil, fmt.Errorf("%w: version or layers missing", errDamaged)
	case h.Name != name:
		return nil, nil, fmt.Errorf("%w: it names %q", errDamaged, h.Name)
	}
	if h.Depth == 0 && len(rest) > 0 { // an older record: see For
		h.OCI = rest
	}
	return h, rest, nil
}

// decodeNext decodes an object and returns what follows its line.
func decodeNext(data []byte, v any) (rest []byte, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return bytes.TrimPrefix(data[d.InputOffset():], []byte("\n")), nil
}
