package plan

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"thinrun/libcontainer/bundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Every field of runtime-spec, and what becomes of it. A field that is not listed here is
// honoured, and TestEveryHonouredFieldMakesADifference must see that the plan depends on
// it: so a field that a newer runtime-spec brings fails until somebody decides.
//
// refused: naming it is an error, with its JSON path.
var refused = map[string]string{
	"vm":                                  `{"kernel":{"path":"/k"}}`,
	"linux.personality.flags":             `["x"]`,
	"linux.resources.memory.kernel":       `1`,
	"linux.resources.memory.kernelTCP":    `1`,
	"linux.resources.memory.useHierarchy": `false`,
}

// withoutEffect: accepted, and nothing follows from it. Each has its reason.
var withoutEffect = map[string]string{
	"solaris":                         "another platform's section; a spec may carry several (config.md)",
	"windows":                         "another platform's section",
	"zos":                             "another platform's section",
	"freebsd":                         "another platform's section",
	"process.commandLine":             "Windows only (platform tag)",
	"process.user.username":           "Windows only (platform tag); counts with an image: TestUserByName",
	"process.execCPUAffinity":         "about exec: TestExecHonoursCPUAffinity",
	"process.execCPUAffinity.initial": "about exec: TestExecHonoursCPUAffinity",
	"process.execCPUAffinity.final":   "about exec: TestExecHonoursCPUAffinity",
}

// fieldPaths lists all JSON paths of a type: a.b, list[], map{}.
func fieldPaths(t reflect.Type, at string, out *[]string) {
	switch t.Kind() {
	case reflect.Pointer:
		fieldPaths(t.Elem(), at, out)
	case reflect.Slice:
		fieldPaths(t.Elem(), at+"[]", out)
	case reflect.Map:
		fieldPaths(t.Elem(), at+"{}", out)
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Anonymous {
				fieldPaths(f.Type, at, out)
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if at != "" {
				name = at + "." + name
			}
			*out = append(*out, name)
			if platform := f.Tag.Get("platform"); platform != "" && !strings.Contains(platform, "linux") {
				continue // a section as a whole, or one of another platform's fields
			}
			fieldPaths(f.Type, name, out)
		}
	}
}

// alternatives are other values for fields that cannot be left out.
var alternatives = map[string]string{
	"ociVersion":                                    `"1.0.0"`,
	"process.cwd":                                   `"/other"`,
	"process.args":                                  `["other"]`,
	"process.rlimits[].type":                        `"RLIMIT_CPU"`,
	"process.scheduler.policy":                      `"SCHED_RR"`,
	"process.scheduler.runtime":                     `5`,
	"process.scheduler.deadline":                    `2500000`,
	"process.scheduler.priority":                    `6`,
	"process.ioPriority.class":                      `"IOPRIO_CLASS_RT"`,
	"root":                                          `{"path":"other"}`,
	"root.path":                                     `"other"`,
	"mounts[].destination":                          `"/other"`,
	"mounts[].type":                                 `"sysfs"`,
	"mounts[].uidMappings":                          `[{"containerID":0,"hostID":7,"size":1}]`,
	"mounts[].gidMappings":                          `[{"containerID":0,"hostID":7,"size":1}]`,
	"mounts[].uidMappings[].size":                   `9`,
	"mounts[].gidMappings[].size":                   `9`,
	"linux.uidMappings":                             `[{"containerID":0,"hostID":7,"size":1000}]`,
	"linux.gidMappings":                             `[{"containerID":0,"hostID":7,"size":1000}]`,
	"linux.uidMappings[].containerID":               `50000`,
	"linux.gidMappings[].containerID":               `50000`,
	"linux.uidMappings[].size":                      `31000`,
	"linux.gidMappings[].size":                      `31000`,
	"linux.resources.devices[].access":              `"w"`,
	"linux.resources.hugepageLimits[].pageSize":     `"1GB"`,
	"linux.resources.network.priorities[].name":     `"eth1"`,
	"linux.resources.blockIO.weightDevice[].weight": `501`,
	"linux.namespaces":                              `[{"type":"mount"},{"type":"user"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"time"}]`,
	"linux.namespaces[].type":                       `"time"`,
	"linux.namespaces[].path":                       `"/other"`,
	"linux.devices[].path":                          `"/dev/other"`,
	"linux.devices[].type":                          `"b"`,
	"linux.personality.domain":                      `"LINUX"`,
	"linux.memoryPolicy.mode":                       `"MPOL_INTERLEAVE"`,
	"linux.memoryPolicy.nodes":                      `"1"`,
	"linux.seccomp.defaultAction":                   `"SCMP_ACT_LOG"`,
	"linux.seccomp.listenerPath":                    `"/other"`,
	"linux.seccomp.syscalls[].names":                `["other"]`,
	"linux.seccomp.syscalls[].action":               `"SCMP_ACT_LOG"`,
	"linux.seccomp.syscalls[].args[].op":            `"SCMP_CMP_EQ"`,
}

