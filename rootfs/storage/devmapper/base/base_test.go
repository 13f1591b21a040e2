package base

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFileSystemsAreClean(t *testing.T) {
	fsck, err := exec.LookPath("e2fsck")
	if err != nil {
		fsck = "/usr/sbin/e2fsck"
	}
	if _, err := os.Stat(fsck); err != nil {
		if os.Getenv("LAB") == "1" {
			t.Fatal("e2fsck is missing in the lab (Debian: e2fsprogs)")
		}
		t.Skip("e2fsck is missing (Debian: e2fsprogs)")
	}
	for _, size := range Sizes() {
		t.Run(fmt.Sprintf("%dG", size>>30), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "img")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(int64(size)); err != nil {
				t.Fatal(err)
			}
			if err := Write(f, size); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command(fsck, "-fn", path).CombinedOutput()
			if err != nil || strings.Contains(string(out), "lost+found") {
				t.Errorf("e2fsck -fn: %v\n%s", err, out)
			}
			st, err := f.Stat()
			if err != nil || st.Size() != int64(size) {
				t.Errorf("the file has %d bytes, want %d", st.Size(), size)
			}
		})
	}
}

func TestUnknownSize(t *testing.T) {
	if err := Write(nil, 3<<30); err == nil || !strings.Contains(err.Error(), "3221225472") {
		t.Errorf("a size that is not there: %v", err)
	}
}
