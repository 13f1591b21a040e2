package layer

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const boxMark = "THINRUN_IMAGE_TEST_BOX"

// inOwnMounts runs the calling test again in a mount namespace of its own, where all
// that is mounted is read-only but for an empty tmpfs on TMPDIR. It returns true to the
// caller that has nothing more to do. In the box it makes sure that this is the box.
func inOwnMounts(t *testing.T) (done bool) {
	t.Helper()
	if os.Getenv(boxMark) != t.Name() {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), boxMark+"="+t.Name(), "TMPDIR="+os.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Errorf("in its own mount namespace: %v\n%s", err, out)
		}
		return true
	}
	// syscall has made all mounts private together with the namespace.
	must(t, unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
	must(t, unix.Mount("box", os.TempDir(), "tmpfs", 0, "mode=1777"))
	for _, dir := range []string{"/", "/etc", "/var", "/dev", "/sys"} {
		var fs unix.Statfs_t
		if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&unix.ST_RDONLY == 0 {
			t.Fatalf("refusing to run: %s is not read-only (%v)", dir, err)
		}
	}
	if err := os.WriteFile("/thinrun-image-test", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Fatalf("refusing to run: a write into / gives %v", err)
	}
	return false
}
