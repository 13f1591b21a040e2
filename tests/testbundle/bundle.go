// Package testbundle is what the tests of the whole binary stand on: a builder of
// bundles, a runner of thinrun, and a look at what was left behind.
//
//	rt := testbundle.NewRuntime(t)
//	b := testbundle.New(t).Args("hostname").Hostname("box")
//	got := rt.OK("run", "--bundle", b.Path(), rt.ID())
//
// NewRuntime's cleanup fails the test if anything is left: so tests that use it do not
// run in parallel with each other.
package testbundle

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"thinrun/libcontainer/bundle"
	"thinrun/tests/box"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// imageAnnotation asks for a snapshot of an image as the root.
const imageAnnotation = "org.thinrun.image"

// Bundle is a bundle in the making: what `thinrun spec` writes, with `true` as the
// program and no terminal, on a root of busybox.
type Bundle struct {
	Spec *specs.Spec
	Dir  string
	t    testing.TB
}

// New makes a bundle in a directory of the test's.
func New(t testing.TB) *Bundle {
	t.Helper()
	b := &Bundle{Spec: bundle.Default(os.Geteuid() != 0), Dir: t.TempDir(), t: t}
	b.Spec.Process.Terminal = false
	b.Spec.Process.Args = []string{"true"}
	Rootfs(t, filepath.Join(b.Dir, "rootfs"))
	return b
}

// applets are the names under which the root has busybox.
var applets = [...]string{
	"[", "awk", "basename", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname", "echo", "env", "false",
	"find", "grep", "head", "hostname", "id", "ifconfig", "ip", "kill", "ln", "ls", "mkdir", "mkfifo", "mknod", "mount",
	"mv", "nc", "ps", "pwd", "readlink", "rm", "rmdir", "sed", "seq", "sh", "sha256sum", "sleep", "sort", "stat", "stty",
	"sync", "tail", "tee", "test", "touch", "tr", "true", "tty", "umount", "uname", "uniq", "unshare", "wc", "yes",
}

