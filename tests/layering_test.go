// Package tests holds the house to its diagram (ARCHITECTURE.md): who may import whom,
// and what no package may do. It reads the sources, because `go list` would be hidden
// behind the test cache.
package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const top = ".." // of the tree, seen from here

// diagram has a row for each package: what it may import of this module. Arrows point
// down only, and no leaf imports a leaf.
func diagram() map[string][]string {
	const (
		lib     = "libcontainer/"
		wire    = lib + "wire"
		json    = lib + "jsontext"
		info    = lib + "mountinfo"
		fslog   = "rootfs/fslog"
		storage = "rootfs/storage"
		durable = storage + "/durable"
		flock   = storage + "/flock"
		proc    = storage + "/proc"
		dm      = storage + "/devmapper"
	)
	return map[string][]string{
		// Command files translate: flags, one call, output.
		".":              {"libcontainer", lib + "bundle", "image", "image/transfer", storage, dm, storage + "/overlay"},
		"image":          {storage, durable, flock, "image/layer"},
		"image/transfer": {"image", "image/layer"}, // linked into the second face only
		"image/layer":    {},
		// The one package that knows the others.
		"libcontainer": {lib + "bundle", lib + "plan", lib + "process", lib + "seccomp", lib + "cgroup", lib + "state", lib + "hooks", wire,
			"nsenter", "rootfs", storage, proc, dm, storage + "/overlay", storage + "/dir", "image"},
		// The plan is made of the leaves' Configs.
		lib + "plan":  {lib + "bundle", lib + "process", lib + "seccomp", lib + "cgroup", lib + "hooks", "nsenter", "rootfs", storage, wire},
		lib + "state": {storage, proc, json}, // a record names what storage claimed
		// Leaves.
		lib + "bundle":  {json},
		lib + "process": {wire},
		lib + "seccomp": {wire},
		lib + "cgroup":  {wire, info, proc},
		lib + "hooks":   {wire},
		"nsenter":       {wire},
		"rootfs":        {wire, info, fslog},
		// The floor.
		wire:               {},
		wire + "/wiretest": {wire}, // for tests
		json:               {},
		info:               {},
		fslog:              {},
		// Storage: the contract, the drivers, the kernel's words.
		storage:                  {},
		durable:                  {},
		flock:                    {},
		proc:                     {},
		storage + "/storagetest": {storage},
		storage + "/dir":         {storage},
		storage + "/overlay":     {storage, durable, flock, proc, fslog},
		dm:                       {storage, durable, flock, proc, fslog, dm + "/base", dm + "/devnode", dm + "/dm", dm + "/loop", dm + "/thinmeta"},
		dm + "/base":             {},
		dm + "/devnode":          {},
		dm + "/dm":               {dm + "/devnode"},
		dm + "/loop":             {dm + "/devnode"},
		dm + "/thinmeta":         {},
	}
}

// outside says which packages may use a module or package from outside; all may use
// what is not named here.
func outside() map[string][]string {
	return map[string][]string{
		// The OCI types stop at the plan.
		"github.com/opencontainers/runtime-spec/": {".", "libcontainer", "libcontainer/bundle", "libcontainer/plan"},
		"github.com/opencontainers/cgroups":       {"libcontainer/cgroup", "libcontainer/plan"}, // its Resources are cgroup.Config's
		"github.com/urfave/cli/":                  {"."},
		// The start path pays for none of these: TestThinrunStartsWithoutTheLibraries.
		"github.com/google/":    {"image/transfer"},
		"github.com/docker/":    {"image/transfer"},
		"github.com/klauspost/": {"image/transfer"},
		"net/http":              {"image/transfer"},
		"crypto/tls":            {"image/transfer"},
	}
}

// source is a Go file of the product, parsed; tests are free.
type source struct {
	file string // "libcontainer/state/id.go"
	pkg  string // "libcontainer/state"
	ast  *ast.File
	fset *token.FileSet
}

