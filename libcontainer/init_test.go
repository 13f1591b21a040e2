package libcontainer

import (
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestInitOrder holds the pairs that may not swap. Most swaps would still run, and be a
// hole or a wrong identity; the reasons stand beside the rows.
func TestInitOrder(t *testing.T) {
	create := [][2]string{
		{"session", "console"},             // the terminal becomes the session's
		{"loopback", "become"},             // needs CAP_NET_ADMIN
		{"attach", "mount"},                // the targets are below the root
		{"mount", "dev"},                   // /dev is a mount
		{"dev", "parentHooks"},             // prestart finds the whole tree
		{"parentHooks", "createContainer"}, // runtime-spec, lifecycle
		{"createContainer", "pivot"},       // runtime-spec: before pivot_root
		{"pivot", "console"},               // from the container's devpts
		{"pivot", "makeCwd"},               // not in the host's tree
		{"makeCwd", "seal"},                // the root may become read-only
		{"sysctl", "seal"},                 // /proc/sys may become read-only
		{"labels", "become"},               // our /proc entries become root's after it
		{"scheduling", "become"},           // needs CAP_SYS_NICE
		{"seccompPrivileged", "become"},    // needs CAP_SYS_ADMIN
		{"seal", "become"},                 // needs CAP_SYS_ADMIN
	}
	both := [][2]string{
		{"become", "chdir"},      // the user must be able to go there
		{"chdir", "findProgram"}, // ./program is relative to it
		{"noNewPrivileges", "findProgram"},
		{"noNewPrivileges", "seccompLast"}, // else it takes CAP_SYS_ADMIN
		{"findProgram", "ready"},           // create reports it
		{"seccompNotifying", "ready"},      // the parent takes the listener
		{"ready", "closeFDs"},              // the conversation is over
		{"closeFDs", "seccompLast"},        // the filter may not allow close_range
		{"seccompLast", "exec"},            // runs nothing but execve after it
	}
	gate := [][2]string{{"ready", "gate"}, {"gate", "startContainer"}, {"startContainer", "closeFDs"}}
	for _, table := range []struct {
		name  string
		steps []step
		pairs [][2]string
	}{
		{"create", initSteps[:], slices.Concat(create, both, gate)},
		{"exec", execSteps[:], both},
	} {
		var names []string
		for _, s := range table.steps {
			f := runtime.FuncForPC(reflect.ValueOf(s.run).Pointer()).Name()
			names = append(names, f[strings.LastIndex(f, ".")+1:])
		}
		for _, p := range table.pairs {
			first, second := slices.Index(names, p[0]), slices.Index(names, p[1])
			if first < 0 || second < 0 || first > second {
				t.Errorf("%s: %s must come before %s; the order is %v", table.name, p[0], p[1], names)
			}
		}
		if names[len(names)-1] != "exec" {
			t.Errorf("%s ends with %s", table.name, names[len(names)-1])
		}
	}
}
