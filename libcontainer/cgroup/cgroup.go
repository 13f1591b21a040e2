package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/util"
	"golang.org/x/sys/unix"
)

// Managers, as --cgroup-manager and the record name them.
const (
	Cgroupfs = "cgroupfs"
	Systemd  = "systemd"
	Disabled = "disabled"
)

// Cgroup is a container's cgroup: one directory, or one in each v1 hierarchy.
type Cgroup struct {
	host    Host
	cfg     Config
	manager string
	// paths: v1 controllers (or "name=systemd") and "" for cgroup2, to directories.
	// Controllers that are mounted together have the same one.
	paths   map[string]string
	existed bool
}

// New says where the container's cgroup will be. It makes nothing.
func New(cfg Config, host Host) (*Cgroup, error) {
	c := &Cgroup{host: host, cfg: cfg, manager: Cgroupfs, paths: map[string]string{}}
	switch {
	case cfg.Disabled:
		c.manager = Disabled
		return c, nil
	case cfg.Systemd:
		if !util.IsRunningSystemd() { // runc's words
			return nil, errors.New("systemd cgroups: systemd not running on this host, cannot use systemd cgroups manager; leave --systemd-cgroup out to use cgroupfs")
		}
		return nil, errors.New("systemd cgroups: scopes are not supported; leave --systemd-cgroup out to use cgroupfs")
	case host.Unified == "" && len(host.Hierarchies) == 0:
		if cfg.Rootless {
			return c, nil
		}
		return nil, errors.New("no cgroup file system is mounted on " + Root)
	}
	if err := checkPath(cfg.Path); err != nil {
		return nil, err
	}
	if host.Unified != "" {
		c.paths[""] = filepath.Join(host.Unified, cfg.Path)
	}
	for _, h := range host.Hierarchies {
		for _, name := range h.Controllers() {
			c.paths[name] = filepath.Join(h.Mount, cfg.Path)
		}
	}
	return c, nil
}

// checkPath wants an absolute path to something below the root of a hierarchy.
func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || strings.ContainsAny(path, "\x00\n") {
		return fmt.Errorf("cgroup path %q is not an absolute path below the root cgroup", path)
	}
	return nil
}

// Open takes a container's cgroup from its record. A hierarchy that the host no longer
// has, after a boot with other options, holds nothing of the container. A directory
// that is not below its hierarchy is refused: what is removed is removed by these paths.
func Open(manager, path string, paths map[string]string, host Host) (*Cgroup, error) {
	c := &Cgroup{host: host, cfg: Config{Path: path}, manager: manager, paths: map[string]string{}}
	for name, dir := range paths {
		at := host.mountOf(name)
		if at == "" {
			continue
		}
		if rel, ok := strings.CutPrefix(dir, at); !ok || checkPath(rel) != nil {
			return nil, fmt.Errorf("cgroup %q of controller %q in the record is not below %s", dir, name, at)
		}
		c.paths[name] = dir
	}
	return c, nil
}

// mountOf is where a controller's hierarchy is mounted; "" when it is not.
func (h Host) mountOf(controller string) string {
	if controller == "" {
		return h.Unified
	}
	for _, hi := range h.Hierarchies {
		if slices.Contains(hi.Controllers(), controller) {
			return hi.Mount
		}
	}
	return ""
}

// Paths are the directories, for the record.
func (c *Cgroup) Paths() map[string]string { return maps.Clone(c.paths) }

// Manager is the word for the record.
func (c *Cgroup) Manager() string { return c.manager }

// Existed tells, after Create, whether an empty cgroup of that name was there before.
func (c *Cgroup) Existed() bool { return c.existed }

// SetExisted brings what Existed told back from the record; see Entry.
func (c *Cgroup) SetExisted(existed bool) { c.existed = existed }

