package transfer

import (
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestWriteFileLeavesTheOwner: root exports into a file that is a user's.
func TestWriteFileLeavesTheOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may give files away")
	}
	path := filepath.Join(t.TempDir(), "x.tar")
	check(t, os.WriteFile(path, []byte("old"), 0o640))
	check(t, os.Chown(path, 1000, 1001))
	check(t, WriteFile(t.Context(), path, func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }))
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if is := st.Sys().(*syscall.Stat_t); is.Uid != 1000 || is.Gid != 1001 || st.Mode().Perm() != 0o640 {
		t.Errorf("%d:%d %v", is.Uid, is.Gid, st.Mode())
	}
}

// TestWriteFileThatCannotReplace: the last step fails, as it does with a mount point.
func TestWriteFileThatCannotReplace(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	err := WriteFile(t.Context(), path, func(io.Writer) error { return os.Mkdir(path, 0o755) })
	wantError(t, err, "x.tar")
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}
