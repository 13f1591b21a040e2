//go:build !split

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"thinrun/image"
	"thinrun/image/transfer"
)

// progress shows how an image comes: on a terminal a line per layer, drawn again and
// again; elsewhere a line when a layer is done.
type progress struct {
	out   io.Writer
	quiet bool
	term  func() (columns, rows int) // 0, 0: not a terminal

	mu     sync.Mutex
	layers []layerProgress
	drawn  int // lines on the terminal
	last   time.Time
}

type layerProgress struct {
	digest      string
	what        string // "", fetch, unpack, done, shared
	have, total int64  // as transferred
	unpacked    int64
}

func newProgress(out *os.File, quiet bool) *progress {
	return &progress{out: out, quiet: quiet, term: func() (int, int) { return transfer.TerminalSize(out) }}
}

func (p *progress) begin(src *image.Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, l := range src.Layers {
		at := p.at(i)
		at.total, at.digest = l.Bytes, l.DiffID // not the blob's: a layer that is shared has none
	}
}

// at is a layer, which a spooled archive may tell of before begin.
func (p *progress) at(i int) *layerProgress {
	for len(p.layers) <= i {
		p.layers = append(p.layers, layerProgress{})
	}
	return &p.layers[i]
}

// transferred is called by those who fetch.
func (p *progress) transferred(t transfer.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.at(t.Layer)
	l.have, l.total = t.Bytes, t.Total
	if l.what == "" {
		l.what = "fetch"
	}
	p.draw(false)
}

// unpacked is called by who unpacks.
func (p *progress) unpacked(u image.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.at(u.Layer)
	was := l.what
	l.what, l.unpacked = u.What, u.Bytes
	if u.What == "shared" || u.What == "done" {
		if columns, _ := p.term(); columns == 0 && !p.quiet && was != u.What && was != "shared" {
			fmt.Fprintf(p.out, "layer %d of %d: %s\n", u.Layer+1, len(p.layers), l.outcome())
		}
	}
	p.draw(was != u.What)
}

func (l *layerProgress) outcome() string {
	if l.what == "shared" {
		return "is here already"
	}
	text := size(l.unpacked)
	if l.have > 0 {
		text += " from " + size(l.have)
	}
	return text
}

// end leaves the last state on the screen.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draw(true)
}

const redraw = 100 * time.Millisecond

// draw goes up over what it drew before. It writes once, so that nothing flickers.
func (p *progress) draw(now bool) {
	columns, rows := p.term()
	if p.quiet || columns == 0 || !now && time.Since(p.last) < redraw {
		return
	}
	p.last = time.Now()
	var b strings.Builder
	if p.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", p.drawn)
	}
	lines := p.lines(columns, rows)
	for _, line := range lines {
		b.WriteString("\r\x1b[K" + line + "\n")
	}
	b.WriteString("\x1b[J") // a line too many from a higher window
	p.drawn = len(lines)
	io.WriteString(p.out, b.String())
}

// lines are the layers as far as the terminal is high: from the first that is not done.
func (p *progress) lines(columns, rows int) (lines []string) {
	first, room := 0, max(rows-2, 1)
	for first < len(p.layers)-room && (p.layers[first].what == "done" || p.layers[first].what == "shared") {
		first++
	}
	for i := first; i < min(first+room, len(p.layers)); i++ {
		lines = append(lines, p.layers[i].line(i, len(p.layers), columns))
	}
	return lines
}

// line is at most columns-1 wide: the last column would wrap on some terminals.
func (l *layerProgress) line(i, n, columns int) string {
	id := strings.TrimPrefix(l.digest, "sha256:")
	head := fmt.Sprintf("%*d/%d %-12.12s ", len(fmt.Sprint(n)), i+1, n, id)
	tail := ""
	switch l.what {
	case "":
		tail = "waits"
	case "fetch":
		tail = size(l.have)
		if l.total > 0 {
			tail += " of " + size(l.total)
		}
	case "unpack":
		tail = "unpacks " + size(l.unpacked)
	default:
		tail = l.outcome()
	}
	bar := ""
	if room := columns - 1 - len(head) - len(" 1023.9 MiB of 1023.9 MiB") - 2; room >= 10 && l.total > 0 && (l.what == "fetch" || l.what == "unpack") {
		room = min(room, 40)
		full := int(float64(room) * min(1, float64(l.have)/float64(l.total)))
		bar = "[" + strings.Repeat("=", full) + strings.Repeat(" ", room-full) + "] "
	}
	line := head + bar + tail
	return line[:min(len(line), max(columns-1, 0))]
}
