package bundle

import (
	"reflect"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"

	"thinrun/libcontainer/jsontext"
)

// Encode writes a spec as config.json, on one line; it is the decoder's other half, and
// as cheap.
func Encode(s *specs.Spec) []byte {
	return encodeValue(make([]byte, 0, 8192), reflect.ValueOf(s).Elem())
}

func encodeValue(out []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(out, "null"...)
		}
		return encodeValue(out, v.Elem())
	case reflect.Struct:
		out = append(out, '{')
		out, _ = encodeFields(out, v, true)
		return append(out, '}')
	case reflect.Slice:
		out = append(out, '[')
		for i := range v.Len() {
			if i > 0 {
				out = append(out, ',')
			}
			out = encodeValue(out, v.Index(i))
		}
		return append(out, ']')
	case reflect.Map:
		keys := v.MapKeys()
		sort.Slice(keys, func(i, k int) bool { return keys[i].String() < keys[k].String() })
		out = append(out, '{')
		for i, key := range keys {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(encodeString(out, key.String()), ':')
			out = encodeValue(out, v.MapIndex(key))
		}
		return append(out, '}')
	case reflect.String:
		return encodeString(out, v.String())
	case reflect.Bool:
		return strconv.AppendBool(out, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(out, v.Int(), 10)
	}
	return strconv.AppendUint(out, v.Uint(), 10)
}

// encodeFields writes members, an embedded struct's among its parent's.
func encodeFields(out []byte, v reflect.Value, first bool) ([]byte, bool) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			out, first = encodeFields(out, v.Field(i), first)
			continue
		}
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if option == "omitempty" && empty(v.Field(i)) {
			continue
		}
		if !first {
			out = append(out, ',')
		}
		first = false
		out = append(encodeString(out, name), ':')
		out = encodeValue(out, v.Field(i))
	}
	return out, first
}

// empty is what omitempty leaves out: never a struct.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

func encodeString(out []byte, s string) []byte {
	if !utf8.ValidString(s) { // the decoder would refuse it
		s = string([]rune(s))
	}
	return jsontext.Quote(out, s)
}
