// Package scan looks at a container from inside, as an attacker would, and prints what
// it can reach as JSON. A test binary puts itself into the container as "scan"
// (testbundle's Self) and calls Main from its TestMain:
//
//	if scan.Called() {
//		scan.Main()
//	}
//
//	scan           once, what this process has and sees
//	scan watch     until SIGTERM, what became visible of every process that came by;
//	               prints "watching" first, and "looked" for each SIGUSR1 once it has
//	               looked at everything that was there by then
package scan

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Report is what was found.
type Report struct {
	PID, UID, GID int
	Groups        []int
	// As in /proc/self/status: CapInh, CapPrm, CapEff, CapBnd, CapAmb, NoNewPrivs,
	// Seccomp, Seccomp_filters, Umask.
	Status     map[string]string
	Env        []string
	Args       []string
	Cwd        string
	Hostname   string
	Namespaces map[string]string // kind -> its link
	Cgroup     string
	Limits     map[string]string // "Max open files" -> "1024 1024 files"
	FDs        []FD              // that we were given: Go opens its own close-on-exec
	Mounts     []Mount
	Processes  []Process // all but ourselves
	Unmasked   []string  // well-known dangerous files that could be opened
	// WritableExes are executables of processes that came by, which could be written when
	// those had ended; watch only.
	WritableExes []string
	Sockets      []string // listening abstract sockets of our network namespace
}

// FD is an open descriptor.
type FD struct {
	Number    int
	Target    string // what the link says
	Directory bool
	Writable  bool // opened for writing
	CloseExec bool // goes at an execve
	Outside   bool // a directory that is not below our root
}

// Mount is a line of mountinfo.
type Mount struct {
	Target, Type, Source, Root, Options string
}

// Process is another one, seen through /proc.
type Process struct {
	PID  int
	Name string
	Exe  string // "" when the link cannot be read
	// ExeOpened: /proc/PID/exe could be opened for reading. ExeWritable: it could then be
	// opened for writing, and the byte that is there be written: CVE-2019-5736.
	ExeOpened, ExeWritable bool
	ExeError               string
	FDs                    []FD // of its descriptors, those that could be seen
	EnvRead                bool
	Seen                   int // how often, in watch
}

// Called tells whether this process is the scan in a container.
func Called() bool { return filepath.Base(os.Args[0]) == "scan" }

// Main prints a report and exits.
func Main() {
	var report *Report
	if len(os.Args) > 1 && os.Args[1] == "watch" {
		report = watch()
	} else {
		report = Take()
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(report); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Parse reads what Main printed, past the words of watch.
func Parse(output string) (*Report, error) {
	at := strings.IndexByte(output, '{')
	if at < 0 {
		return nil, fmt.Errorf("no report in %q", output)
	}
	r := new(Report)
	if err := json.Unmarshal([]byte(output[at:]), r); err != nil {
		return nil, fmt.Errorf("%w in %q", err, output)
	}
	return r, nil
}

// Take looks once.
func Take() *Report {
	r := &Report{PID: os.Getpid(), UID: os.Getuid(), GID: os.Getgid(), Env: os.Environ(), Args: os.Args}
	r.Groups, _ = os.Getgroups()
	r.Cwd, _ = os.Getwd()
	r.Hostname, _ = os.Hostname()
	r.Cgroup = read("/proc/self/cgroup")
	r.Status = status()
	r.Namespaces = namespaces()
	r.Limits = limits()
	r.FDs = slices.DeleteFunc(descriptors("/proc/self/fd"), func(fd FD) bool { return fd.CloseExec })
	r.Mounts = mounts()
	r.Unmasked = unmasked()
	r.Sockets = sockets()
	for _, pid := range pids() {
		r.Processes = append(r.Processes, look(pid))
	}
	return r
}

// watch looks at every process as fast as it can, without pause: the window in which
// the runtime's init stage is visible is short, and it is the one we are after.
//
// Executables are kept open: a running one cannot be written, but thinrun's ends
// (CVE-2019-5736). They are tried again at the end.
func watch() *Report {
	stop, asked := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	signal.Notify(asked, unix.SIGUSR1)
	fmt.Println("watching")
	seen := map[int]*Process{}
	kept := map[file]int{}
	for {
		answer := false
		select {
		case <-stop:
			r := Take()
			r.Processes = nil
			for _, pid := range slices.Sorted(maps.Keys(seen)) {
				r.Processes = append(r.Processes, *seen[pid])
			}
			for _, fd := range kept {
				link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
				if write(fd) == nil {
					r.WritableExes = append(r.WritableExes, link)
				}
			}
			return r
		case <-asked:
			answer = true
		default:
		}
		for _, pid := range pids() {
			keep(kept, pid)
			now := look(pid)
			before, known := seen[pid]
			if !known {
				before = &Process{PID: pid}
				seen[pid] = before
			}
			before.add(now)
		}
		if answer {
			fmt.Println("looked")
		}
		reap()
	}
}

// file is what a file is, under whatever name.
type file struct {
	dev, ino uint64
	link     string // the mount counts too: one may be read-only and the other not
}

func keep(kept map[file]int, pid int) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil {
		link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		f := file{st.Dev, st.Ino, link}
		if _, known := kept[f]; !known {
			kept[f] = fd
			return
		}
	}
	unix.Close(fd)
}

// write writes the byte that is there, so that a hole costs nothing but the proof.
func write(fd int) error {
	var first [1]byte
	if _, err := unix.Pread(fd, first[:], 0); err != nil {
		return err
	}
	w, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(w)
	_, err = unix.Pwrite(w, first[:], 0)
	return err
}

// add keeps the worst that was seen of a process, under the names it had then: what can
// be had of the init stage must not hide behind the program it becomes.
func (p *Process) add(now Process) {
	p.Seen++
	if now.Name != "" && !slices.Contains(strings.Split(p.Name, " "), now.Name) {
		p.Name = strings.TrimSpace(p.Name + " " + now.Name)
	}
	if now.Exe != "" && !slices.Contains(strings.Split(p.Exe, " "), now.Exe) {
		p.Exe = strings.TrimSpace(p.Exe + " " + now.Exe)
	}
	p.ExeOpened = p.ExeOpened || now.ExeOpened
	p.ExeWritable = p.ExeWritable || now.ExeWritable
	p.EnvRead = p.EnvRead || now.EnvRead
	if p.ExeError == "" {
		p.ExeError = now.ExeError
	}
	for _, fd := range now.FDs {
		if !slices.Contains(p.FDs, fd) {
			p.FDs = append(p.FDs, fd)
		}
	}
}

// reap is what pid 1 owes to orphans.
func reap() {
	for {
		if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
			return
		}
	}
}

