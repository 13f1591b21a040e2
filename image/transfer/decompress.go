package transfer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is how far back a zstd stream may refer: memory of ours that a stranger asks
// for. zstd -19 asks for 8 MiB, --ultra -22 for 128, --long for 128; containerd's and
// Docker's limit is this one.
const maxWindow = 512 << 20

// decompress looks at the first bytes: a name or a media type tells less. The reader
// ends with io.EOF only after r has: what r verifies is verified then. With verified, a
// content that does not unpack is read to its end, too: that it is not what its digest
// says explains more.
func decompress(r *bufio.Reader, verified bool) (io.ReadCloser, error) {
	head, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	for _, other := range []struct{ magic, name, tool string }{
		{"\xfd7zXZ\x00", "xz", "xz -dc"},
		{"BZh", "bzip2", "bzip2 -dc"},
		{"\x04\x22\x4d\x18", "lz4", "lz4 -dc"},
		{"PK\x03\x04", "zip", "a tar made from"},
	} {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return nil, fmt.Errorf("compressed with %s; thinrun takes plain, gzip and zstd: pipe the output of %s in, with - as the source", other.name, other.tool)
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		return &unpacked{r: z, raw: r, kind: "gzip", verified: verified}, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && string(head[1:4]) == "\x2a\x4d\x18": // a skippable frame first
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(1<<62))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return &unpacked{r: z, raw: r, kind: "zstd", verified: verified, close: z.Close}, nil
	}
	return io.NopCloser(r), nil
}

// unpacked names the compression in its errors, and reads what it unpacks to the end.
type unpacked struct {
	r        io.Reader
	raw      io.Reader
	kind     string
	verified bool
	close    func()
}

func (u *unpacked) Read(p []byte) (int, error) {
	n, err := u.r.Read(p)
	if err == nil {
		return n, nil
	}
	var below *sourceError
	if errors.As(err, &below) { // the network's or the digest's, not the format's
		return n, below
	}
	if err == io.EOF || u.verified {
		if _, err := io.Copy(io.Discard, u.raw); err != nil {
			return n, err
		}
	}
	if err == io.EOF {
		return n, io.EOF
	}
	return n, fmt.Errorf("%s: %s", u.kind, strings.TrimPrefix(err.Error(), u.kind+": "))
}

func (u *unpacked) Close() error {
	if u.close != nil {
		u.close()
	}
	return nil
}

// sourceError is what went wrong below a decompressor.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }
