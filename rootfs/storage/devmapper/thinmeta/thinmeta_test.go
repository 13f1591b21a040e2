package thinmeta

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// restore makes metadata out of thin_dump's XML with thin_restore.
func restore(t *testing.T, xml string) *os.File {
	t.Helper()
	need(t, "thin_restore")
	dir := t.TempDir()
	in, out := filepath.Join(dir, "xml"), filepath.Join(dir, "meta")
	if err := os.WriteFile(in, []byte(xml), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(out, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	run(t, "thin_restore", "-i", in, "-o", out)
	return f
}

func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		if os.Getenv("LAB") == "1" {
			t.Fatalf("%s is missing in the lab (Debian: thin-provisioning-tools)", tool)
		}
		t.Skipf("%s is missing (Debian: thin-provisioning-tools)", tool)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		if strings.Contains(string(out), "Invalid argument") && os.Getenv("LAB") != "1" {
			t.Skipf("%s: %s (it wants O_DIRECT, which this file system lacks)", name, out)
		}
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

const head = `<superblock uuid="" time="%d" transaction="%d" flags="0" version="2" data_block_size="128" nr_data_blocks="4096">` + "\n"

func xml(clock uint32, transaction uint64, devices int) string {
	var b strings.Builder
	fmt.Fprintf(&b, head, clock, transaction)
	for i := range devices {
		// ids with holes, so that keys and positions differ
		fmt.Fprintf(&b, "<device dev_id=\"%d\" mapped_blocks=\"1\" transaction=\"7\" creation_time=\"%d\" snap_time=\"%d\">\n"+
			"<single_mapping origin_block=\"%d\" data_block=\"%d\" time=\"0\"/>\n</device>\n", 3*i+1, i, i+1, i, i%4096)
	}
	b.WriteString("</superblock>\n")
	return b.String()
}

func TestAgreesWithThinLs(t *testing.T) {
	for _, devices := range []int{0, 1, 100, 5000} {
		t.Run(fmt.Sprint(devices), func(t *testing.T) {
			f := restore(t, xml(1234567, 0xdeadbeefcafe0001, devices))
			sb, err := ReadSuperblock(f, 0)
			if err != nil {
				t.Fatal(err)
			}
			if sb.Clock != 1234567 || sb.Transaction != 0xdeadbeefcafe0001 || sb.NeedsCheck || sb.BlockSector != 128 || sb.Data.Total != 4096 {
				t.Errorf("superblock is %+v", sb)
			}
			if sb.Metadata.Total != 16384 || sb.Metadata.Used == 0 {
				t.Errorf("metadata space is %+v, want 16384 blocks with some used", sb.Metadata)
			}
			list, err := sb.Thins(f)
			if err != nil {
				t.Fatal(err)
			}
			// Its devices map one block each, all of them the same 4096 in turn.
			if c, err := Check(f, 4096); err != nil || !c.OK() || c.Leaked+c.LeakedMeta != 0 || c.Data != min(uint64(devices), 4096) {
				t.Errorf("check of what thin_restore made: %q, leaked %d and %d, %d blocks, %v", c.Problems, c.Leaked, c.LeakedMeta, c.Data, err)
			}
			var got strings.Builder
			for _, d := range list {
				fmt.Fprintln(&got, d.ID, d.Mapped, d.Transaction, d.Created, d.Snapshotted)
			}
			need(t, "thin_ls")
			out := run(t, "thin_ls", "--no-headers", "--format", "DEV,MAPPED_BLOCKS,TRANSACTION,CREATE_TIME,SNAP_TIME", f.Name())
			var want strings.Builder
			for line := range strings.Lines(out) {
				fmt.Fprintln(&want, strings.Join(strings.Fields(line), " "))
			}
			if got.String() != want.String() {
				t.Errorf("got\n%.300s\nthin_ls says\n%.300s", got.String(), want.String())
			}
			if len(list) != devices {
				t.Errorf("%d devices, want %d", len(list), devices)
			}
			for _, id := range []uint32{0, 1, 2, uint32(3*devices/2)*3 + 1, uint32(3*devices - 2), 1<<24 - 1} {
				var want *Thin
				for i := range list {
					if list[i].ID == id {
						want = &list[i]
					}
				}
				d, ok, err := sb.Thin(f, id)
				if err != nil || ok != (want != nil) || ok && d != *want {
					t.Errorf("Thin(%d) = %+v %v %v, want %+v", id, d, ok, err, want)
				}
			}
		})
	}
}

func TestDamageIsNamed(t *testing.T) {
	f := restore(t, xml(1, 1, 300))
	sb, err := ReadSuperblock(f, 0)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int64) func() {
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		f.WriteAt([]byte{b[0] ^ 0x10}, at)
		return func() { f.WriteAt(b, at) }
	}
	for _, at := range []int64{0, 4, 8, 44, 100, 4095} {
		undo := flip(at)
		if _, err := ReadSuperblock(f, 0); !errors.Is(err, ErrDamaged) {
			t.Errorf("superblock byte %d flipped: %v, want %v", at, err, ErrDamaged)
		}
		undo()
	}
	for _, at := range []int64{0, 4, 8, 16, 20, 24, 40, 3000} {
		undo := flip(int64(sb.details)*BlockSize + at)
		if _, err := sb.Thins(f); !errors.Is(err, ErrDamaged) {
			t.Errorf("details root byte %d flipped: %v, want %v", at, err, ErrDamaged)
		}
		if _, _, err := sb.Thin(f, 1); !errors.Is(err, ErrDamaged) {
			t.Errorf("details root byte %d flipped, one device: %v, want %v", at, err, ErrDamaged)
		}
		undo()
	}
	// A block of the right kind in the wrong place.
	if _, err := ReadSuperblock(moved{f}, 0); !errors.Is(err, ErrNone) {
		t.Errorf("metadata moved by a block: %v, want %v", err, ErrNone)
	}
	if _, err := ReadSuperblock(strings.NewReader("short"), 0); err == nil {
		t.Error("a file of 5 bytes has a superblock")
	}
}

type moved struct{ f *os.File }

func (m moved) ReadAt(b []byte, at int64) (int, error) { return m.f.ReadAt(b, at+BlockSize) }