// pids are all processes but ourselves.
func pids() (list []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			list = append(list, pid)
		}
	}
	return list
}

func look(pid int) Process {
	dir := "/proc/" + strconv.Itoa(pid)
	p := Process{PID: pid, Name: strings.TrimSpace(read(dir + "/comm"))}
	p.Exe, _ = os.Readlink(dir + "/exe")
	p.tryExe(dir + "/exe")
	p.FDs = descriptors(dir + "/fd")
	p.EnvRead = read(dir+"/environ") != ""
	return p
}

func (p *Process) tryExe(path string) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		p.ExeError = err.Error()
		return
	}
	defer unix.Close(fd)
	p.ExeOpened = true
	if err := write(fd); err != nil {
		p.ExeError = err.Error() // ETXTBSY is no safety: it ends with the process
		return
	}
	p.ExeWritable = true
}

// descriptors are those of a /proc/PID/fd, as far as we may look.
func descriptors(dir string) (list []FD) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		n, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		path := dir + "/" + e.Name()
		target, err := os.Readlink(path)
		if err != nil {
			continue // ours for reading the directory, or gone
		}
		list = append(list, describe(n, path, target))
	}
	return list
}

func describe(n int, path, target string) FD {
	fd := FD{Number: n, Target: target}
	for line := range strings.Lines(read(strings.Replace(path, "/fd/", "/fdinfo/", 1))) {
		if octal, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, _ := strconv.ParseInt(strings.TrimSpace(octal), 8, 64)
			fd.Writable = flags&unix.O_ACCMODE != unix.O_RDONLY
			fd.CloseExec = flags&unix.O_CLOEXEC != 0
		}
	}
	// Going there is the proof, whatever the link says.
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fd
	}
	defer unix.Close(dir)
	fd.Directory = true
	before, err := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fd
	}
	defer unix.Close(before)
	if unix.Fchdir(dir) == nil {
		_, err := unix.Getwd()
		fd.Outside = err != nil // "(unreachable)", which x/sys makes an error
		_ = unix.Fchdir(before)
	}
	return fd
}

func status() map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(read("/proc/self/status")) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Umask":
			m[name] = strings.TrimSpace(value)
		}
	}
	return m
}

func namespaces() map[string]string {
	m := map[string]string{}
	entries, _ := os.ReadDir("/proc/self/ns")
	for _, e := range entries {
		m[e.Name()], _ = os.Readlink("/proc/self/ns/" + e.Name())
	}
	return m
}

func limits() map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(read("/proc/self/limits")) {
		if name, rest, ok := strings.Cut(line, "  "); ok {
			m[strings.TrimSpace(name)] = strings.Join(strings.Fields(rest), " ")
		}
	}
	return m
}

func mounts() (list []Mount) {
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		left, right, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if len(f) > 5 && len(g) > 1 {
			list = append(list, Mount{Root: f[3], Target: f[4], Options: f[5], Type: g[0], Source: g[1]})
		}
	}
	return list
}

// unmasked tries what the default masks and devices rules keep from a container.
func unmasked() (list []string) {
	for _, try := range []struct {
		path  string
		flags int
	}{
		{"/proc/kcore", unix.O_RDONLY}, {"/proc/sysrq-trigger", unix.O_WRONLY},
		{"/proc/sys/kernel/core_pattern", unix.O_WRONLY}, {"/proc/sys/kernel/modprobe", unix.O_WRONLY},
		{"/sys/kernel/uevent_helper", unix.O_WRONLY}, {"/dev/mem", unix.O_RDONLY}, {"/dev/kmsg", unix.O_RDONLY},
	} {
		fd, err := unix.Open(try.path, try.flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		// A masked file is /dev/null: it opens, and gives and takes nothing.
		var st, null unix.Stat_t
		masked := unix.Fstat(fd, &st) == nil && unix.Stat("/dev/null", &null) == nil &&
			st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == null.Rdev
		unix.Close(fd)
		if !masked {
			list = append(list, try.path)
		}
	}
	return list
}

func sockets() (list []string) {
	for line := range strings.Lines(read("/proc/net/unix")) {
		f := strings.Fields(line)
		if len(f) == 8 && f[3] == "00010000" && strings.HasPrefix(f[7], "@") {
			list = append(list, f[7])
		}
	}
	return list
}

func read(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}
