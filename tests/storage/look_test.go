package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// view is all that a storage command can leave, a line each, sorted. Random names are
// stars, so that two views of the same state are the same; how many there are is seen.
type view []string

// random are the names that are new each time: pools, thin ids, overlay's directories, the
// numbers of loop devices.
var random = []struct {
	name *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`thinrun-[0-9a-f]{8}-`), "thinrun-*-"},
	{regexp.MustCompile(`thinrun-\*-[0-9a-f]{6}\b`), "thinrun-*-*"},
	{regexp.MustCompile(`/[0-9a-f]{6}$`), "/*"},
	{regexp.MustCompile(`/(new-|del-)?[0-9a-f]{32}\b`), "/$1*"},
	{regexp.MustCompile(`^loop loop\d+`), "loop *"},
	{regexp.MustCompile(`^process \d+`), "process *"},
}

// look sees everything. It changes nothing but for the metadata snapshot that thin_ls
// reads, which it takes and gives back.
func (p *place) look() view {
	p.t.Helper()
	v := view(p.rt.Snapshot())
	v = append(v, p.files()...)
	v = append(v, asleep()...)
	v = append(v, p.images()...)
	if p.control != nil {
		v = append(v, p.thins()...)
	}
	for i, line := range v {
		for _, r := range random {
			line = r.name.ReplaceAllString(line, r.by)
		}
		v[i] = line
	}
	slices.Sort(v)
	return v
}

// minus is what v has more of than others have.
func (v view) minus(others view) (more []string) {
	left := map[string]int{}
	for _, line := range others {
		left[line]++
	}
	for _, line := range v {
		if left[line]--; left[line] < 0 {
			more = append(more, line)
		}
	}
	return more
}

// diff is empty for equal views.
func (v view) diff(want view) string {
	var b strings.Builder
	for _, line := range v.minus(want) {
		fmt.Fprintf(&b, "    too much: %s\n", line)
	}
	for _, line := range want.minus(v) {
		fmt.Fprintf(&b, "    missing:  %s\n", line)
	}
	return b.String()
}

// files are the names below the storage and in the directories for temporary files. Of an
// overlay layer's tree it is enough to know how many files there are.
func (p *place) files() (list []string) {
	trees := map[string]int{}
	inTree := regexp.MustCompile(`^.*/overlay/(layers|containers)/[^/]+/(fs|upper|work)\b`)
	_ = filepath.WalkDir(p.rt.Storage, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if tree := inTree.FindString(path); tree != "" {
			trees[tree]++
			return nil
		}
		rel, _ := filepath.Rel(p.rt.Storage, path)
		list = append(list, "file /"+rel)
		return nil
	})
	for tree, n := range trees {
		rel, _ := filepath.Rel(p.rt.Storage, tree)
		list = append(list, fmt.Sprintf("tree /%s, %d files", rel, n))
	}
	for _, dir := range []string{os.TempDir(), "/run", "/dev/shm", p.work} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			list = append(list, "file "+filepath.Join(dir, e.Name()))
		}
	}
	return list
}

// asleep are suspended devices and frozen cgroups: whoever uses one sleeps for ever.
func asleep() (list []string) {
	names, _ := filepath.Glob("/sys/block/dm-*/dm/suspended")
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) != "0" {
			list = append(list, "suspended "+name)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case d.Name() == "cgroup.freeze", d.Name() == "freezer.state":
			if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) != "0" && strings.TrimSpace(string(b)) != "THAWED" {
				list = append(list, "frozen "+filepath.Dir(path))
			}
		}
		return nil
	})
	return list
}

// listed is what of an image's record the tests look at.
type listed struct {
	Name   string   `json:"name"`
	Layers []string `json:"layers"`
	Size   int64    `json:"size"`
	Digest string   `json:"digest"`
}

// records are the images as files: the listing does not depend on the command's word.
func (p *place) records() (list []listed) {
	p.t.Helper()
	names, _ := filepath.Glob(filepath.Join(p.rt.Storage, "images/*.json"))
	for _, name := range names {
		data, err := os.ReadFile(name)
		check(p.t, err)
		var one listed
		// The image's OCI config may follow.
		if err := json.NewDecoder(bytes.NewReader(data)).Decode(&one); err != nil {
			p.t.Errorf("%s: %v: %.200q", name, err, data)
		}
		list = append(list, one)
	}
	return list
}

func (p *place) images() (list []string) {
	p.t.Helper()
	for _, one := range p.records() {
		what := one.Digest
		if what == "" {
			what = fmt.Sprintf("%d bytes", one.Size)
		}
		list = append(list, fmt.Sprintf("image %s, %d layers, %s", one.Name, len(one.Layers), what))
	}
	return list
}

// pool is the dm name of the pool, "" if it is not active.
func (p *place) pool() string {
	p.t.Helper()
	devices, err := p.control.List()
	check(p.t, err)
	for _, d := range devices {
		if strings.HasPrefix(d.Name, "thinrun-") && strings.HasSuffix(d.Name, "-pool") {
			return d.Name
		}
	}
	return ""
}

