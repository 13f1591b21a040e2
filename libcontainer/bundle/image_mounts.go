package bundle

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// mounts adds -v, --mount and --tmpfs: outer ones before those below them. One at the
// place of a system mount takes it.
func (o *ImageOptions) mounts(s *specs.Spec) error {
	if o.ShmSize != "" {
		n, err := ParseSize(o.ShmSize)
		if err != nil || n == 0 {
			return fmt.Errorf("shm-size %s is not a size (64m, 1G)", Quote(o.ShmSize))
		}
		for i := range s.Mounts {
			if m := &s.Mounts[i]; m.Destination == "/dev/shm" {
				m.Options[len(m.Options)-1] = "size=" + strconv.FormatUint(n, 10) // in place of the default
			}
		}
	}
	var own []specs.Mount
	for _, from := range []struct {
		words []string
		read  func(string) (specs.Mount, error)
	}{{o.Volumes, volume}, {o.Mounts, longMount}, {o.Tmpfs, tmpfs}} {
		for _, word := range from.words {
			m, err := from.read(word)
			if err != nil {
				return err
			}
			m.Destination = path.Clean(m.Destination)
			if m.Destination == "/" {
				return fmt.Errorf("mount %s: \"/\" is the image's place", Quote(word))
			}
			if slices.ContainsFunc(own, func(other specs.Mount) bool { return other.Destination == m.Destination }) {
				return fmt.Errorf("mount %s: there is one at %s already", Quote(word), Quote(m.Destination))
			}
			own = append(own, m)
		}
	}
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	s.Mounts = slices.DeleteFunc(s.Mounts, func(system specs.Mount) bool {
		return slices.ContainsFunc(own, func(m specs.Mount) bool { return m.Destination == system.Destination })
	})
	s.Mounts = append(s.Mounts, own...)
	return nil
}

// volume reads -v: SOURCE:TARGET[:OPTIONS]. A read-only one is so with all that is
// mounted below it; plain ro would leave that writable.
func volume(v string) (specs.Mount, error) {
	parts := strings.Split(v, ":")
	bad := fmt.Errorf("volume %s is not SOURCE:TARGET[:OPTIONS]", Quote(v))
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || !filepath.IsAbs(parts[1]) {
		return specs.Mount{}, bad
	}
	if !strings.ContainsAny(parts[0], "/.") { // Docker's and Podman's named volume
		return specs.Mount{}, fmt.Errorf("volume %s: there are no named volumes here; a directory beside you is %s", Quote(v), Quote("./"+parts[0]))
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return specs.Mount{}, err
	}
	m := specs.Mount{Source: source, Destination: parts[1], Type: "bind", Options: []string{"rbind", "nosuid", "nodev"}}
	propagation := "rprivate"
	if len(parts) == 3 {
		for o := range strings.SplitSeq(parts[2], ",") {
			switch {
			case o == "ro":
				m.Options = append(m.Options, "rro")
			case o == "rw":
			case Propagation(o):
				propagation = o
			case oneOf(o, "exec", "noexec", "suid", "nosuid", "dev", "nodev", "noatime", "relatime", "strictatime", "bind", "rbind"):
				m.Options = append(m.Options, o)
			default:
				return specs.Mount{}, fmt.Errorf("%w: %s is not an option of a volume", bad, Quote(o))
			}
		}
	}
	m.Options = append(m.Options, propagation)
	return m, nil
}

// longMount reads --mount, in Docker's words: type=bind or tmpfs.
func longMount(text string) (specs.Mount, error) {
	bad := func(why string) (specs.Mount, error) {
		return specs.Mount{}, fmt.Errorf("mount %s: %s", Quote(text), why)
	}
	m := specs.Mount{Type: "bind"}
	readOnly, recursive, propagation := false, true, "rprivate"
	var size, mode string
	for part := range strings.SplitSeq(text, ",") {
		key, value, given := strings.Cut(part, "=")
		yes := !given || oneOf(value, "true", "1")
		if !yes && !oneOf(value, "false", "0") && oneOf(key, "readonly", "ro", "bind-nonrecursive") {
			return bad(Quote(part) + " is neither true nor false")
		}
		switch key {
		case "type":
			m.Type = value
		case "source", "src":
			m.Source = value
		case "target", "destination", "dst":
			m.Destination = value
		case "readonly", "ro":
			readOnly = yes
		case "bind-nonrecursive":
			recursive = !yes
		case "bind-propagation":
			if propagation = value; !Propagation(value) {
				return bad(Quote(part) + " is not a propagation (rprivate, rslave, rshared, ...)")
			}
		case "tmpfs-size":
			n, err := ParseSize(value)
			if err != nil {
				return bad(err.Error())
			}
			size = "size=" + strconv.FormatUint(n, 10)
		case "tmpfs-mode":
			if _, err := strconv.ParseUint(value, 8, 12); err != nil {
				return bad(Quote(part) + " is not an octal mode")
			}
			mode = "mode=" + value
		default:
			return bad(Quote(key) + " is not understood (type, source, target, readonly, bind-propagation, bind-nonrecursive, tmpfs-size, tmpfs-mode)")
		}
	}
	if !path.IsAbs(m.Destination) {
		return bad("wants target=/PATH")
	}
	switch m.Type {
	case "bind":
		if m.Source == "" || size+mode != "" {
			return bad("a bind wants source=PATH and no tmpfs options")
		}
		source, err := filepath.Abs(m.Source)
		if err != nil {
			return bad(err.Error())
		}
		m.Source = source
		m.Options = []string{"rbind", "nosuid", "nodev", propagation}
		if !recursive {
			m.Options[0] = "bind"
		}
		if readOnly {
			m.Options = append(m.Options, "rro") // with all that is mounted below it
		}
	case "tmpfs":
		if m.Source != "" {
			return bad("a tmpfs has no source")
		}
		m.Source = "tmpfs"
		m.Options = []string{"noexec", "nosuid", "nodev"}
		for _, o := range []string{size, mode} {
			if o != "" {
				m.Options = append(m.Options, o)
			}
		}
		if readOnly {
			m.Options = append(m.Options, "ro")
		}
	case "volume":
		return bad("there are no named volumes here; give type=bind and a directory")
	default:
		return bad(Quote(m.Type) + " is neither bind nor tmpfs")
	}
	return m, nil
}

// tmpfs reads --tmpfs TARGET[:OPTIONS], with Docker's defaults; its options are tmpfs(5)'s.
func tmpfs(text string) (specs.Mount, error) {
	target, options, _ := strings.Cut(text, ":")
	if !path.IsAbs(target) {
		return specs.Mount{}, fmt.Errorf("tmpfs %s is not TARGET[:OPTIONS]", Quote(text))
	}
	m := specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target, Options: []string{"noexec", "nosuid", "nodev"}}
	if options != "" {
		m.Options = append(m.Options, strings.Split(options, ",")...)
	}
	return m, nil
}
