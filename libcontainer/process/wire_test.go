package process

import (
	"reflect"
	"testing"

	"thinrun/libcontainer/wire"
)

// fill sets every exported field to something that is not zero and not its neighbour's.
func fill(v reflect.Value, n *uint64) {
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
		*n++
		v.SetString(string(rune('a'+*n%26)) + "\x00é")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		*n++
		v.SetInt(-int64(*n))
	default:
		*n++
		v.SetUint(*n)
	}
}

func TestPlanCarriesEveryField(t *testing.T) {
	var in, out Config
	var n uint64
	fill(reflect.ValueOf(&in).Elem(), &n)
	if err := wire.Decode(wire.Encode(in.Code), out.Code); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("got  %+v\nwant %+v", out, in)
	}
}

func TestPlanCarriesNothing(t *testing.T) {
	var in, out Config
	if err := wire.Decode(wire.Encode(in.Code), out.Code); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, out) {
		t.Errorf("got  %+v\nwant %+v", out, in)
	}
}
