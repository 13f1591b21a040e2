package rootfs

import (
	"reflect"
	"testing"

	"thinrun/libcontainer/wire"
)

// fill gives every field below v a value that is not its zero and not its neighbour's.
func fill(v reflect.Value, n *uint64) {
	*n++
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.String:
		v.SetString("s" + string(rune('a'+*n%26)) + string(rune('a'+*n/26%26)))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(-int64(*n))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(*n)
	default:
		panic("field of a kind nobody fills: " + v.Kind().String())
	}
}

func TestConfigSurvivesTheWire(t *testing.T) {
	var in, out Config
	var n uint64
	fill(reflect.ValueOf(&in).Elem(), &n)
	if err := wire.Decode(wire.Encode(in.Code), out.Code); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("got  %+v\nwant %+v", out, in)
	}
	var empty, got Config
	if err := wire.Decode(wire.Encode(empty.Code), got.Code); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(empty, got) {
		t.Errorf("empty: got %+v", got)
	}
}
