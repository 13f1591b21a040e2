package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"thinrun/rootfs/storage/devmapper"
	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"

	"golang.org/x/sys/unix"
)

// tmpfs mounts a small one on dir, calls f and takes it away. The mount table is the
// box's own.
func tmpfs(t *testing.T, dir, options string, f func()) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("small", dir, "tmpfs", 0, "mode=0700,"+options); err != nil {
		t.Fatal(os.NewSyscallError("mount", err))
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil { // EBUSY: somebody still uses it
			t.Errorf("%s: %v", options, os.NewSyscallError("umount", err))
		}
	}()
	f()
}

// fill calls create on ever larger file systems until one is large enough, and expects
// each refusal to leave the file system as empty as it was.
func (p *place) fill(dir, unit string, first, last int) {
	p.t.Helper()
	refusals := 0
	for n := first; ; n++ {
		if n > last {
			p.t.Fatalf("create is refused with %s=%d on %s: %s", unit, n, dir, p.Said())
		}
		options, enough := fmt.Sprintf(unit, n), false
		tmpfs(p.t, dir, options, func() {
			if enough = !p.Refused("create", "--bundle", p.sleeps, "full"); !enough {
				refusals++
				if !strings.Contains(p.Said(), "no space left on device") {
					p.t.Errorf("%s: %s", options, p.Said())
				}
				list, err := os.ReadDir(dir)
				if err != nil || len(list) > 0 {
					p.t.Errorf("%s: left behind: %v, %v", options, list, err)
				}
				p.Refused("start", "full") // it does not exist
			}
			p.OK("delete", "--force", "full")
		})
		p.clean(options)
		if enough {
			break
		}
	}
	if refusals == 0 {
		p.t.Errorf("%s on %s was never too small", unit, dir)
	}
}

func TestFullStateDirectory(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		p.fill(p.rt.Root, "nr_inodes=%d", 1, 20)
		// A page for the directory's first block, then one by one. An inode costs none.
		p.fill(p.rt.Root, "size=%dk,huge=never", 4, 100)
	})
}

func TestFullStorage(t *testing.T) {
	p := newPlace(t, "overlay")
	p.fill(filepath.Join(p.rt.Storage, "overlay/containers"), "nr_inodes=%d", 1, 20)
}

func TestReadOnlyStateDirectory(t *testing.T) {
	drivers(t, func(t *testing.T, p *place) {
		remount := func(flags uintptr) {
			t.Helper()
			if err := unix.Mount("", p.rt.Root, "", unix.MS_REMOUNT|flags, ""); err != nil {
				t.Fatal(os.NewSyscallError("mount", err))
			}
		}
		tmpfs(t, p.rt.Root, "size=1m", func() {
			p.OK("create", "--bundle", p.sleeps, "there")
			remount(unix.MS_RDONLY)
			for _, args := range [][]string{{"create", "--bundle", p.sleeps, "new"}, {"delete", "--force", "there"}} {
				if !p.Refused(args...) || !strings.Contains(p.Said(), "read-only file system") {
					t.Errorf("thinrun %q: %s", args, p.Said())
				}
			}
			p.OK("delete", "--force", "new")
			p.OK("state", "there") // it was not forgotten
			remount(0)
			p.OK("delete", "--force", "there")
		})
		p.clean("read-only state directory")
	})
}

func TestTruncatedPool(t *testing.T) {
	p := newPlace(t, "devmapper")
	status, err := p.pool.Status()
	if err != nil {
		t.Fatal(err)
	}
	// Inactive, as after a boot.
	var nodes devnode.Nodes
	defer nodes.Close()
	control, err := dm.Open(&nodes)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	for _, half := range []devmapper.Space{status.Data, status.Metadata} {
		if _, err := control.Remove(status.Name, false); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(half.Path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(half.Path, st.Size()-1<<20); err != nil {
			t.Fatal(err)
		}
		if !p.Refused("create", "--bundle", p.sleeps, "short") || !strings.Contains(p.Said(), half.Path) {
			t.Errorf("the line does not name %s: %s", half.Path, p.Said())
		}
		p.OK("delete", "--force", "short")
		now, err := os.Stat(half.Path)
		if err != nil || now.Size() != st.Size()-1<<20 {
			t.Errorf("%s has changed: %v, %v", half.Path, now, err)
		}
		if err := os.Truncate(half.Path, st.Size()); err != nil { // what was cut off was never used
			t.Fatal(err)
		}
		p.life("whole")
	}
	p.clean("truncated pool")
}
