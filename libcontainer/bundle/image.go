package bundle

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// ImageOptions are the options of run --image, in Docker's and Podman's words, together
// with what the image's own config says of them.
type ImageOptions struct {
	Image       ImageConfig
	Args        []string
	Entrypoint  *string  // --entrypoint; "" clears the image's
	Env         []string // NAME=value; NAME alone passes the caller's value on
	EnvFiles    []string
	User        string // USER[:GROUP], numbers or names
	Cwd         string
	Terminal    bool
	Hostname    string
	Memory      string  // "512M"; "": no limit
	MemorySwap  string  // memory and swap together; -1: no limit
	CPUs        float64 // 0: no limit
	PidsLimit   int64   // 0: the default; -1: no limit
	Ulimits     []string
	ReadOnly    bool
	CapAdd      []string // with or without CAP_, or ALL
	CapDrop     []string
	Security    []string // --security-opt
	Net         string   // none (default), host, or the path of a network namespace
	Volumes     []string // SOURCE:TARGET[:OPTIONS]
	Mounts      []string // type=bind,source=...,target=...
	Tmpfs       []string // TARGET[:OPTIONS]
	ShmSize     string
	StopSignal  string
	Annotations []string // KEY=VALUE
}

// ImageConfig is what an image says about running it, as image-spec names it.
type ImageConfig struct {
	Env, Entrypoint, Cmd         []string
	User, WorkingDir, StopSignal string
}

// AnnotationStopSignal is image-spec's name for what kill sends when nothing is said
// (conversion.md).
const AnnotationStopSignal = "org.opencontainers.image.stopSignal"

// defaultPids is Podman's limit: ample for a build, and the end of a fork bomb.
const defaultPids = 2048

// ForImage makes the config of a container that has no bundle. The defaults keep the
// container to itself: private namespaces, no network but lo, Docker's capabilities, no
// new privileges, the well-known paths masked, a limit on processes.
func ForImage(o ImageOptions) (*Bundle, error) {
	args := o.command()
	if len(args) == 0 {
		return nil, errors.New("no command is given, and the image names none")
	}
	env, err := o.environment()
	if err != nil {
		return nil, err
	}
	caps, err := dockerCapabilities(o.CapAdd, o.CapDrop)
	if err != nil {
		return nil, err
	}
	s := &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Terminal:        o.Terminal,
			Args:            args,
			Env:             env,
			Cwd:             o.workingDir(),
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			NoNewPrivileges: true,
		},
		Root:     &specs.Root{Path: "rootfs", Readonly: o.ReadOnly}, // the snapshot takes the path's place
		Hostname: o.Hostname,
		Mounts:   systemMounts(),
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			},
			Namespaces:    kinds("pid", "ipc", "uts", "mount", "cgroup"),
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: readonlyPaths(),
		},
	}
	for _, step := range []func(*ImageOptions, *specs.Spec) error{
		(*ImageOptions).user,
		(*ImageOptions).limits,
		(*ImageOptions).security,
		(*ImageOptions).network,
		(*ImageOptions).mounts,
		(*ImageOptions).annotations,
	} {
		if err := step(&o, s); err != nil {
			return nil, err
		}
	}
	// What is made here goes the way of every config: checked, and saved as text.
	return Parse(Encode(s))
}

// command: arguments take the place of Cmd and follow Entrypoint; another entrypoint
// does not take the image's Cmd, which was made for the old one.
func (o *ImageOptions) command() []string {
	entry, cmd := o.Image.Entrypoint, o.Image.Cmd
	if o.Entrypoint != nil {
		entry, cmd = nil, nil
		if *o.Entrypoint != "" {
			entry = []string{*o.Entrypoint}
		}
	}
	if len(o.Args) > 0 {
		cmd = o.Args
	}
	return slices.Concat(entry, cmd)
}

