package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// write makes the three files.
func write(rep *Report, dir string) error {
	raw, err := json.MarshalIndent(rep, "", " ")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"bench.json", append(shorten(raw), '\n')},
		{"bench.svg", []byte(plot(rep))},
		{"README.md", []byte(markdown(rep))},
	} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.data, 0o644); err != nil {
			return err
		}
	}
	fmt.Print(markdown(rep))
	return nil
}

// shorten puts each array of samples on one line, rounded to the microsecond: the file is
// kept in the tree, and its changes are read.
func shorten(raw []byte) []byte {
	var b strings.Builder
	open := false // after "[": what follows may be samples
	for line := range strings.SplitSeq(string(raw), "\n") {
		word, comma := strings.CutSuffix(strings.TrimSpace(line), ",")
		value, err := strconv.ParseFloat(word, 64)
		switch {
		case err == nil:
			b.WriteString(strconv.FormatFloat(math.Round(value*1000)/1000, 'f', -1, 64))
			if comma {
				b.WriteString(",")
			} else {
				b.WriteString("]")
			}
		case word == "]" && strings.HasSuffix(b.String(), "]"): // written with the last sample
			if comma {
				b.WriteString(",")
			}
		case open:
			b.WriteString("\n" + line)
		default:
			if b.Len() > 0 {
				b.WriteString("\n")
			}
			b.WriteString(line)
		}
		open = strings.HasSuffix(line, "[")
	}
	return []byte(b.String())
}

func markdown(rep *Report) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("# Speed, side by side\n\nWritten by `make bench`; the numbers behind it are in `bench.json`, where the time\ngoes in [profile.md](profile.md).\n\n")
	p("![create, start, wait, delete](bench.svg)\n\n")
	m := rep.Machine
	p("| | |\n|---|---|\n| date | %s |\n| machine | %s, %d CPUs, %d MiB; load average when it began: %s, nice %d |\n| kernel | %s |\n| cgroups | %s |\n",
		rep.Date, m.Processor, m.CPUs, m.MemoryMiB, m.Load, m.Nice, m.Kernel, m.Cgroups)
	for _, name := range []string{"thinrun", "crun", "runc"} {
		if v := rep.Versions[name]; v != "" {
			p("| %s | %s |\n", name, v)
		}
	}
	for _, t := range rep.Tables {
		if t.Place == "" {
			p("\n## On this kernel\n\n")
		} else {
			p("\n## In the lab kernel: %s\n\n%s.\n\n", t.Name, t.Place)
		}
		table(&b, t)
		for _, l := range t.Lacks {
			p("\n- %s\n", l)
		}
	}
	p("\n%s", method(rep))
	return b.String()
}

// table prints medians, the range from the tenth to the ninetieth percentile, and the
// ratio of the first column to each of the others.
func table(b *strings.Builder, t Table) {
	b.WriteString("| median (p10 to p90) |")
	for _, n := range t.Names {
		b.WriteString(" " + n + " |")
	}
	for _, n := range t.Names[1:] {
		fmt.Fprintf(b, " %s/%s |", t.Names[0], n)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", 2*len(t.Names)-1) + "\n")
	for _, r := range t.Rows {
		fmt.Fprintf(b, "| %s, %s |", r.Case, r.Unit)
		for _, n := range t.Names {
			s := r.Samples[n]
			fmt.Fprintf(b, " %s", short(quantile(s, 0.5)))
			if len(s) > 1 {
				fmt.Fprintf(b, " (%s to %s)", short(quantile(s, 0.1)), short(quantile(s, 0.9)))
			}
			b.WriteString(" |")
		}
		for _, n := range t.Names[1:] {
			fmt.Fprintf(b, " **%.2f** |", quantile(r.Samples[t.Names[0]], 0.5)/quantile(r.Samples[n], 0.5))
		}
		b.WriteString("\n")
	}
}

func short(v float64) string {
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func method(rep *Report) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("## Method\n")
	p("- The runtimes take turns: one life each, %d rounds, each round begun by another one; a first round warms caches and does not count.", rep.Rounds)
	p("- The program is Debian's static busybox as `true`. The spec is what `runc spec` writes, without a terminal, ociVersion 1.0.2.")
	p("- Before the clock runs, each runtime proves itself: an exit code, a line of output and pid 1, and a seccomp rule that acts come back. Every timed `true` is checked for exit code 0.")
	p("- The end of a container is waited for in poll(2) on its pidfd; nothing sleeps. It is reaped, as a shim would, before delete.")
	p("- Processor time is user and system time of every command and of the container, from wait4(2).")
	p("- All run in one private mount namespace with the same cgroup2 tree and a tmpfs on /run; thinrun as a copy of the binary.")
	names := make([]string, 0, len(rep.Retried))
	for name, n := range rep.Retried {
		names = append(names, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(names)
	p("- A delete that fails is repeated, and the time of all of it counts. Repeated here: %s.", strings.Join(names, ", "))
	p("\n## Limits of the comparison\n")
	if rep.Preload.Reason != "" && rep.Preload.Used {
		p("- A preloaded library answers `setrlimit(RLIMIT_MEMLOCK)` with success: %s. All three get it in their environment; thinrun is static and ignores it. It adds %.2f ms of processor time to one crun command (median, measured with `--version`), so three times that to a life.", rep.Preload.Reason, rep.Preload.CostMS)
	} else if rep.Preload.Reason != "" {
		p("- %s.", rep.Preload.Reason)
	}
	p("- No controller works in this machine's cgroup2 tree if none is named above: limits cost none of the runtimes anything here. The device filter (BPF) is loaded by all three.")
	p("- With a load average above the number of CPUs, wall times say how the scheduler felt, even with a low nice value; processor time is the steadier row then.")
	p("- The peers are Debian 12's: newer ones are faster. One machine, one day; run `make bench` on yours.")
	p("- The numbers of one table are comparable with each other, not with those of another table or day.")
	return b.String()
}
