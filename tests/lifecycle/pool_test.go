package lifecycle

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"

	"golang.org/x/sys/unix"
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

// TestPoolTrim: it says what the host has got back, and what of the free space has stayed.
func TestPoolTrim(t *testing.T) {
	box.Require(t)
	if !box.InLab() {
		t.Skip("lab only: dm-thin")
	}
	for _, format := range []string{"table", "json"} {
		t.Run(format, func(t *testing.T) {
			rt := newRuntime(t)
			rt.OK("pool", "create", "--data-size", "256M", "--base-size", "1G", "--low-water", "16M")
			t.Cleanup(func() { rt.OK("pool", "destroy") })
			before := hostBytes(t, filepath.Join(rt.Storage, "pool", "data"))
			out := rt.OK("pool", "trim", "--format", format)
			lost := before - hostBytes(t, filepath.Join(rt.Storage, "pool", "data"))
			if lost < 128<<20 {
				t.Errorf("of %d bytes the host has got %d back", before, lost)
			}
			if format == "table" {
				want := fmt.Sprintf("%.1f MiB given back; ", float64(lost)/(1<<20))
				if !strings.HasPrefix(out, want) || !strings.HasSuffix(out, " MiB stay, free, for what is written next\n") {
					t.Errorf("%q, want %q and what stays", out, want)
				}
				return
			}
			var said struct{ Bytes, ReserveBytes int64 }
			check(t, json.Unmarshal([]byte(out), &said))
			// The reserve is the low water mark twice, where that is not the same blocks.
			if said.Bytes != lost || said.ReserveBytes < 16<<20 || said.ReserveBytes > 32<<20 {
				t.Errorf("%s: %d bytes have gone", out, lost)
			}
		})
	}
}

// hostBytes is what the host keeps for a file.
func hostBytes(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Stat(path, &st))
	return st.Blocks * 512
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
