package plan

import (
	"reflect"
	"strings"
	"testing"

	"thinrun/libcontainer/wire"
)

// fill gives every exported field a value of its own, so that a field which is not coded,
// or coded into another's place, shows.
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
		v.SetString("s" + strings.Repeat("x", int(*n%7)) + itoa(int64(*n)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(-int64(*n)) // File: -1 and nice values must survive
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(*n % 251)
	default:
		panic("BUG: fill knows no " + v.Kind().String())
	}
}

func TestInitArrivesWhole(t *testing.T) {
	var want, got Init
	var n uint64
	fill(reflect.ValueOf(&want).Elem(), &n)
	if err := wire.Decode(wire.Encode(want.Code), got.Code); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("something is lost:\n got  %+v\n want %+v", got, want)
	}
}

// TestBooleansTravelAlone: with all of them true a swap of two would not show.
func TestBooleansTravelAlone(t *testing.T) {
	var flags []func(*Init) *bool
	var find func(t reflect.Type, get func(*Init) reflect.Value)
	find = func(t reflect.Type, get func(*Init) reflect.Value) {
		for i := range t.NumField() {
			f := t.Field(i)
			field := func(x *Init) reflect.Value { return get(x).Field(i) }
			switch {
			case !f.IsExported():
			case f.Type.Kind() == reflect.Bool:
				flags = append(flags, func(x *Init) *bool { return field(x).Addr().Interface().(*bool) })
			case f.Type.Kind() == reflect.Struct:
				find(f.Type, field)
			}
		}
	}
	find(reflect.TypeFor[Init](), func(x *Init) reflect.Value { return reflect.ValueOf(x).Elem() })
	if len(flags) < 10 {
		t.Fatalf("only %d found", len(flags))
	}
	for i, flag := range flags {
		var want, got Init
		*flag(&want) = true
		if err := wire.Decode(wire.Encode(want.Code), got.Code); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("flag %d: got %+v, want %+v", i, got, want)
		}
	}
}

// TestShortAndLongMessagesAreRefused: every prefix of a plan, and one byte more.
func TestShortAndLongMessagesAreRefused(t *testing.T) {
	var want Init
	var n uint64
	fill(reflect.ValueOf(&want).Elem(), &n)
	text := wire.Encode(want.Code)
	for i := range text {
		var got Init
		if err := wire.Decode(text[:i], got.Code); err == nil {
			t.Fatalf("%d of %d bytes were taken for a plan", i, len(text))
		}
	}
	var got Init
	if err := wire.Decode(append(text, 0), got.Code); err == nil {
		t.Error("a byte too many was not noticed")
	}
}