func init() {
	for _, kind := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"} {
		alternatives["hooks."+kind+"[].path"] = `"/other"`
	}
}

// visit calls each for every value at a path of a decoded config, with a way to put
// another (or nothing) in its place.
func visit(v any, path []string, each func(set func(any), unset func())) {
	name, rest := path[0], path[1:]
	object, ok := v.(map[string]any)
	if !ok {
		return
	}
	list, inside := strings.CutSuffix(name, "[]")
	table, among := strings.CutSuffix(name, "{}")
	switch {
	case inside:
		items, _ := object[list].([]any)
		for i := range items {
			visit(items[i], rest, each)
		}
	case among:
		items, _ := object[table].(map[string]any)
		for _, item := range items {
			visit(item, rest, each)
		}
	case len(rest) > 0:
		visit(object[name], rest, each)
	default:
		if old, ok := object[name]; ok {
			each(func(v any) { object[name] = v }, func() { delete(object, name) })
			object[name] = old
		}
	}
}

// numbered decodes with numbers as text: 2^64-1 is no float64.
func numbered(t *testing.T, raw []byte) (tree any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestEveryHonouredFieldMakesADifference(t *testing.T) {
	var paths []string
	fieldPaths(reflect.TypeFor[specs.Spec](), "", &paths)
	if len(paths) < 180 {
		t.Fatalf("only %d fields found", len(paths))
	}
	known := map[string]bool{}
	for _, p := range paths {
		known[p] = true
	}
	for _, table := range []map[string]string{refused, withoutEffect, alternatives} {
		for p := range table {
			if !known[p] {
				t.Errorf("%s is in a table here, and no field of runtime-spec", p)
			}
		}
	}
	type variant struct {
		name string
		raw  []byte
		plan []byte
	}
	var variants []variant
	for _, name := range []string{"all-cgroup2", "all-cgroup1", "podman"} {
		raw, err := os.ReadFile("testdata/" + name + "/config.json")
		if err != nil {
			t.Fatal(err)
		}
		plan, err := planOf(t, name, raw)
		if err != nil {
			t.Fatal(err)
		}
		variants = append(variants, variant{name, raw, plan})
	}
	for _, path := range paths {
		if refused[path] != "" || withoutEffect[path] != "" || path == "linux" || path == "process" {
			continue
		}
		seen, tried := false, []string{}
		for _, v := range variants {
			tree := numbered(t, v.raw)
			attempt := func() {
				changed, err := json.Marshal(tree)
				if err != nil {
					t.Fatal(err)
				}
				got, err := planOf(t, v.name, changed)
				if err != nil {
					tried = append(tried, v.name+": "+err.Error())
				} else if !bytes.Equal(got, v.plan) {
					seen = true
				} else {
					tried = append(tried, v.name+": the plan is the same")
				}
			}
			visit(tree, strings.Split(path, "."), func(set func(any), unset func()) {
				if seen {
					return
				}
				if alt := alternatives[path]; alt != "" {
					set(json.RawMessage(alt))
					attempt()
				}
				unset()
				attempt()
			})
		}
		if !seen {
			t.Errorf("%s: nothing in the plan depends on it (tried: %s)", path, strings.Join(tried, "; "))
		}
	}
}

func TestRefusedFieldsAreRefusedByPath(t *testing.T) {
	raw, err := os.ReadFile("testdata/all-cgroup1/config.json")
	if err != nil {
		t.Fatal(err)
	}
	for path, value := range refused {
		tree := numbered(t, raw).(map[string]any)
		at := tree
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			at = at[p].(map[string]any)
		}
		at[parts[len(parts)-1]] = json.RawMessage(value)
		changed, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		_, err = bundle.Parse(changed)
		if err == nil || !strings.HasPrefix(err.Error(), "config.json: "+path+": ") {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
