package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"thinrun/libcontainer/bundle"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// bundles are the directories that all runtimes are given.
type bundles struct {
	dir    string
	rootfs string

	plain    string // true, with runc's default spec
	profile  string // the same with Docker's seccomp profile
	exit7    string
	marker   string
	filtered string
	sleep    string
}

// makeBundles writes them below dir. The spec is what `runc spec` writes, without a
// terminal and for version 1.0.2 of the runtime-spec: crun 1.8 knows no newer one.
func makeBundles(dir string, docker []byte) (*bundles, error) {
	b := &bundles{dir: dir, rootfs: filepath.Join(dir, "rootfs")}
	if err := makeRootfs(b.rootfs); err != nil {
		return nil, err
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(docker, &profile); err != nil {
		return nil, fmt.Errorf("docker's seccomp profile: %w", err)
	}
	edom := uint(33)
	for _, each := range []struct {
		path *string
		name string
		args []string
		edit func(*specs.Spec)
	}{
		{&b.plain, "plain", []string{"true"}, nil},
		{&b.profile, "profile", []string{"true"}, func(s *specs.Spec) { s.Linux.Seccomp = &profile }},
		{&b.exit7, "exit7", []string{"sh", "-c", "exit 7"}, nil},
		{&b.marker, "marker", []string{"sh", "-c", "echo marker $$"}, nil},
		{&b.filtered, "filtered", []string{"sh", "-c", `case $(mkdir /x 2>&1) in *"out of domain"*) exit 33; esac`}, func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &edom}}}
		}},
		{&b.sleep, "sleep", []string{"sleep", "100000"}, nil},
	} {
		path, err := b.write(each.name, each.args, each.edit)
		if err != nil {
			return nil, err
		}
		*each.path = path
	}
	return b, nil
}

// write makes one more bundle on the same root.
func (b *bundles) write(name string, args []string, edit func(*specs.Spec)) (string, error) {
	spec := bundle.Default(false)
	spec.Version = "1.0.2"
	spec.Process.Terminal = false
	spec.Process.Args = args
	spec.Root.Path = b.rootfs
	if edit != nil {
		edit(spec)
	}
	dir := filepath.Join(b.dir, name)
	text, err := json.MarshalIndent(spec, "", "\t")
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), text, 0o644)
	}
	return dir, err
}

// makeRootfs is Debian's static busybox under a few names.
func makeRootfs(dir string) error {
	for _, d := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile("/bin/busybox", filepath.Join(dir, "bin/busybox")); err != nil {
		return fmt.Errorf("%w (Debian's busybox-static has it)", err)
	}
	for _, name := range []string{"true", "sh", "sleep", "mkdir"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return nil
}

// copyFile makes an executable copy that replaces to at once.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if e := out.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}