// thins lists what is in the pool as thin_ls reads it, and says which of it nobody has a
// right to: those that have no file below layers/ or claims/, and layers that no image
// names (one is the base).
func (p *place) thins() (list []string) {
	p.t.Helper()
	pool := p.pool()
	if pool == "" {
		return nil
	}
	status := func() []string {
		_, targets, err := p.control.Status(pool, 0)
		check(p.t, err)
		if len(targets) != 1 || len(strings.Fields(targets[0].Params)) < 8 {
			return []string{"", "", "", "no pool but " + fmt.Sprint(targets), "", "", "", ""}
		}
		return strings.Fields(targets[0].Params)
	}
	st := status()
	_, meta, _ := strings.Cut(st[1], "/")
	_, data, _ := strings.Cut(st[2], "/")
	list = append(list, "pool is "+st[4], "pool "+st[7], "pool has "+meta+" blocks of metadata", "pool has "+data+" blocks of data")
	if st[3] != "-" {
		return append(list, "pool holds a metadata snapshot: "+strings.Join(st, " "))
	}
	if st[4] != "rw" {
		return list
	}
	check(p.t, p.control.Message(pool, "reserve_metadata_snap"))
	out, err := exec.Command("thin_ls", "--metadata-snap", "--no-headers", "--format", "DEV", filepath.Join(p.rt.Storage, "pool/meta")).CombinedOutput()
	if err := p.control.Message(pool, "release_metadata_snap"); err != nil {
		p.t.Error(err)
	}
	if err != nil {
		p.t.Fatalf("thin_ls: %v: %s", err, out)
	}
	named := map[string]bool{}
	for _, img := range p.records() {
		for _, id := range img.Layers {
			named[strings.SplitN(id, "-", 2)[0]] = true
		}
	}
	has := func(kind, id string) bool {
		_, err := os.Lstat(filepath.Join(p.rt.Storage, "pool", kind, id))
		return err == nil
	}
	for word := range strings.FieldsSeq(string(out)) {
		n, err := strconv.ParseUint(word, 10, 24)
		check(p.t, err)
		id, line := fmt.Sprintf("%06x", n), "thin id"
		switch {
		case has("layers", id):
			line += " of a layer"
			if !named[id] {
				line += " that no image names"
			}
		case has("claims", id):
			line += " of a container"
		case has("claims/open", id):
			line += " of a command"
		default:
			line += " of nobody"
		}
		list = append(list, line)
	}
	return list
}

// settled looks until there is one of the views, or at least no process more than in all
// of them: those that were killed are waited for, everything else a command has said to be
// done.
func (p *place) settled(want ...view) view {
	p.t.Helper()
	for deadline := time.Now().Add(patience); ; unix.Poll(nil, 5) {
		v := p.look()
		waiting := false
		for _, w := range want {
			d := v.minus(w)
			if len(d) == 0 && len(w.minus(v)) == 0 {
				return v
			}
			waiting = waiting || slices.ContainsFunc(d, func(line string) bool { return strings.HasPrefix(line, "process ") })
		}
		if !waiting || time.Now().After(deadline) {
			return v
		}
	}
}

// ended waits for what a killed run has started: the programs of containers, and children
// that have not seen yet that they are alone and share its lock. gc takes all of it then.
// An init that waits at its gate does not end, and holds no lock; one that is let through
// is a running container, whatever its name still is, and one whose parent has not
// committed is about to end: gc leaves both to the next.
func (p *place) ended() {
	p.t.Helper()
	busy := func() bool {
		for _, line := range p.rt.Snapshot() {
			var pid int
			if n, _ := fmt.Sscanf(line, "process %d", &pid); n == 1 && !waits(pid) {
				return true
			}
		}
		names, _ := filepath.Glob(filepath.Join(p.rt.Root, "*"))
		for _, name := range names {
			dir, err := os.Open(name)
			if err != nil {
				continue
			}
			err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
			dir.Close()
			if err != nil {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(patience); busy(); unix.Poll(nil, 5) {
		if time.Now().After(deadline) {
			p.t.Error("what a killed run has started does not end")
			return
		}
	}
}

// waits: the process is an init at its gate. Of sockets it has one then, on which it
// accepts. Before the commit it has that of the conversation, too, and ends with it; once
// it is told to start it has that of the start alone.
func waits(pid int) bool {
	accepting := map[string]bool{}
	data, _ := os.ReadFile("/proc/net/unix")
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 6 && f[3] == "00010000" { // __SO_ACCEPTCON, net/unix/af_unix.c
			accepting["socket:["+f[6]+"]"] = true
		}
	}
	var sockets []string
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		if link, _ := os.Readlink(fd); strings.HasPrefix(link, "socket:") {
			sockets = append(sockets, link)
		}
	}
	return len(sockets) == 1 && accepting[sockets[0]]
}
