package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Plain opens a directory, a tar (plain, gzip or zstd), or "-", which reads stdin.
func Plain(what string, stdin io.Reader) (*Source, error) {
	if what == "" {
		return nil, errors.New("nothing to import: name a directory, a tar file, or - for standard input")
	}
	src := &Source{From: what, Close: func() error { return nil }}
	if what == "-" {
		src.Layers = []SourceLayer{untar(stdin)}
		return src, nil
	}
	f, err := os.Open(what)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case st.IsDir():
		src.Layers = []SourceLayer{{Dir: f}}
	case st.Mode().IsRegular() || st.Mode()&os.ModeNamedPipe != 0:
		src.Layers = []SourceLayer{untar(f)}
	default:
		err = fmt.Errorf("%s is neither a directory nor a tar file", what)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	src.Close = f.Close
	return src, nil
}

// untar undoes the compression, if any.
func untar(r io.Reader) SourceLayer {
	return SourceLayer{Open: func(context.Context) (io.ReadCloser, error) {
		plain, err := decompress(bufio.NewReaderSize(r, 256<<10))
		return io.NopCloser(plain), err
	}}
}
