package cgroup

import (
	"fmt"
	"slices"

	devices "github.com/opencontainers/cgroups/devices/config"
)

// Rule is one of linux.resources.devices.
type Rule = devices.Rule

// access is the kernel's BPF_DEVCG_ACC_*: what is asked for, or what a rule speaks of.
type access uint8

const (
	accessMknod access = 1 << iota
	accessRead
	accessWrite

	accessAll = accessMknod | accessRead | accessWrite
)

// device is a rule, checked: 0 for kind, and -1 for a number, are any.
type device struct {
	kind         rune // 'b', 'c', 0
	major, minor int64
	access       access
	allow        bool
}

// deviceRules checks the rules and turns "all" into its parts.
func deviceRules(rules []*Rule) ([]device, error) {
	list := make([]device, 0, len(rules))
	for i, r := range rules {
		d := device{kind: rune(r.Type), major: r.Major, minor: r.Minor, allow: r.Allow}
		for _, p := range r.Permissions {
			switch p {
			case 'r':
				d.access |= accessRead
			case 'w':
				d.access |= accessWrite
			case 'm':
				d.access |= accessMknod
			default:
				return nil, fmt.Errorf("linux.resources.devices[%d].access: %q is none of r, w, m", i, p)
			}
		}
		switch r.Type {
		case devices.WildcardDevice:
			d.kind = 0
			if r.Major < 0 && r.Minor < 0 && d.access == 0 {
				d.access = accessAll
			}
		case devices.BlockDevice, devices.CharDevice:
		default:
			return nil, fmt.Errorf("linux.resources.devices[%d].type: %q is none of a, b, c", i, rune(r.Type))
		}
		if r.Major < -1 || r.Minor < -1 || r.Major > 1<<32-1 || r.Minor > 1<<32-1 {
			return nil, fmt.Errorf("linux.resources.devices[%d]: there is no device %d:%d", i, r.Major, r.Minor)
		}
		if d.access == 0 {
			return nil, fmt.Errorf("linux.resources.devices[%d].access is empty", i)
		}
		list = append(list, d)
	}
	return list, nil
}

// all: the rule speaks of every device and every access, so what came before is void.
func (d device) all() bool {
	return d.kind == 0 && d.major < 0 && d.minor < 0 && d.access == accessAll
}

// setDevices lets in what the rules allow, and nothing when there are none.
func (c *Cgroup) setDevices(rules []*Rule) error {
	list, err := deviceRules(rules)
	if err != nil {
		return err
	}
	if c.host.V2 {
		if c.paths[""] == "" {
			return nil // rootless, without a cgroup
		}
		return attachDevices(c.paths[""], list, c.existed)
	}
	dir := c.paths["devices"]
	if dir == "" {
		if c.cfg.Rootless {
			return nil
		}
		return fmt.Errorf("cgroup: the host has no devices controller, so linux.resources.devices cannot be enforced")
	}
	words, err := deviceWords(list)
	if err != nil {
		return err
	}
	for _, w := range words {
		if err := write(dir+"/"+w.file, w.text); err != nil {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

// word is a line for one of the files of the v1 devices controller.
type word struct{ file, text string }

// deviceWords writes the rules in the v1 controller's language: all is denied but a
// list, or all is allowed but a list. A rule against the current default goes on the
// list; one with the default takes exactly that entry off it. What it cannot say, it
// would ignore in silence: a hole in a wider entry. That is refused.
func deviceWords(list []device) ([]word, error) {
	start := 0
	for i, d := range list {
		if d.all() {
			start = i
		}
	}
	words := []word{{"devices.deny", "a"}}
	allowed := false // the default
	if len(list) > 0 && list[start].all() {
		if allowed = list[start].allow; allowed {
			words[0].file = "devices.allow"
		}
		start++
	}
	var except []device
	for i := start; i < len(list); i++ {
		for _, d := range list[i].kinds() {
			if d.allow != allowed {
				except = append(except, d)
			} else {
				for j := range except {
					e := &except[j]
					same := e.kind == d.kind && e.major == d.major && e.minor == d.minor
					if same {
						e.access &^= d.access
					} else if e.access&d.access != 0 && e.kind == d.kind && meet(e.major, d.major) && meet(e.minor, d.minor) {
						return nil, fmt.Errorf("linux.resources.devices[%d]: cgroup v1 cannot take %q out of %q; list the devices one by one", i, d.text(), e.text())
					}
				}
				except = slices.DeleteFunc(except, func(e device) bool { return e.access == 0 })
			}
		}
	}
	for _, d := range except {
		file := "devices.allow"
		if !d.allow {
			file = "devices.deny"
		}
		words = append(words, word{file, d.text()})
	}
	return words, nil
}

// kinds splits a rule on both kinds: in v1 "a" always means everything.
func (d device) kinds() []device {
	if d.kind != 0 {
		return []device{d}
	}
	b, c := d, d
	b.kind, c.kind = 'b', 'c'
	return []device{b, c}
}

func meet(a, b int64) bool { return a == b || a < 0 || b < 0 }

func (d device) text() string {
	number := func(n int64) string {
		if n < 0 {
			return "*"
		}
		return fmt.Sprint(n)
	}
	s := fmt.Sprintf("%c %s:%s ", d.kind, number(d.major), number(d.minor))
	for _, p := range []struct {
		access access
		letter string
	}{{accessRead, "r"}, {accessWrite, "w"}, {accessMknod, "m"}} {
		if d.access&p.access != 0 {
			s += p.letter
		}
	}
	return s
}