func (s source) position(n ast.Node) string {
	return s.file + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

func sources(t *testing.T) (list []source) {
	t.Helper()
	fset := token.NewFileSet()
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != top && strings.HasPrefix(name, ".") || name == "testdata" || p == top+"/tests" {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(fset, p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		file, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		list = append(list, source{file, path.Dir(file), parsed, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 20 {
		t.Fatalf("found %d Go files in %s", len(list), top)
	}
	return list
}

func TestImportsFollowTheDiagram(t *testing.T) {
	rows := diagram()
	seen := make(map[string]bool)
	for _, s := range sources(t) {
		seen[s.pkg] = true
		may, known := rows[s.pkg]
		if !known {
			t.Errorf("%s: package %s has no row in the diagram: say where it stands", s.file, s.pkg)
			continue
		}
		for _, imp := range s.ast.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if below, ours := strings.CutPrefix(name, "thinrun/"); ours && !slices.Contains(may, below) {
				t.Errorf("%s: %s may not import %s", s.position(imp), s.pkg, below)
			}
			for prefix, users := range outside() {
				if strings.HasPrefix(name, prefix) && !slices.Contains(users, s.pkg) {
					t.Errorf("%s: %s is for %v only", s.position(imp), name, users)
				}
			}
			switch {
			case name == "C":
				t.Errorf("%s: cgo", s.position(imp))
			case s.pkg == "." && (name == "golang.org/x/sys/unix" || name == "syscall"):
				t.Errorf("%s: a command file calls libcontainer, not the kernel", s.position(imp))
			}
		}
	}
	for pkg := range rows {
		if !seen[pkg] {
			t.Errorf("the diagram has a row for %s, which has no Go file", pkg)
		}
	}
}

func TestNothingRunsBeforeMain(t *testing.T) {
	for _, s := range sources(t) {
		for _, decl := range s.ast.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: func init: every one of a container's six invocations would run it", s.position(f))
			}
		}
	}
}

// pathCalls are the functions that let the kernel walk a path. Below a rootfs the
// container, or an image, decides where such a walk ends.
func pathCalls() map[string][]string {
	return map[string][]string{
		"os": {"Chdir", "Chmod", "Chown", "Chtimes", "Create", "CreateTemp", "Lchown", "Link", "Lstat", "Mkdir", "MkdirAll", "MkdirTemp", "Open", "OpenFile",
			"ReadDir", "ReadFile", "Readlink", "Remove", "RemoveAll", "Rename", "Stat", "Symlink", "Truncate", "WriteFile", "DirFS", "CopyFS"},
		"unix": {"Access", "Chdir", "Chmod", "Chown", "Chroot", "Creat", "Lchown", "Link", "Lstat", "Mkdir", "Mkfifo", "Mknod", "Mount", "Open", "PivotRoot",
			"Readlink", "Removexattr", "Rename", "Rmdir", "Setxattr", "Lsetxattr", "Stat", "Statfs", "Symlink", "Truncate", "Unlink", "Unmount", "AT_FDCWD"},
		"filepath": {"EvalSymlinks", "Glob", "Walk", "WalkDir"},
	}
}

// allowedPathCalls are the exceptions in rootfs, each with the reason why no container
// has a say in where the path leads.
func allowedPathCalls() map[string]string {
	return map[string]string{
		"source.go unix.AT_FDCWD": "a bind's source is a path of the host, opened by the parent in the host's tree",
		"source.go unix.Open":     "/proc/PID/ns/user of our own stopped child",
		"root.go unix.AT_FDCWD":   "the directory of the host on which the root is attached, before pivot_root",
		"pivot.go unix.Open":      "/proc/self/mountinfo of the host's procfs, before the root is ours",
		"cgroup.go unix.AT_FDCWD": "/proc/self/ns/cgroup and the host's /sys/fs/cgroup, before pivot_root",
		"cgroup.go unix.Statfs":   "the host's /sys/fs/cgroup, before pivot_root",
		"pivot.go unix.Unmount":   "mount points of the host's tree, in our copy of it",
		"pivot.go unix.Mount":     "mount points of the host's tree, in our copy of it",
	}
}

func TestRootfsWalksNoPath(t *testing.T) {
	forbidden, allowed := pathCalls(), allowedPathCalls()
	used := make(map[string]bool)
	for _, s := range sources(t) {
		if s.pkg != "rootfs" {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || slices.ContainsFunc(call.Args, walksNothing) {
				return true
			}
			for _, e := range append([]ast.Expr{call.Fun}, call.Args...) {
				pkg, name := selector(e)
				if !slices.Contains(forbidden[pkg], name) {
					continue
				}
				key := path.Base(s.file) + " " + pkg + "." + name
				used[key] = true
				if allowed[key] == "" {
					t.Errorf("%s: %s.%s walks a path; use a descriptor below the root", s.position(call), pkg, name)
				}
			}
			return true
		})
	}
	for key := range allowed {
		if !used[key] {
			t.Errorf("%s is allowed, but not there any more", key)
		}
	}
}

// walksNothing tells "/" and "." from paths that name something.
func walksNothing(arg ast.Expr) bool {
	lit, ok := arg.(*ast.BasicLit)
	return ok && (lit.Value == `"/"` || lit.Value == `"."`)
}

// selector is "os", "Open" for os.Open.
func selector(e ast.Expr) (pkg, name string) {
	if sel, ok := e.(*ast.SelectorExpr); ok {
		if x, ok := sel.X.(*ast.Ident); ok {
			return x.Name, sel.Sel.Name
		}
	}
	return "", ""
}

// TestTopLevelIsAsAskedFor keeps what the project's user fixed.
func TestTopLevelIsAsAskedFor(t *testing.T) {
	for _, name := range []string{"main.go", "create.go", "start.go", "kill.go", "delete.go", "state.go",
		"libcontainer/", "nsenter/", "rootfs/", "tests/", "go.mod", "go.sum", "Makefile"} {
		st, err := os.Stat(filepath.Join(top, name))
		if err != nil {
			t.Error(err)
		} else if st.IsDir() != strings.HasSuffix(name, "/") {
			t.Errorf("%s: directory: %v", name, st.IsDir())
		}
	}
}

func TestAskedForPackagesAreUsed(t *testing.T) {
	want := map[string]bool{
		"github.com/urfave/cli/v2":               false,
		"golang.org/x/sys/unix":                  false,
		"github.com/opencontainers/runtime-spec": false,
		"github.com/coreos/go-systemd/v22":       false,
	}
	for _, s := range sources(t) {
		for _, imp := range s.ast.Imports {
			name, _ := strconv.Unquote(imp.Path.Value)
			for prefix := range want {
				if name == prefix || strings.HasPrefix(name, prefix+"/") {
					want[prefix] = true
				}
			}
		}
	}
	for name, used := range want {
		if !used {
			t.Errorf("nothing imports %s", name)
		}
	}
}
