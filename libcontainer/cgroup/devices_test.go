package cgroup

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func rule(kind rune, major, minor int64, access string, allow bool) *Rule {
	r := &Rule{Major: major, Minor: minor, Allow: allow}
	r.Type = typeOf(kind)
	r.Permissions = permissions(access)
	return r
}

// decide is what deviceProgram should do, said once more in Go: each access goes by the
// last rule that speaks of it.
func decide(rules []*Rule, kind rune, major, minor int64, access string) bool {
	for _, a := range access {
		allowed := false
		for _, r := range rules {
			if (rune(r.Type) == 'a' || rune(r.Type) == kind) && (r.Major < 0 || r.Major == major) &&
				(r.Minor < 0 || r.Minor == minor) && (r.Permissions == "" || strings.ContainsRune(string(r.Permissions), a)) {
				allowed = r.Allow
			}
		}
		if !allowed {
			return false
		}
	}
	return true
}

// runProgram interprets the few instructions that deviceProgram uses, and panics at others.
func runProgram(prog []instruction, kind, access, major, minor uint32) bool {
	var reg [11]uint32
	mem := map[int16]uint32{0: access<<16 | kind, 4: major, 8: minor}
	for pc := 0; ; pc++ {
		in := prog[pc]
		dst, src := in.regs&15, in.regs>>4
		switch in.code {
		case loadWord:
			reg[dst] = mem[in.off]
		case andImm:
			reg[dst] &= uint32(in.imm)
		case xorImm:
			reg[dst] ^= uint32(in.imm)
		case orReg:
			reg[dst] |= reg[src]
		case shiftImm:
			reg[dst] >>= uint32(in.imm)
		case moveImm:
			reg[dst] = uint32(in.imm)
		case moveReg:
			reg[dst] = reg[src]
		case jumpNotEqual:
			if reg[dst] != uint32(in.imm) {
				pc += int(in.off)
			}
		case jumpEqual:
			if reg[dst] == uint32(in.imm) {
				pc += int(in.off)
			}
		case exit:
			return reg[answer] == 1
		default:
			panic(fmt.Sprintf("instruction %#x", in.code))
		}
	}
}

var deviceCases = map[string][]*Rule{
	"none": nil,
	"all":  {rule('a', -1, -1, "rwm", true)},
	"runc's default": {
		rule('a', -1, -1, "rwm", false), rule('c', -1, -1, "m", true), rule('b', -1, -1, "m", true),
		rule('c', 1, 3, "rwm", true), rule('c', 1, 8, "rwm", true), rule('c', 136, -1, "rwm", true), rule('c', 10, 200, "rwm", true),
	},
	"accesses one by one": {rule('c', 1, 3, "r", true), rule('c', 1, 3, "w", true)},
	"all but one":         {rule('a', -1, -1, "rwm", true), rule('c', 1, 5, "rw", false)},
	"reopened":            {rule('c', 1, 3, "rw", true), rule('c', 1, 3, "w", false), rule('a', -1, -1, "rwm", false), rule('c', 1, 5, "r", true)},
	"any block":           {rule('b', -1, -1, "rwm", true)},
	"any of a major":      {rule('a', 1, -1, "r", true)},
	"big numbers":         {rule('c', 1<<31+5, 1<<32-1, "r", true)},
}

func TestDeviceProgramIsTheRules(t *testing.T) {
	bits := map[rune]access{'r': accessRead, 'w': accessWrite, 'm': accessMknod}
	for name, rules := range deviceCases {
		list, err := deviceRules(rules)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		prog := deviceProgram(list)
		for _, kind := range []rune{'b', 'c'} {
			k := uint32(unix.BPF_DEVCG_DEV_BLOCK)
			if kind == 'c' {
				k = unix.BPF_DEVCG_DEV_CHAR
			}
			for _, major := range []int64{0, 1, 10, 136, 1<<31 + 5} {
				for _, minor := range []int64{0, 3, 5, 8, 200, 1<<32 - 1} {
					for _, asks := range []string{"r", "w", "m", "rw", "rwm", "wm"} {
						var a access
						for _, c := range asks {
							a |= bits[c]
						}
						want := decide(rules, kind, major, minor, asks)
						if got := runProgram(prog, k, uint32(a), uint32(major), uint32(minor)); got != want {
							t.Errorf("%s: %c %d:%d %s: %v, want %v", name, kind, major, minor, asks, got, want)
						}
					}
				}
			}
		}
	}
}

// Each create waits for the kernel's verifier, and the verifier for each branch.
func TestDeviceProgramBranchesOncePerRule(t *testing.T) {
	rules := []*Rule{rule('a', -1, -1, "rwm", false), rule('c', 1, 3, "rwm", true), rule('b', 8, -1, "rwm", true), rule('c', -1, 7, "rwm", false)}
	list, err := deviceRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, in := range deviceProgram(list) {
		if in.code == jumpNotEqual || in.code == jumpEqual {
			n++
		}
	}
	if n != len(rules) {
		t.Errorf("%d branches for %d rules", n, len(rules))
	}
}

func TestDeviceRulesInTheWordsOfV1(t *testing.T) {
	for _, test := range []struct {
		name  string
		rules []*Rule
		want  string
	}{
		{"none", nil, "devices.deny a"},
		{"all", deviceCases["all"], "devices.allow a"},
		{"runc's default", deviceCases["runc's default"], "devices.deny a; devices.allow c *:* m; devices.allow b *:* m; devices.allow c 1:3 rwm; devices.allow c 1:8 rwm; devices.allow c 136:* rwm; devices.allow c 10:200 rwm"},
		{"all but one", deviceCases["all but one"], "devices.allow a; devices.deny c 1:5 rw"},
		{"reopened", deviceCases["reopened"], "devices.deny a; devices.allow c 1:5 r"},
		{"taken back in part", []*Rule{rule('c', 1, 3, "rwm", true), rule('c', 1, 3, "w", false)}, "devices.deny a; devices.allow c 1:3 rm"},
		{"both kinds", deviceCases["any of a major"], "devices.deny a; devices.allow b 1:* r; devices.allow c 1:* r"},
		{"a hole", []*Rule{rule('c', 1, -1, "rwm", true), rule('c', 1, 3, "w", false)}, `linux.resources.devices[1]: cgroup v1 cannot take "c 1:3 w" out of "c 1:* rwm"; list the devices one by one`},
	} {
		list, err := deviceRules(test.rules)
		if err != nil {
			t.Fatal(err)
		}
		words, err := deviceWords(list)
		var got []string
		for _, w := range words {
			got = append(got, w.file+" "+w.text)
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if s := strings.Join(got, "; "); s != test.want {
			t.Errorf("%s: got\n%s\nwant\n%s", test.name, s, test.want)
		}
	}
}

func TestBrokenDeviceRules(t *testing.T) {
	for _, r := range []*Rule{
		rule('c', 1, 3, "", true), rule('c', 1, 3, "rx", true), rule('p', 1, 3, "r", true),
		rule('c', -2, 3, "r", true), rule('c', 1<<32, 3, "r", true), rule('c', 1, 1<<40, "r", true),
	} {
		if _, err := deviceRules([]*Rule{rule('c', 1, 1, "r", true), r}); err == nil || !strings.HasPrefix(err.Error(), "linux.resources.devices[1]") {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
