package plan

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strings"
	"unicode"

	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/process"
	"thinrun/libcontainer/seccomp"
	"thinrun/nsenter"
	"thinrun/rootfs"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// MarshalJSON prints the plan for people (create --dry-run) and for the golden tests:
// fields in their order, what is empty left out, the kernel's numbers as its words.
func (p *Plan) MarshalJSON() ([]byte, error) {
	return printValue(nil, reflect.ValueOf(p).Elem(), printed{}), nil
}

// printed says how the value of a field is to be shown.
type printed struct {
	words func(uint64) []string // flags
	octal bool
}

// shown is the exception list; everything else follows from its type.
func shown(owner reflect.Type, field string) printed {
	switch owner {
	case reflect.TypeFor[rootfs.Mount]():
		switch field {
		case "Attr", "AttrClear", "RecAttr", "RecAttrClear":
			return printed{words: attrWords}
		case "SuperFlags":
			return printed{words: superWords}
		case "Propagation":
			return printed{words: propagationOf}
		}
	case reflect.TypeFor[rootfs.Config]():
		if field == "Propagation" {
			return printed{words: propagationOf}
		}
	case reflect.TypeFor[process.Capabilities]():
		return printed{words: capabilityWords}
	case reflect.TypeFor[nsenter.Config](), reflect.TypeFor[nsenter.Join]():
		if field == "New" || field == "Kind" {
			return printed{words: kindWords}
		}
	}
	return printed{octal: field == "Mode" && owner == reflect.TypeFor[rootfs.Device]() || field == "Umask"}
}

func printValue(out []byte, v reflect.Value, how printed) []byte {
	switch x := v.Interface().(type) {
	case devices.Type:
		return appendString(out, string(rune(x)))
	case seccomp.Program:
		return appendString(out, fmt.Sprintf("%d instructions, flags %#x", len(x.Filter)/8, x.Flags))
	case []byte:
		return appendString(out, string(x))
	}
	switch v.Kind() {
	case reflect.Pointer:
		return printValue(out, v.Elem(), how)
	case reflect.Struct:
		return printStruct(out, v)
	case reflect.Slice:
		out = append(out, '[')
		for i := range v.Len() {
			if i > 0 {
				out = append(out, ',')
			}
			out = printValue(out, v.Index(i), how)
		}
		return append(out, ']')
	case reflect.Map:
		names := v.MapKeys()
		sort.Slice(names, func(i, k int) bool { return names[i].String() < names[k].String() })
		out = append(out, '{')
		for i, name := range names {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(appendString(out, name.String()), ':')
			out = printValue(out, v.MapIndex(name), how)
		}
		return append(out, '}')
	case reflect.String:
		return appendString(out, v.String())
	case reflect.Uint32, reflect.Uint64:
		switch {
		case how.words != nil:
			return appendString(out, strings.Join(how.words(v.Uint()), " "))
		case how.octal:
			return appendString(out, fmt.Sprintf("%#o", v.Uint()))
		}
	}
	return fmt.Append(out, v.Interface())
}

func printStruct(out []byte, v reflect.Value) []byte {
	out = append(out, '{')
	start := len(out)
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || tag == "-" {
			continue
		}
		how := shown(t, f.Name)
		if left(v.Field(i), f, how) {
			continue
		}
		if tag == "" {
			tag = lowerCamel(f.Name)
		}
		if len(out) > start {
			out = append(out, ',')
		}
		out = append(appendString(out, tag), ':')
		out = printValue(out, v.Field(i), how)
	}
	return append(out, '}')
}

// left tells whether a field is left out. A number is shown even when it is 0: an id, a
// minor, the number of a file.
func left(v reflect.Value, f reflect.StructField, how printed) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Bool, reflect.String, reflect.Pointer, reflect.Struct:
		return v.IsZero()
	}
	return v.IsZero() && (how.words != nil || strings.Contains(f.Tag.Get("json"), "omit"))
}

func appendString(out []byte, s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic("BUG: a string that is no JSON: " + err.Error())
	}
	return append(out, b...)
}

// lowerCamel is a Go name in JSON's manner: UIDMappings -> uidMappings.
func lowerCamel(name string) string {
	r := []rune(name)
	for i := range r {
		if i > 0 && i+1 < len(r) && unicode.IsLower(r[i+1]) || !unicode.IsUpper(r[i]) {
			break
		}
		r[i] = unicode.ToLower(r[i])
	}
	return string(r)
}

func attrWords(attr uint64) (out []string) {
	for _, w := range [...]word{
		{"ro", false, unix.MOUNT_ATTR_RDONLY}, {"nosuid", false, unix.MOUNT_ATTR_NOSUID},
		{"nodev", false, unix.MOUNT_ATTR_NODEV}, {"noexec", false, unix.MOUNT_ATTR_NOEXEC},
		{"nodiratime", false, unix.MOUNT_ATTR_NODIRATIME}, {"nosymfollow", false, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if attr&w.flag != 0 {
			out = append(out, w.name)
		}
	}
	switch attr & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR__ATIME:
		out = append(out, "(atime)")
	case unix.MOUNT_ATTR_NOATIME:
		out = append(out, "noatime")
	case unix.MOUNT_ATTR_STRICTATIME:
		out = append(out, "strictatime")
	}
	return out
}

func superWords(flags uint64) (out []string) {
	for _, w := range mountWords {
		if !w.clear && superFlags(w.flag) != 0 && flags&w.flag != 0 {
			out = append(out, w.name)
		}
	}
	return out
}

func propagationOf(flags uint64) []string {
	for _, w := range propagationWords {
		if w.flag == flags {
			return []string{w.name}
		}
	}
	return nil
}

func capabilityWords(mask uint64) (out []string) {
	for n, name := range bundle.CapabilityNames() {
		if mask&(1<<n) != 0 {
			out = append(out, name)
		}
	}
	return out
}

func kindWords(kinds uint64) (out []string) {
	for _, name := range [...]string{"user", "mount", "pid", "network", "ipc", "uts", "cgroup", "time"} {
		if kinds&uint64(Kind(specs.LinuxNamespaceType(name))) != 0 {
			out = append(out, name)
		}
	}
	return out
}
