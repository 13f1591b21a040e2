// Package wiretest holds a struct's Code function to its promise: every field arrives.
package wiretest

import (
	"reflect"
	"strconv"
	"testing"

	"thinrun/libcontainer/wire"
)

// RoundTrip sends T by code, as (*Config).Code: with every field filled, empty, and with
// each flag alone, because a swap of two would not show when all are true. And every
// prefix of the message and one byte more must be refused.
func RoundTrip[T any](t testing.TB, code func(*T, *wire.Coder)) {
	t.Helper()
	var full, empty T
	var n uint64
	fill(reflect.ValueOf(&full).Elem(), &n)
	arrives(t, "every field filled", full, code)
	arrives(t, "empty", empty, code)
	flags(reflect.TypeFor[T](), "", nil, func(name string, index []int) {
		var one T
		reflect.ValueOf(&one).Elem().FieldByIndex(index).SetBool(true)
		arrives(t, "only"+name, one, code)
	})
	text := encode(full, code)
	for i := range text {
		if _, err := decode(text[:i], code); err == nil {
			t.Errorf("%d of %d bytes were taken for the whole", i, len(text))
			break
		}
	}
	if _, err := decode(append(text, 0), code); err == nil {
		t.Error("a byte too many was not noticed")
	}
}

func arrives[T any](t testing.TB, what string, want T, code func(*T, *wire.Coder)) {
	t.Helper()
	if got, err := decode(encode(want, code), code); err != nil {
		t.Errorf("%s: %v", what, err)
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got  %+v\n want %+v", what, got, want)
	}
}

func encode[T any](v T, code func(*T, *wire.Coder)) []byte {
	return wire.Encode(func(c *wire.Coder) { code(&v, c) })
}

func decode[T any](text []byte, code func(*T, *wire.Coder)) (v T, err error) {
	err = wire.Decode(text, func(c *wire.Coder) { code(&v, c) })
	return v, err
}

// fill gives every exported field below v a value of its own, far from zero, so that one
// which is not coded, cut, or coded into another's place shows.
func fill(v reflect.Value, n *uint64) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.String:
		v.SetString("\x00é" + strconv.FormatUint(*n, 10))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(-1<<(v.Type().Bits()-1) + int64(*n%127))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1<<(v.Type().Bits()-1) + *n%127)
	default:
		panic("BUG: fill knows no " + v.Kind().String())
	}
}

// flags calls each with every boolean of a struct and of those within it.
func flags(t reflect.Type, name string, index []int, each func(name string, index []int)) {
	for i := range t.NumField() {
		f := t.Field(i)
		at := append(index[:len(index):len(index)], i)
		switch {
		case !f.IsExported():
		case f.Type.Kind() == reflect.Bool:
			each(name+" "+f.Name, at)
		case f.Type.Kind() == reflect.Struct:
			flags(f.Type, name+" "+f.Name, at, each)
		}
	}
}
