package image

import (
	"context"
	"io"
	"os"
)

// Source is an image that is to be made, opened where it comes from: an archive, a
// directory, a registry. It says all that is known before a layer is read.
type Source struct {
	From   string // as the user named it, for the record and for errors
	Digest string // "sha256:..." of the manifest; "" when it has none
	// Config is the OCI image config as its bytes, checked against the manifest; nil for a
	// plain tree (a tar or a directory), which is an image of one layer without a config.
	Config []byte
	Layers []SourceLayer // base first
	// Need, if not nil, is called once before the first Open, with the layers that will be
	// opened, in this order: a registry begins to fetch them.
	Need func(layers []int)
	// Close gives back all that the source holds; after a context's end, too.
	Close func() error
}

// SourceLayer is one layer of a Source.
type SourceLayer struct {
	DiffID string // "sha256:..." of the uncompressed tar; "" for a plain tree
	Bytes  int64  // as transferred, for people; 0: not known
	Dir    *os.File
	// Open gives the uncompressed tar; with Dir set it is nil. A content that is not what
	// its digest says ends with an error and never with io.EOF.
	Open func(context.Context) (io.ReadCloser, error)
}
