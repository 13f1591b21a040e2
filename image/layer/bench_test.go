package layer

import (
	"bufio"
	"os"
	"testing"

	"thinrun/tests/box"
)

// BenchmarkApply unpacks $THINRUN_BENCH_TAR, beside tar and umoci in docs/bench.
func BenchmarkApply(b *testing.B) {
	box.Require(b)
	file := os.Getenv("THINRUN_BENCH_TAR")
	if file == "" {
		b.Skip("needs $THINRUN_BENCH_TAR")
	}
	for b.Loop() {
		dir := b.TempDir()
		root, err := os.Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		f, err := os.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := Apply(b.Context(), root, bufio.NewReaderSize(f, 256<<10), Options{Whiteouts: true}); err != nil {
			b.Fatal(err)
		}
		f.Close()
		root.Close()
		b.StopTimer()
		if err := os.RemoveAll(dir); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