// Rootfs makes a small root file system in dir: busybox, and two users.
func Rootfs(t testing.TB, dir string) {
	t.Helper()
	for _, d := range []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"} {
		check(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	check(t, os.Chmod(dir, 0o755))
	check(t, os.Chmod(filepath.Join(dir, "tmp"), 0o1777))
	const source = "/bin/busybox"
	if _, err := os.Stat(source); err != nil {
		box.Lacks(t, "/bin/busybox (Debian's busybox-static)")
	}
	Copy(t, source, filepath.Join(dir, "bin/busybox"))
	for _, name := range applets {
		check(t, os.Symlink("busybox", filepath.Join(dir, "bin", name)))
	}
	check(t, os.WriteFile(filepath.Join(dir, "etc/passwd"),
		[]byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n"), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "etc/group"), []byte("root:x:0:\nuser:x:1000:\n"), 0o644))
}

// Copy makes an executable copy: a container must never hold the file itself.
func Copy(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	check(t, err)
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	check(t, err)
	_, err = io.Copy(out, in)
	check(t, err)
	check(t, out.Close())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Args sets the program.
func (b *Bundle) Args(args ...string) *Bundle { b.Spec.Process.Args = args; return b }

// Shell sets the program to a script for the shell.
func (b *Bundle) Shell(script string) *Bundle { return b.Args("sh", "-c", script) }

// Env adds to the environment.
func (b *Bundle) Env(env ...string) *Bundle {
	b.Spec.Process.Env = append(b.Spec.Process.Env, env...)
	return b
}

func (b *Bundle) Hostname(name string) *Bundle { b.Spec.Hostname = name; return b }
func (b *Bundle) Cwd(dir string) *Bundle       { b.Spec.Process.Cwd = dir; return b }

// Terminal gives the program one.
func (b *Bundle) Terminal() *Bundle { b.Spec.Process.Terminal = true; return b }

// Writable makes the root writable.
func (b *Bundle) Writable() *Bundle { b.Spec.Root.Readonly = false; return b }

// User sets the program's ids.
func (b *Bundle) User(uid, gid uint32, groups ...uint32) *Bundle {
	b.Spec.Process.User = specs.User{UID: uid, GID: gid, AdditionalGids: groups}
	return b
}

// Mount adds one.
func (b *Bundle) Mount(m specs.Mount) *Bundle { b.Spec.Mounts = append(b.Spec.Mounts, m); return b }

// Bind adds a bind mount of a host path.
func (b *Bundle) Bind(source, destination string, options ...string) *Bundle {
	return b.Mount(specs.Mount{Source: source, Destination: destination, Type: "bind", Options: append([]string{"rbind"}, options...)})
}

// Image asks for a snapshot of an image as the root, by annotation.
func (b *Bundle) Image(name string) *Bundle {
	if b.Spec.Annotations == nil {
		b.Spec.Annotations = map[string]string{}
	}
	b.Spec.Annotations[imageAnnotation] = name
	return b
}

// Memory limits in bytes.
func (b *Bundle) Memory(bytes int64) *Bundle {
	b.Spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &bytes}
	return b
}

// Pids limits the number of processes.
func (b *Bundle) Pids(n int64) *Bundle {
	b.Spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &n}
	return b
}

// Without leaves out namespaces.
func (b *Bundle) Without(kinds ...specs.LinuxNamespaceType) *Bundle {
	var keep []specs.LinuxNamespace
next:
	for _, ns := range b.Spec.Linux.Namespaces {
		for _, kind := range kinds {
			if ns.Type == kind {
				continue next
			}
		}
		keep = append(keep, ns)
	}
	b.Spec.Linux.Namespaces = keep
	return b
}

// Join takes a namespace from a path; "" is a new one.
func (b *Bundle) Join(kind specs.LinuxNamespaceType, path string) *Bundle {
	b.Without(kind)
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	return b
}

// UserNamespace maps the first 65536 ids to host ids from base on, and gives the root
// to them.
func (b *Bundle) UserNamespace(base uint32) *Bundle {
	b.t.Helper()
	b.Join(specs.UserNamespace, "")
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: base, Size: 65536}}
	b.Spec.Linux.UIDMappings, b.Spec.Linux.GIDMappings = ids, ids
	check(b.t, filepath.WalkDir(b.Root(), func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(base), int(base))
	}))
	// The way there must be open to whom the host calls base.
	for dir := b.Dir; dir != "/"; dir = filepath.Dir(dir) {
		st, err := os.Stat(dir)
		check(b.t, err)
		if st.Mode()&0o011 != 0o011 {
			check(b.t, os.Chmod(dir, st.Mode()|0o011))
		}
	}
	return b
}

// Edit changes anything else.
func (b *Bundle) Edit(change func(*specs.Spec)) *Bundle { change(b.Spec); return b }

// Root is the root file system's directory.
func (b *Bundle) Root() string { return filepath.Join(b.Dir, "rootfs") }

// File puts a file into the root.
func (b *Bundle) File(name, content string, mode os.FileMode) *Bundle {
	b.t.Helper()
	path := filepath.Join(b.Root(), name)
	check(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(b.t, os.WriteFile(path, []byte(content), mode))
	check(b.t, os.Chmod(path, mode))
	return b
}

// Self puts the running test binary into the root under name. Its TestMain looks at
// os.Args[0] and does there what the test wants done inside. It has to be static.
func (b *Bundle) Self(name string) *Bundle {
	b.t.Helper()
	if err := static("/proc/self/exe"); err != nil {
		b.t.Fatalf("the test binary cannot run in a container: %v (build the tests with CGO_ENABLED=0)", err)
	}
	path := filepath.Join(b.Root(), name)
	check(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	Copy(b.t, "/proc/self/exe", path)
	return b
}

// Path writes config.json as it is now and returns the bundle's directory.
func (b *Bundle) Path() string {
	b.t.Helper()
	data, err := json.MarshalIndent(b.Spec, "", "\t")
	check(b.t, err)
	return b.Raw(data)
}

// Raw writes config.json's very bytes and returns the bundle's directory.
func (b *Bundle) Raw(config []byte) string {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.Dir, "config.json"), config, 0o644); err != nil {
		b.t.Fatal(fmt.Errorf("bundle: %w", err))
	}
	return b.Dir
}
