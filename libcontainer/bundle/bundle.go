// Package bundle turns a bundle's config.json into a spec that can be relied on: it
// reads the file once, strictly, and refuses what Linux or thinrun cannot honour, by
// its JSON path. Nothing of the spec is ignored in silence: a test of plan classifies
// every field of runtime-spec, and fails when a new one appears.
//
// It looks at config.json only: whether the rootfs, a bind's source or a cgroup
// controller is there is for plan and for the kernel to say.
package bundle

import (
	"errors"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxSize of a config.json. The largest sensible ones (1.5 MB of environment, thousands
// of mounts) stay below a quarter of it; 64 MB would cost the memory of a small host
// (containerd CVE-2026-47262 is that attack).
const maxSize = 16 << 20

// Bundle is a directory and what its config.json says.
type Bundle struct {
	Dir  string // absolute
	Spec *specs.Spec
	Raw  []byte // the file: the copy that the state directory keeps
}

// Load reads and checks a bundle. configFile is config.json's name: relative to dir, or
// absolute; "" is config.json.
func Load(dir, configFile string) (*Bundle, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if configFile == "" {
		configFile = "config.json"
	}
	if !filepath.IsAbs(configFile) {
		configFile = filepath.Join(dir, configFile)
	}
	raw, err := read(configFile)
	if err != nil {
		return nil, err
	}
	b, err := Parse(raw)
	if err != nil {
		return nil, named(err, configFile)
	}
	b.Dir = dir
	return b, nil
}

// Parse reads and checks the text of a config.json that is in no bundle.
func Parse(raw []byte) (*Bundle, error) {
	spec := new(specs.Spec)
	if err := decode(string(raw), spec, otherPlatform); err != nil {
		return nil, err
	}
	if err := Validate(spec); err != nil {
		return nil, err
	}
	return &Bundle{Spec: spec, Raw: raw}, nil
}

// LoadResources reads and checks the file of update --resources.
func LoadResources(file string, raw []byte) (*specs.LinuxResources, error) {
	r := new(specs.LinuxResources)
	if err := decode(string(raw), r, nil); err != nil {
		return nil, named(err, file)
	}
	if err := resources("", r); err != nil {
		return nil, named(err, file)
	}
	return r, nil
}

// LoadProcess reads and checks the file of exec --process.
func LoadProcess(file string) (*specs.Process, error) {
	raw, err := read(file)
	if err != nil {
		return nil, err
	}
	p := new(specs.Process)
	if err := decode(string(raw), p, nil); err != nil {
		return nil, named(err, file)
	}
	if err := validateProcess("", p); err != nil {
		return nil, named(err, file)
	}
	return p, nil
}

// otherPlatform names the sections for other systems. A spec may carry several
// (config.md, Platform-specific configuration); they say nothing to Linux. The vm
// section is not among them: it asks for a virtual machine, and is refused.
func otherPlatform(name string) bool {
	switch name {
	case "windows", "solaris", "zos", "freebsd":
		return true
	}
	return false
}

func named(err error, file string) error {
	var e *Error
	if errors.As(err, &e) {
		e.File = filepath.Base(file)
	}
	return err
}

// read returns a regular file's content. O_NONBLOCK: the open of a FIFO would otherwise
// wait for a writer for ever. No os.File: it would set up the network poller first.
func read(path string) ([]byte, error) {
	refuse := func(what string, err error) ([]byte, error) {
		return nil, &Error{File: path, What: what, Err: err}
	}
	fd, err := restart(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	})
	if err != nil {
		return refuse("", err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return refuse("stat", err)
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return refuse("is a directory, not a file", nil)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return refuse("is not a regular file", nil)
	case st.Size > maxSize:
		return refuse("is "+strconv.FormatInt(st.Size, 10)+" bytes long; "+strconv.Itoa(maxSize)+" is the most", nil)
	}
	// The size is a hint only: the file may grow, and in procfs it is 0.
	raw := make([]byte, 0, st.Size+512)
	for {
		n, err := restart(func() (int, error) { return unix.Read(fd, raw[len(raw):cap(raw)]) })
		if err != nil {
			return refuse("read", err)
		}
		if n == 0 {
			return raw, nil
		}
		if raw = raw[:len(raw)+n]; len(raw) > maxSize {
			return refuse("is longer than "+strconv.Itoa(maxSize)+" bytes", nil)
		}
		if len(raw) == cap(raw) {
			raw = append(raw, 0)[:len(raw)]
		}
	}
}

func restart(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
