// Package power takes the power from a host under load and looks at what is there
// afterwards.
//
// The load runs once in a machine whose disk is recorded by dm-log-writes: every write
// in the order in which it became durable, and a mark before each command and after
// each success. From the recording, disks are made as power cuts would have left them,
// with all that was flushed and nothing else, or with some of what was not; each is
// booted and held against what the marks before the cut had promised.
package power

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"thinrun/tests/box"
)

var (
	cuts   = flag.Int("cuts", 4, "how many times the power goes, with the pool on files and on devices each")
	rounds = flag.Int("rounds", 10, "commands of each of the load's workers")
	kills  = flag.Int("kills", 2, "how many times the machine is killed")
	seed   = flag.Uint64("seed", 1, "of the load and the cuts")
	during = flag.String("during", "", "cut only while a command of this kind is at work: gc, rm, commit...")
	keep   = flag.String("keep", "", "directory for the recordings; they stay there")
	replay = flag.Bool("replay", false, "cut the recordings in -keep again: the load of a seed is never twice the same")
)

func TestMain(m *testing.M) {
	var err error
	switch role := os.Getenv(roleVar); role {
	case "":
		os.Exit(m.Run())
	case "load":
		err = runLoad()
	case "check":
		err = runCheck()
	default:
		err = program(role, os.Getenv(jobVar))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "power:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func TestPowerCut(t *testing.T) {
	box.NativeOnly(t, "no machine inside the machine")
	box.Require(t)
	for _, on := range []string{"files", "devices"} {
		t.Run(on, func(t *testing.T) {
			powerCut(t, job{Seed: *seed, Devices: on == "devices", Workers: 3, Rounds: *rounds})
		})
	}
}

func powerCut(t *testing.T, j job) {
	h := newHost(t, j)
	log := h.record()
	t.Logf("seed %d: %d writes, flushes and marks", j.Seed, len(log.entries))
	h.cutAll(log)
}

// host makes machines and disks.
type host struct {
	t    *testing.T
	job  job
	dir  string
	exec string // labexec
}

func newHost(t *testing.T, j job) *host {
	t.Helper()
	h := &host{t: t, job: j, dir: t.TempDir()}
	h.exec = labexec(t)
	h.job.Images = filepath.Join(h.dir, "images")
	h.check(os.Mkdir(h.job.Images, 0o755))
	for i := range contents {
		h.check(writeImage(h.job.Images, fmt.Sprintf("c%d", i)))
	}
	h.job.Registry = filepath.Join(h.dir, "registry")
	h.check(push(h.job.Registry, h.job.Images))
	return h
}

// labexec is beside the binary that is tested, where make puts it.
func labexec(t *testing.T) string {
	path := filepath.Join(filepath.Dir(box.Binary(t)), ".build/bin/labexec")
	if _, err := os.Stat(path); err != nil {
		box.Lacks(t, "labexec: %v (make tools)", err)
	}
	if out, err := exec.Command(path, "true").CombinedOutput(); err != nil {
		box.Lacks(t, "the lab's kernel: %v: %s", err, out)
	}
	return path
}

func (h *host) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// disk makes an empty one.
func (h *host) disk(name string, bytes int64) string {
	path := filepath.Join(h.dir, name)
	h.check(os.WriteFile(path, nil, 0o600))
	h.check(os.Truncate(path, bytes))
	return path
}

// machine is one of our roles in a machine with these disks, not started.
func (h *host) machine(role string, j job, disks ...string) *exec.Cmd {
	h.t.Helper()
	text, err := json.Marshal(j)
	h.check(err)
	self, err := os.Executable()
	h.check(err)
	args := []string{"-vm", "uml", "-timeout", "30m"}
	if j.Marks != "" {
		args = append(args, "-rw", filepath.Dir(j.Marks))
	}
	for _, d := range disks {
		args = append(args, "-disk", d)
	}
	cmd := exec.Command(h.exec, append(args, self)...)
	cmd.Dir = h.dir // what is below /tmp is seen in the machine only if it is asked for
	cmd.Env = append(os.Environ(), roleVar+"="+role, jobVar+"="+string(text))
	return cmd
}

// boot runs a machine to its end.
func (h *host) boot(role string, j job, disks ...string) (stdout []byte, err error) {
	h.t.Helper()
	cmd := h.machine(role, j, disks...)
	var out, errw bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errw
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("%s: %w: %s", role, err, errw.Bytes())
	}
	return out.Bytes(), nil
}

// record runs the load once.
func (h *host) record() *writeLog {
	h.t.Helper()
	dir := h.dir
	if *keep != "" {
		dir = *keep
	}
	file := filepath.Join(dir, strings.ReplaceAll(h.t.Name(), "/", "-")+".log")
	if !*replay {
		h.load(file)
	}
	log, err := readLog(file)
	h.check(err)
	h.t.Cleanup(func() { log.file.Close() })
	return log
}

func (h *host) load(file string) {
	h.t.Helper()
	disk := h.disk("recorded", diskSize)
	h.check(os.WriteFile(file, nil, 0o600))
	h.check(os.Truncate(file, 8<<30))
	out, err := h.boot("load", h.job, disk, file)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, out)
	}
	log, err := readLog(file)
	h.check(err)
	defer log.file.Close()
	// That the log is all and is understood: replayed to its end it is that very disk.
	again, err := os.OpenFile(h.disk("replayed", diskSize), os.O_RDWR, 0)
	h.check(err)
	defer again.Close()
	h.check(log.replay(again, 0, len(log.entries)))
	if at, err := differ(disk, again.Name()); err != nil || at >= 0 {
		h.t.Fatalf("the replayed log is not the recorded disk: byte %d, %v", at, err)
	}
	h.check(os.Remove(again.Name()))
	h.check(os.Remove(disk))
}

