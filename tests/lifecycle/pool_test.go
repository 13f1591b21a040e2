package lifecycle

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"
)

// TestPoolRepair: after a failed write the kernel lets nothing change the pool's metadata
// until that was checked. The error names the cure.
func TestPoolRepair(t *testing.T) {
	box.Require(t)
	if !box.InLab() {
		t.Skip("lab only: dm-thin")
	}
	rt := newRuntime(t)
	source := t.TempDir()
	testbundle.Rootfs(t, source)
	rt.OK("image", "import", "-q", "base", source)
	t.Cleanup(func() { rt.OK("pool", "destroy", "--force") })
	if out := rt.OK("pool", "check", "--repair"); !strings.HasPrefix(out, "good: 1 layers") {
		t.Errorf("repair of a pool that is well: %s", out)
	}
	needsCheck(t, filepath.Join(rt.Storage, "pool", "meta"))
	rt.Fails(1, []string{"run", "--image", "base", "x", "true"}, "needs a check", "`thinrun pool check --repair`")
	rt.OK("pool", "check", "--repair")
	id := rt.ID()
	rt.OK("run", "-d", "--image", "base", id, "sleep", "100000")
	if out := rt.OK("pool", "check", "--repair", "--format", "json"); !strings.Contains(out, `"ok":true`) || !strings.Contains(out, `"containers":1`) {
		t.Errorf("repair of a pool that is well and in use: %s", out)
	}
	rt.OK("delete", "--force", id)
}

// needsCheck takes the only pool down and sets the flag that the kernel sets when a write
// to the metadata failed.
func needsCheck(t *testing.T, meta string) {
	t.Helper()
	out, err := exec.Command("dmsetup", "ls", "--target", "thin-pool").CombinedOutput()
	check(t, err)
	name := strings.Fields(string(out))[0]
	if out, err := exec.Command("dmsetup", "remove", "--noudevsync", name).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := os.OpenFile(meta, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	b := make([]byte, 4096)
	_, err = f.ReadAt(b, 0)
	check(t, err)
	b[4] |= 1 // THIN_METADATA_NEEDS_CHECK_FLAG
	binary.LittleEndian.PutUint32(b, ^crc32.Checksum(b[4:], crc32.MakeTable(crc32.Castagnoli))^160774)
	_, err = f.WriteAt(b, 0)
	check(t, err)
}
