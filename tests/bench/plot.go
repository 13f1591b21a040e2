package main

import (
	"fmt"
	"strings"
)

// plot draws the medians as bars, the shorter the better, with a line from the tenth to
// the ninetieth percentile. By hand: a picture of rectangles needs no library.
func plot(rep *Report) string {
	var t Table
	for _, each := range rep.Tables {
		if each.Place == "" {
			t = each
		}
	}
	var rows []Row
	for _, r := range t.Rows {
		if r.Unit == "ms" && (strings.Contains(r.Case, "create+start") || strings.Contains(r.Case, "foreground") && !strings.Contains(r.Case, "processor") ||
			strings.HasPrefix(r.Case, "exec") && !strings.Contains(r.Case, "processor") || strings.HasPrefix(r.Case, "state")) {
			rows = append(rows, r)
		}
	}
	colors := map[string]string{"thinrun": "#1b7f5c", "crun": "#8a8f98", "runc": "#c3c7cd"}
	const width, left, bar, gap, title, top = 860, 20, 18, 14, 20, 46
	longest := 0.0
	for _, r := range rows {
		for _, n := range t.Names {
			longest = max(longest, quantile(r.Samples[n], 0.9))
		}
	}
	scale := float64(width-left-190) / max(longest, 1e-9)
	height := top + len(rows)*(title+len(t.Names)*bar+gap) + 20
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`, width, height, width, height)
	p(`<rect width="100%%" height="100%%" fill="#ffffff"/>`)
	p(`<text x="%d" y="24" font-size="16" font-weight="bold" fill="#222">milliseconds, median of %d; line: p10 to p90; shorter is better</text>`, left, rep.Rounds)
	y := top
	for _, r := range rows {
		p(`<text x="%d" y="%d" fill="#222">%s</text>`, left, y+14, escape(r.Case))
		y += title
		for _, n := range t.Names {
			s := r.Samples[n]
			mid, low, high := quantile(s, 0.5)*scale, quantile(s, 0.1)*scale, quantile(s, 0.9)*scale
			p(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`, left, y, mid, bar-4, colors[n])
			p(`<path d="M%.1f %dH%.1f" stroke="#222" stroke-width="1.5"/>`, left+low, y+(bar-4)/2, left+high)
			p(`<text x="%.1f" y="%d" fill="#222">%s %.2f ms</text>`, left+high+8, y+bar-6, n, quantile(s, 0.5))
			y += bar
		}
		y += gap
	}
	p(`<text x="%d" y="%d" fill="#666">%s</text>`, left, height-10, escape(rep.Date+", Linux "+rep.Machine.Kernel+", "+rep.Machine.Processor))
	p(`</svg>`)
	return b.String()
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