// cutAll makes the disk of each cut and looks at it.
func (h *host) cutAll(log *writeLog) {
	h.t.Helper()
	first, err := log.find("mounted")
	h.check(err)
	plan := planCuts(log, first, *cuts, rand.New(rand.NewPCG(h.job.Seed, 3)))
	disk, err := os.OpenFile(h.disk("disk", diskSize), os.O_RDWR, 0)
	h.check(err)
	defer disk.Close()
	done := 0
	for _, c := range plan {
		whole := c.whole(log)
		h.check(log.replay(disk, done, whole))
		done = whole
		victim := filepath.Join(h.dir, "victim")
		h.check(copySparse(victim, disk.Name()))
		f, err := os.OpenFile(victim, os.O_RDWR, 0)
		h.check(err)
		h.check(errors.Join(c.finish(f, log), f.Close()))
		h.after(log, c, victim)
	}
}

// planCuts chooses the moments: a third just after a command has reported success, with
// no more on the disk than what was flushed; a third in the middle of a flush; and a
// third between two flushes of some command, so that short ones get their share.
func planCuts(log *writeLog, first, n int, rnd *rand.Rand) (plan []cut) {
	var reports, flushes []int
	var commands [][2]int // from begin to end
	begin := make(map[string]int)
	for i := first; i < len(log.entries); i++ {
		switch word := strings.Split(log.entries[i].mark, "/"); word[0] {
		case "begin":
			if *during == "" || word[2] == *during {
				begin[word[1]] = i
			}
		case "done":
			reports = append(reports, i+1)
			fallthrough
		case "refused":
			if from, ok := begin[word[1]]; ok {
				commands = append(commands, [2]int{from, i})
			}
		}
		if log.entries[i].flush() {
			flushes = append(flushes, i)
		}
	}
	for i := range n {
		c := cut{keep: []float64{0.1, 0.5, 0.9}[rnd.IntN(3)], seed: rnd.Uint64()}
		kind := i % 3
		if *during != "" {
			kind = 2
		}
		switch kind {
		case 0:
			c.at = reports[rnd.IntN(len(reports))]
		case 1:
			c.at, c.scatter = flushes[rnd.IntN(len(flushes))], true
		default:
			command := commands[rnd.IntN(len(commands))]
			steps := []int{command[0] + 1}
			for j := command[0]; j < command[1]; j++ {
				if e := log.entries[j]; !e.plain() && e.mark == "" {
					steps = append(steps, j+1)
				}
			}
			c.at = steps[rnd.IntN(len(steps))]
		}
		plan = append(plan, c)
	}
	slices.SortFunc(plan, func(a, b cut) int { return a.whole(log) - b.whole(log) })
	return plan
}

// firstCommands are what somebody may type first when the machine is back.
func firstCommands() []string {
	return []string{"image list", "gc", "pool status", "list"}
}

func (h *host) after(log *writeLog, c cut, disk string) {
	h.t.Helper()
	names, under, err := promises(nil, log.marks(c.at))
	h.check(err)
	what := fmt.Sprintf("-seed %d, cut at %d of %d (scatter %v, keep %v), under way %q", h.job.Seed, c.at, len(log.entries), c.scatter, c.keep, under)
	h.look(what, names, c.seed, disk)
}

// look boots the disk and holds what is there against what was promised.
func (h *host) look(what string, names map[string]promise, seed uint64, disk string) (images map[string]string, ok bool) {
	h.t.Helper()
	j := h.job
	j.Seed, j.First = seed, firstCommands()[int(seed%uint64(len(firstCommands())))]
	what += fmt.Sprintf(", first %q", j.First)
	out, err := h.boot("check", j, disk)
	if err != nil {
		h.t.Errorf("%s: %v", what, err)
		return nil, false
	}
	var f found
	if err := json.Unmarshal(out, &f); err != nil {
		h.t.Errorf("%s: %v: %s", what, err, out)
		return nil, false
	}
	images, wrong := compare(names, f.Images)
	if wrong = append(f.Wrong, wrong...); len(wrong) > 0 {
		h.t.Errorf("%s:\n%s", what, strings.Join(wrong, "\n"))
		return nil, false
	}
	h.t.Logf("%s: %d images whole", what, len(images))
	return images, true
}

// differ answers with the first byte in which two files differ, or -1.
func differ(a, b string) (int64, error) {
	fa, err := os.Open(a)
	if err != nil {
		return 0, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return 0, err
	}
	defer fb.Close()
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(bufA)) {
		n, errA := fa.ReadAt(bufA, at)
		m, errB := fb.ReadAt(bufB, at)
		if n != m || !bytes.Equal(bufA[:n], bufB[:m]) {
			for i := range min(n, m) {
				if bufA[i] != bufB[i] {
					return at + int64(i), nil
				}
			}
			return at + int64(min(n, m)), errors.Join(errA, errB)
		}
		if n < len(bufA) {
			return -1, nil
		}
	}
}
