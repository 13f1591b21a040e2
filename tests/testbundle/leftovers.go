package testbundle

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Snapshot is everything on this machine that a container could leave behind, a line
// each, sorted.
type Snapshot []string

// Snapshot takes one. Processes come first: one that ends while we look is in it, beside
// what it still held, and whoever sees it knows to look again.
func (r *Runtime) Snapshot() Snapshot {
	r.t.Helper()
	r.reap()
	s := Snapshot(r.descendants())
	s = append(s, mounts()...)
	s = append(s, r.devices()...)
	s = append(s, cgroups()...)
	s = append(s, abstractSockets()...)
	for _, e := range entries(r.Root) {
		if e[0] != '.' { // the store's own lock and such
			s = append(s, "state "+e)
		}
	}
	slices.Sort(s)
	return s
}

// Since is what s has and earlier has not.
func (s Snapshot) Since(earlier Snapshot) (added []string) {
	for _, line := range s {
		if _, found := slices.BinarySearch(earlier, line); !found {
			added = append(added, line)
		}
	}
	return added
}

// Clean fails the test for what is there now and was not when the Runtime was made.
func (r *Runtime) Clean() {
	r.t.Helper()
	for _, line := range r.Left(r.before) {
		r.t.Errorf("left behind: %s", line)
	}
}

// Left is what is there and was not in earlier, when it does not go any more: a mount
// namespace, a deferred dm device and a cgroup that nobody holds go on a work queue of the
// kernel, and it tells nobody.
func (r *Runtime) Left(earlier Snapshot) []string {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		left := r.Snapshot().Since(earlier)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		unix.Poll(nil, 5)
	}
}

// Before is what there was when the Runtime was made.
func (r *Runtime) Before() Snapshot { return r.before }

// mounts are the lines of our mount table without what changes by itself: the ids.
func mounts() (list []string) {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 5 {
			list = append(list, "mount "+strings.Join(f[2:], " "))
		}
	}
	return list
}

// devices are those of device-mapper, and the loop devices on our files: a boxed test sees
// those of the whole machine.
func (r *Runtime) devices() (list []string) {
	for _, name := range entries("/sys/block") {
		dir := filepath.Join("/sys/block", name)
		if mapped, err := os.ReadFile(dir + "/dm/name"); err == nil {
			list = append(list, "dm "+strings.TrimSpace(string(mapped)))
		}
		if file, err := os.ReadFile(dir + "/loop/backing_file"); err == nil && strings.Contains(string(file), r.Storage+"/") {
			list = append(list, "loop "+name+" "+strings.TrimSpace(string(file)))
		}
	}
	return list
}

// cgroups are the directories of all hierarchies.
func cgroups() (list []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			list = append(list, "cgroup "+path)
		}
		return nil // a directory that goes while we look
	})
	return list
}

func abstractSockets() (list []string) {
	data, _ := os.ReadFile("/proc/net/unix")
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if name := f[len(f)-1]; strings.HasPrefix(name, "@") && len(f) > 4 && f[3] == "00010000" { // listening
			list = append(list, "socket "+name)
		}
	}
	return list
}

type process struct {
	pid, ppid   int
	state, name string
}

func processes() (list []process) {
	for _, e := range entries("/proc") {
		pid, err := strconv.Atoi(e)
		if err != nil {
			continue
		}
		data, err := os.ReadFile("/proc/" + e + "/stat")
		if err != nil {
			continue
		}
		// pid (name) state ppid: the name may have spaces and parentheses
		before, after, _ := strings.Cut(string(data), "(")
		at := strings.LastIndexByte(after, ')')
		if before == "" || at < 0 {
			continue
		}
		f := strings.Fields(after[at+1:])
		ppid, _ := strconv.Atoi(f[1])
		list = append(list, process{pid, ppid, f[0], after[:at]})
	}
	return list
}

// descendants are all processes below us but those that Start started: we are their
// subreaper, so nothing can get away.
func (r *Runtime) descendants() (list []string) {
	all := processes()
	ours := map[int]bool{os.Getpid(): true}
	for range all { // at most as deep as there are processes
		grown := false
		for _, p := range all {
			if ours[p.ppid] && !ours[p.pid] {
				ours[p.pid], grown = true, true
			}
		}
		if !grown {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range all {
		if ours[p.pid] && p.pid != os.Getpid() && !r.started[p.pid] {
			list = append(list, "process "+strconv.Itoa(p.pid)+" ("+p.name+") "+p.state)
		}
	}
	return list
}

func entries(dir string) (names []string) {
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