// dirs are the different directories: cgroup2 first, then by name.
func (c *Cgroup) dirs() []string {
	var dirs []string
	for _, key := range slices.Sorted(maps.Keys(c.paths)) {
		if dir := c.paths[key]; !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Entry is how a child comes in without the parent's help. Dir is for
// CLONE_INTO_CGROUP, nil without cgroup2. Into each of Tasks the child, while it has one
// thread, writes "0".
//
// To move it in from outside costs 2 to 12 ms on a v1 host: moving another
// process takes cgroup_threadgroup_rwsem for writing, which waits for an RCU grace
// period. A thread that moves itself through "tasks" does not need the lock (Linux 5.5,
// commit 9a3284fad42f) and takes 0.02 ms per hierarchy.
//
// A cgroup2 that was there before is entered the slow way, by "0" into cgroup.procs: if
// somebody ever wrote its cgroup.kill, the kernel kills whoever is born into it. (Linux
// 6.14 and its stable backports, commit b69bb476dee9: cgroup_css_set_fork takes kill_seq
// from the parent's cgroup, cgroup_post_fork compares it with the child's.)
type Entry struct {
	Dir   *os.File
	Tasks []*os.File
}

// Close closes what is open.
func (e *Entry) Close() {
	if e.Dir != nil {
		e.Dir.Close()
	}
	for _, f := range e.Tasks {
		f.Close()
	}
}

// Entry opens the container's entry.
func (c *Cgroup) Entry() (_ *Entry, err error) {
	e := new(Entry)
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	for _, dir := range c.dirs() {
		file := "/tasks"
		if dir == c.paths[""] && c.existed {
			file = "/cgroup.procs"
		} else if dir == c.paths[""] {
			if e.Dir, err = openAt(dir, unix.O_PATH|unix.O_DIRECTORY); err != nil {
				return nil, err
			}
			continue
		}
		f, err := openAt(dir+file, unix.O_WRONLY)
		if err != nil {
			return nil, err
		}
		e.Tasks = append(e.Tasks, f)
	}
	return e, nil
}

func openAt(name string, flags int) (*os.File, error) {
	fd, err := open(name, flags)
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// tolerates tells whether err is the rootless caller's lack of rights.
func (c *Cgroup) tolerates(err error) bool {
	return c.cfg.Rootless && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS))
}

// Sub is a cgroup below the container's, which must exist: exec --cgroup
// [CONTROLLER[,CONTROLLER]:]PATH, each for the controllers it names, or for all.
func (c *Cgroup) Sub(words []string) (*Cgroup, error) {
	sub := *c
	sub.existed = true // made, and perhaps killed, by the container
	sub.paths = maps.Clone(c.paths)
	seen := map[string]bool{}
	for _, word := range words {
		names, path, ok := strings.Cut(word, ":")
		if !ok {
			names, path = "", word
		}
		rel := filepath.Join("/", path)
		if path == "" || slices.Contains(strings.Split(path, "/"), "..") {
			return nil, fmt.Errorf("--cgroup %q: the path must lead down from the container's cgroup", word)
		}
		keys := slices.Sorted(maps.Keys(c.paths))
		if names != "" {
			keys = strings.Split(names, ",")
			if c.host.V2 {
				return nil, fmt.Errorf("--cgroup %q: cgroup v2 has no path per controller; give the path alone", word)
			}
		}
		for _, key := range keys {
			dir, ok := c.paths[key]
			if !ok || (key == "" && names != "") {
				return nil, fmt.Errorf("--cgroup %q: the container has no controller %q", word, key)
			}
			if seen[key] {
				return nil, fmt.Errorf("--cgroup %q: controller %q is given twice", word, key)
			}
			seen[key] = true
			sub.paths[key] = filepath.Join(dir, rel)
		}
	}
	for _, dir := range sub.dirs() {
		// A sub-cgroup of one v1 hierarchy need not exist in the others.
		if m := magic(dir); m != unix.CGROUP2_SUPER_MAGIC && m != unix.CGROUP_SUPER_MAGIC {
			return nil, fmt.Errorf("--cgroup: %s is not there", dir)
		}
	}
	return &sub, nil
}

// Of is the cgroup below the container's in which pid is. Where init made sub-cgroups
// for itself and its children, as systemd does, cgroup2 lets no process into the
// container's own any more ("no internal processes": EBUSY); an exec joins init then.
func (c *Cgroup) Of(pid int) (*Cgroup, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/cgroup"
	lines, err := read(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	sub := *c
	sub.existed = true
	sub.paths = maps.Clone(c.paths)
	for line := range strings.Lines(lines) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		names, path, _ := strings.Cut(rest, ":")
		for key := range strings.SplitSeq(names, ",") {
			own, ok := c.paths[key]
			if !ok {
				continue
			}
			dir := filepath.Join(c.host.mountOf(key), path)
			if dir != own && !strings.HasPrefix(dir, own+"/") {
				return nil, fmt.Errorf("process %d is in cgroup %s, which is not the container's", pid, dir)
			}
			sub.paths[key] = dir
		}
	}
	return &sub, nil
}
