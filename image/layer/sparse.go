package layer

import (
	"bytes"
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// sparse copies r and leaves holes where blocks hold only zeros.
func (t *tree) sparse(fd int, r io.Reader) (end int64, err error) {
	at := int64(0)
	for {
		n, err := ReadAtLeast(r, t.buf, len(t.buf))
		for rest := t.buf[:n]; len(rest) > 0; {
			run, hole := sameKind(rest)
			if !hole {
				if err := t.spend(run); err != nil {
					return end, err
				}
				if err := pwrite(fd, rest[:run], at); err != nil {
					return end, err
				}
				end = at + int64(run)
			}
			at += int64(run)
			rest = rest[run:]
		}
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return end, err
		}
		if err := t.ctx.Err(); err != nil {
			return end, err
		}
	}
}

func pwrite(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// ReadAtLeast is io.ReadAtLeast, but an error is neither dropped nor renamed: for
// archive/tar and for a decompressor io.ErrUnexpectedEOF means a cut file.
func ReadAtLeast(r io.Reader, buf []byte, min int) (n int, err error) {
	for n < min && err == nil {
		var more int
		more, err = r.Read(buf[n:])
		n += more
	}
	return n, err
}

// sameKind is how much of the start of buf is zero blocks, or is not.
func sameKind(buf []byte) (n int, zero bool) {
	const block = 4096
	for n < len(buf) {
		b := buf[n:min(len(buf), n+block)]
		z := b[0] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
		if n > 0 && z != zero {
			break
		}
		n, zero = n+len(b), z
	}
	return n, zero
}
