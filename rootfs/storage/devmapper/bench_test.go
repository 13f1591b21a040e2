package devmapper

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkContainer is Prepare and Remove, each step in microseconds; on the lab's
// scratch disk when there is one, else on what holds the temporary directory.
func BenchmarkContainer(b *testing.B) {
	if os.Getenv("LAB") != "1" || Supported() != nil {
		b.Skip("runs only in the lab's kernel with dm-thin")
	}
	for _, place := range []string{"tmpfs", "disk"} {
		b.Run(place, func(b *testing.B) {
			dir := b.TempDir()
			if place == "disk" {
				disk, _, _ := strings.Cut(os.Getenv("LAB_DISKS"), " ")
				if disk == "" {
					b.Skip("no scratch disk (LAB_DISKS)")
				}
				if out, err := exec.Command("mkfs.ext4", "-q", "-F", disk).CombinedOutput(); err != nil {
					b.Fatalf("mkfs.ext4 %s: %v\n%s", disk, err, out)
				}
				if err := unix.Mount(disk, dir, "ext4", 0, ""); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
			}
			steps := map[string]time.Duration{}
			last, at := "", time.Now()
			step := func(name string) {
				now := time.Now()
				steps[last] += now.Sub(at)
				last, at = strings.ReplaceAll(name, " ", "_"), now
			}
			d, err := Open(dir, Options{Pool: small(), Step: step})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { d.Close() })
			b.Cleanup(func() {
				if err := d.Destroy(); err != nil {
					b.Error(err)
				}
			})
			l, err := d.NewLayer("")
			if err != nil {
				b.Fatal(err)
			}
			layer, err := l.Commit("")
			if err != nil {
				b.Fatal(err)
			}
			clear(steps)
			for b.Loop() {
				step("0enter")
				src, c, err := prepare(d, "c", layer)
				step("umount")
				if err != nil {
					b.Fatal(err)
				}
				src.Mount.Close()
				step("9remove_begins")
				if err := d.Remove(c); err != nil {
					b.Fatal(err)
				}
				step("")
			}
			for name, t := range steps {
				if name != "" {
					b.ReportMetric(float64(t.Microseconds())/float64(b.N), name+"-us")
				}
			}
		})
	}
}
