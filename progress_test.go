//go:build !split

package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"thinrun/image"
	"thinrun/image/transfer"
)

// TestProgressFitsTheTerminal: no line as wide as the terminal, none more than it is high,
// and it goes up by exactly what it had drawn.
func TestProgressFitsTheTerminal(t *testing.T) {
	for _, columns := range []int{1, 20, 40, 80, 300} {
		for _, rows := range []int{1, 5, 50} {
			var out bytes.Buffer
			p := &progress{out: &out, term: func() (int, int) { return columns, rows }}
			src := &image.Source{}
			for i := range 12 {
				src.Layers = append(src.Layers, image.SourceLayer{DiffID: "sha256:" + strings.Repeat(fmt.Sprint(i%10), 64), Bytes: 1 << 30})
			}
			p.begin(src)
			height := 0
			for i := range 12 {
				p.transferred(transfer.Progress{Layer: i, Bytes: 1 << 29, Total: 1 << 30})
				p.unpacked(image.Progress{Layer: i, Layers: 12, What: "unpack", Bytes: 1 << 31})
				p.unpacked(image.Progress{Layer: i, Layers: 12, What: []string{"done", "shared"}[i%2], Bytes: 1 << 40})
				text := out.String()
				out.Reset()
				for frame := range strings.SplitAfterSeq(text, "\x1b[J") {
					if frame == "" {
						continue
					}
					if up := fmt.Sprintf("\x1b[%dA", height); height > 0 && !strings.HasPrefix(frame, up) {
						t.Fatalf("%dx%d: %q does not go up %d lines", columns, rows, frame, height)
					}
					height = strings.Count(frame, "\n")
					if height > max(rows-1, 1) {
						t.Errorf("%dx%d: %d lines", columns, rows, height)
					}
					for line := range strings.Lines(frame) {
						if _, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\x1b[K"); len(text) >= columns {
							t.Errorf("%dx%d: %q is %d wide", columns, rows, text, len(text))
						}
					}
				}
			}
		}
	}
}

// TestProgressInALog: a line per layer when it is done, nothing with --quiet.
func TestProgressInALog(t *testing.T) {
	for _, quiet := range []bool{false, true} {
		var out bytes.Buffer
		p := &progress{out: &out, quiet: quiet, term: func() (int, int) { return 0, 0 }}
		p.begin(&image.Source{Layers: make([]image.SourceLayer, 2)})
		p.transferred(transfer.Progress{Layer: 0, Bytes: 1 << 20, Total: 1 << 20})
		for _, what := range []string{"unpack", "unpack", "done"} {
			p.unpacked(image.Progress{Layer: 0, Layers: 2, What: what, Bytes: 3 << 20})
		}
		p.unpacked(image.Progress{Layer: 1, Layers: 2, What: "shared"})
		p.unpacked(image.Progress{Layer: 1, Layers: 2, What: "done"})
		p.end()
		want := "layer 1 of 2: 3.0 MiB from 1.0 MiB\nlayer 2 of 2: is here already\n"
		if quiet {
			want = ""
		}
		if out.String() != want {
			t.Errorf("quiet=%v: %q, want %q", quiet, out.String(), want)
		}
	}
}