// environment is the image's, then the files', then the options'; of two values of a
// name the later counts. What a program expects to be there is put in front.
func (o *ImageOptions) environment() ([]string, error) {
	var env []string
	set := func(kv string) {
		name, _, given := strings.Cut(kv, "=")
		value, have := "", false
		if !given { // the caller's own; without one, not the image's either
			value, have = os.LookupEnv(name)
			kv = name + "=" + value
		}
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, name+"=") })
		if given || have {
			env = append(env, kv)
		}
	}
	for _, kv := range o.Image.Env {
		if name, _, ok := strings.Cut(kv, "="); ok && name != "" { // Docker drops others
			set(kv)
		}
	}
	for _, file := range o.EnvFiles {
		list, err := envFile(file)
		if err != nil {
			return nil, err
		}
		for _, kv := range list {
			set(kv)
		}
	}
	for _, kv := range o.Env {
		if kv == "" || kv[0] == '=' {
			return nil, fmt.Errorf("env %s is not NAME=VALUE or NAME", Quote(kv))
		}
		set(kv)
	}
	front := []string{defaultPath}
	if o.Hostname != "" {
		front = append(front, "HOSTNAME="+o.Hostname)
	}
	if o.Terminal {
		front = append(front, "TERM=xterm")
	}
	front = slices.DeleteFunc(front, func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.ContainsFunc(env, func(given string) bool { return strings.HasPrefix(given, name+"=") })
	})
	return append(front, env...), nil
}

// envFile reads Docker's format: a NAME=VALUE or NAME per line, # for comments, no
// quotes and no escapes.
func envFile(name string) (list []string, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("env-file: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimLeftFunc(strings.TrimPrefix(lines.Text(), "\ufeff"), unicode.IsSpace)
		if line == "" || line[0] == '#' {
			continue
		}
		if key, _, _ := strings.Cut(line, "="); key == "" || strings.ContainsFunc(key, unicode.IsSpace) {
			return nil, fmt.Errorf("env-file %s, line %d: %s is not the name of a variable", name, n, Quote(key))
		}
		list = append(list, line)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("env-file %s: %w", name, err)
	}
	return list, nil
}

func (o *ImageOptions) workingDir() string {
	switch {
	case o.Cwd != "":
		return o.Cwd
	case o.Image.WorkingDir != "":
		return path.Join("/", o.Image.WorkingDir)
	}
	return "/"
}

// user: the option, or the image's, or root. It is looked up in the container, numbers
// too: their group and groups are the container's to say.
func (o *ImageOptions) user(s *specs.Spec) error {
	word := o.User
	if word == "" {
		word = o.Image.User
	}
	if word == "" {
		word = "0"
	}
	if err := CheckUser(word); err != nil {
		return err
	}
	u := &s.Process.User
	u.Username = word
	if uid, gid, _, err := ParseUser(word); err == nil { // for whoever reads the config
		u.UID, u.GID = uid, gid
	}
	return nil
}

func (o *ImageOptions) network(s *specs.Spec) error {
	switch net := o.Net; {
	case net == "", net == "none":
		s.Linux.Namespaces = append(s.Linux.Namespaces, kinds("network")...)
	case net == "host":
		// The host's network without its names would be of little use.
		for _, file := range []string{"/etc/resolv.conf", "/etc/hosts"} {
			if _, err := os.Stat(file); err == nil {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: file, Source: file, Type: "bind",
					Options: []string{"bind", "rprivate", "nosuid", "nodev", "noexec", "ro"}})
			}
		}
	case filepath.IsAbs(net):
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: net})
	default:
		return fmt.Errorf("network %s is not none, host, or the absolute path of a network namespace", Quote(net))
	}
	return nil
}

func (o *ImageOptions) annotations(s *specs.Spec) error {
	for _, kv := range o.Annotations {
		key, value, ok := strings.Cut(kv, "=")
		if key == "" || !ok {
			return fmt.Errorf("annotation %s is not KEY=VALUE", Quote(kv))
		}
		s.Annotations = set(s.Annotations, key, value)
	}
	signal := o.StopSignal
	if signal == "" {
		signal = o.Image.StopSignal
	}
	if signal != "" {
		s.Annotations = set(s.Annotations, AnnotationStopSignal, signal)
	}
	return nil
}

func set(m map[string]string, key, value string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[key] = value
	return m
}
