// Package wire carries the plan from the parent to the init stage.
//
// One function per struct serves both directions: it names each field once, and
// the Coder either appends it to a buffer or fills it from one. So the two ends
// cannot disagree about the order, and neither pays for reflection: decoding the
// plan of a container with 40 mounts costs tens of microseconds, where a cold
// encoding/json costs 500. A round-trip test fills every field by reflection, so
// a field that is added and not coded fails there.
//
// The format has no version: both ends are the same binary.
package wire

import (
	"encoding/binary"
	"errors"
	"math"
)

// ErrShort says that the buffer ended before the value did.
var ErrShort = errors.New("plan message ends early")

// Coder walks over a value, writing or reading it. The first error stays.
type Coder struct {
	buf     []byte
	reading bool
	err     error
}

// Encode returns what walk writes.
func Encode(walk func(*Coder)) []byte {
	c := &Coder{buf: make([]byte, 0, 4096)}
	walk(c)
	return c.buf
}

// Decode lets walk read from b and reports a short or an over-long buffer.
func Decode(b []byte, walk func(*Coder)) error {
	c := &Coder{buf: b, reading: true}
	walk(c)
	if c.err == nil && len(c.buf) != 0 {
		return errors.New("plan message has bytes nobody reads")
	}
	return c.err
}

// Reading tells whether the walk fills the value.
func (c *Coder) Reading() bool { return c.reading }

// Uint64 codes a number as a varint.
func (c *Coder) Uint64(p *uint64) {
	if !c.reading {
		c.buf = binary.AppendUvarint(c.buf, *p)
		return
	}
	v, n := binary.Uvarint(c.buf)
	if n <= 0 {
		c.fail()
		return
	}
	c.buf, *p = c.buf[n:], v
}

func (c *Coder) fail() {
	if c.err == nil {
		c.err = ErrShort
	}
	c.buf = nil
}

type integer interface {
	~int | ~int8 | ~int16 | ~int32 | ~int64 | ~uint | ~uint8 | ~uint16 | ~uint32 | ~uint64 | ~uintptr
}

// Int codes any integer.
func Int[T integer](c *Coder, p *T) {
	v := uint64(*p)
	c.Uint64(&v)
	*p = T(v)
}

// Bool codes a truth value.
func Bool[T ~bool](c *Coder, p *T) {
	var v uint64
	if *p {
		v = 1
	}
	c.Uint64(&v)
	*p = v != 0
}

// String codes a string.
func String[T ~string](c *Coder, p *T) {
	n := uint64(len(*p))
	c.Uint64(&n)
	if !c.reading {
		c.buf = append(c.buf, *p...)
		return
	}
	if n > uint64(len(c.buf)) {
		c.fail()
		return
	}
	*p, c.buf = T(c.buf[:n]), c.buf[n:]
}

// Bytes codes a byte slice; nil and empty are the same.
func Bytes(c *Coder, p *[]byte) {
	s := string(*p)
	String(c, &s)
	if c.reading && len(s) > 0 {
		*p = []byte(s)
	}
}

// Slice codes a slice, each element by each; nil and empty are the same.
func Slice[T any](c *Coder, p *[]T, each func(*Coder, *T)) {
	n := uint64(len(*p))
	c.Uint64(&n)
	if c.reading {
		if n > uint64(len(c.buf)) { // every element takes a byte at least
			c.fail()
			return
		}
		if n == 0 || n > math.MaxInt32 {
			return
		}
		*p = make([]T, n)
	}
	for i := range *p {
		each(c, &(*p)[i])
	}
}

// Strings codes a list of strings.
func Strings(c *Coder, p *[]string) { Slice(c, p, String[string]) }

// Ptr codes a value that may be absent.
func Ptr[T any](c *Coder, p **T, each func(*Coder, *T)) {
	has := *p != nil
	Bool(c, &has)
	if !has {
		return
	}
	if c.reading {
		*p = new(T)
	}
	each(c, *p)
}
