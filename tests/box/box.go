// Package box tells a test where it runs, so that a destructive or hostile one refuses
// to run where it could do harm, and so that nothing is skipped in silence in the lab.
//
// It believes labexec's mounts, not the environment alone: a variable survives in
// places where nothing is protected any more.
package box

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mark is the source of the mounts that labexec makes; it says the same.
const mark = "thinrun-lab"

// Require skips the test unless the host's files are out of its reach: in a lab kernel,
// or boxed on this one. Where the environment says so and it is not true, it fails.
func Require(t testing.TB) {
	t.Helper()
	err := protected()
	switch {
	case err == nil:
	case InLab() || os.Getenv("THINRUN_BOX") != "":
		t.Fatalf("LAB or THINRUN_BOX is set, but %v", err)
	default:
		t.Skip("needs a box: make test, or go test -exec '.build/bin/labexec -vm none'")
	}
}

// InLab tells whether this is the lab kernel, where nothing may be skipped.
func InLab() bool { return os.Getenv("LAB") == "1" }

// Lacks ends a test for which this machine has not what it needs. In the lab kernel,
// which should have it, that is a failure.
func Lacks(t testing.TB, format string, args ...any) {
	t.Helper()
	if InLab() {
		t.Fatalf("the lab lacks "+format, args...)
	}
	t.Skipf("this machine lacks "+format, args...)
}

// NativeOnly ends a test in the lab kernel that can only run on a real machine; the
// runner knows the words and allows this skip.
func NativeOnly(t testing.TB, format string, args ...any) {
	t.Helper()
	if InLab() {
		t.Skipf("native only: "+format, args...)
	}
}

// Root skips a test that needs root.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Lacks(t, "root")
	}
}

// Binary is thinrun itself: $THINRUN, which the runner sets, or a fresh build where the
// Go tool can be used.
func Binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("THINRUN"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "thinrun")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "urfave_cli_no_docs", "-o", path, "thinrun")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("no $THINRUN, and go build says: %v\n%s", err, out)
	}
	return path
}

// protected answers nil when what a test breaks is thrown away.
func protected() error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	sources := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		left, right, _ := strings.Cut(line, " - ")
		if f, g := strings.Fields(left), strings.Fields(right); len(f) > 4 && len(g) > 1 {
			sources[f[4]] = g[1] // the last one on a directory is on top
		}
	}
	if sources["/run"] != mark {
		return fmt.Errorf("/run is not labexec's")
	}
	if sources["/tmp"] == "" {
		return fmt.Errorf("/tmp is not a mount of its own")
	}
	var st unix.Statfs_t
	if err := unix.Statfs("/", &st); err != nil {
		return err
	}
	if sources["/"] != mark && st.Flags&unix.ST_RDONLY == 0 {
		return fmt.Errorf("/ is writable")
	}
	return nil
}
