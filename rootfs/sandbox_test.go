package rootfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"

	"thinrun/libcontainer/wire"

	"golang.org/x/sys/unix"
)

// The tests of this package run on three floors, all the same binary:
//
//	go test        starts each test again in a sandbox
//	the sandbox    is the "host" of the test: namespaces of its own, everything read-only
//	               but one tmpfs, all mounts shared so that a leak would show
//	the container  is an init stage that does what the test tells it and reports
//
// Only the last one calls Attach and what follows it.
const (
	stageEnv = "ROOTFS_TEST_STAGE"
	workEnv  = "ROOTFS_TEST_WORK"
)

func TestMain(m *testing.M) {
	switch os.Getenv(stageEnv) {
	case "sandbox":
		if err := enterSandbox(os.Getenv(workEnv)); err != nil {
			fmt.Fprintln(os.Stderr, "sandbox:", err)
			os.Exit(1)
		}
	case "container":
		serve()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

type host struct {
	*testing.T
	work string // a tmpfs, the one place that can be written
}

// sandbox returns nil on the first floor, after the test has run on the second.
func sandbox(t *testing.T) *host {
	t.Helper()
	if os.Getenv(stageEnv) == "sandbox" {
		return &host{t, os.Getenv(workEnv)}
	}
	if os.Geteuid() != 0 {
		missing(t, "root")
	}
	work, err := os.MkdirTemp("", "rootfs-test")
	must(t, err)
	defer os.Remove(work)
	must(t, os.Chmod(work, 0o755))
	table := mountTable(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), stageEnv+"=sandbox", workEnv+"="+work)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) && !bytes.Contains(out, []byte("--- SKIP: "+t.Name())) {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out)
		if bytes.Contains(out, []byte("--- SKIP: "+t.Name())) {
			t.Skip(skipReason(out))
		}
	}
	if now := mountTable(t); now != table {
		t.Errorf("the host's mount table changed\nbefore:\n%s\nafter:\n%s", table, now)
	}
	return nil
}

// missing skips, but not in the lab's kernel, which has everything.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("LAB") == "1" {
		t.Fatalf("the lab lacks %s", what)
	}
	t.Skipf("needs %s", what)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mountTable(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return string(b)
}

func enterSandbox(work string) error {
	all := func(attr unix.MountAttr) error {
		return unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &attr)
	}
	return errors.Join(
		all(unix.MountAttr{Propagation: unix.MS_PRIVATE}),
		all(unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}),
		unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""),
		unix.Mount("work", work, "tmpfs", 0, "mode=755"),
		all(unix.MountAttr{Propagation: unix.MS_SHARED}),
	)
}

// root makes a root directory: "dir/", "file=text" or "link->target" each.
func (h *host) root(entries ...string) string {
	h.Helper()
	dir, err := os.MkdirTemp(h.work, "root")
	must(h, err)
	must(h, os.Chmod(dir, 0o755))
	h.tree(dir, append([]string{"proc/", "sys/", "dev/", "tmp/"}, entries...)...)
	return dir
}

func (h *host) tree(dir string, entries ...string) {
	h.Helper()
	for _, e := range entries {
		name, link, isLink := strings.Cut(e, "->")
		if !isLink {
			name, _, _ = strings.Cut(e, "=")
		}
		p := filepath.Join(dir, name)
		must(h, os.MkdirAll(filepath.Dir(p), 0o755))
		switch {
		case isLink:
			os.Remove(p) // of the standard ones
			must(h, os.Symlink(link, p))
		case strings.HasSuffix(e, "/"):
			must(h, os.MkdirAll(p, 0o755))
		default:
			_, text, _ := strings.Cut(e, "=")
			must(h, os.WriteFile(p, []byte(text), 0o644))
		}
	}
}

// own gives a root to the container's root user.
func (h *host) own(root string, userns bool) {
	h.Helper()
	if !userns {
		return
	}
	must(h, filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(p, usernsBase, usernsBase))
	}))
}

// canary is a directory outside every root that nothing may touch; the function checks.
func (h *host) canary() (dir string, check func()) {
	h.Helper()
	dir, err := os.MkdirTemp(h.work, "canary")
	must(h, err)
	must(h, os.Chmod(dir, 0o755))
	h.tree(dir, "sentinel=alive", "sub/deep=alive", "null=not a device", "pts/ptmx=not a terminal")
	before := h.list(dir)
	return dir, func() {
		h.Helper()
		if now := h.list(dir); now != before {
			h.Errorf("canary changed:\n%s\nbefore:\n%s", now, before)
		}
	}
}

func (h *host) list(dir string) string {
	h.Helper()
	var lines []string
	must(h, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		text := ""
		if d.Type().IsRegular() {
			b, _ := os.ReadFile(p)
			text = string(b)
		}
		lines = append(lines, fmt.Sprint(p, st.Dev, st.Ino, st.Mode, st.Rdev, st.Uid, st.Gid, st.Size, st.Mtim, st.Ctim, text))
		return nil
	}))
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

// skipReason is what the sandboxed test said: "    file_test.go:12: reason".
func skipReason(out []byte) string {
	for line := range strings.Lines(string(out)) {
		if place, reason, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && strings.Contains(place, "_test.go:") {
			return reason
		}
	}
	return "the sandboxed test gave no reason"
}

// container is the test's end of an init stage.
type container struct {
	*host
	cfg   *Config
	cmd   *exec.Cmd
	in    *json.Encoder
	out   *json.Decoder
	pipes []io.Closer
}

// options of a container in the tests.
type opts struct {
	userns     bool
	noNetNS    bool
	noPIDNS    bool
	noCgroupNS bool
	rootFile   *os.File
}

const usernsBase = 100000

// start makes an init stage for root and cfg; nothing is attached yet. Binds without a
// File get theirs opened, as the parent of a container does.
func (h *host) start(root string, cfg *Config, o opts) *container {
	h.Helper()
	if o.rootFile == nil && root != "" {
		var err error
		o.rootFile, err = OpenSource(root, true, false)
		must(h, err)
	}
	if cfg.AttachAt == "" {
		cfg.AttachAt = cmpOr(root, h.work)
	}
	c := &container{host: h, cfg: cfg}
	extra := []*os.File{o.rootFile}
	for i := range cfg.Mounts {
		m := &cfg.Mounts[i]
		if m.Kind == KindBind && m.File == 0 {
			f, err := OpenSource(m.Source, m.Recursive, m.SrcNoFollow)
			must(h, err)
			if m.IDMap != nil {
				userns, err := UserNamespace(m.IDMap.UIDMappings, m.IDMap.GIDMappings)
				must(h, err)
				must(h, m.IDMap.Apply(f, userns))
				userns.Close()
			}
			extra = append(extra, f)
			m.File = len(extra) - 2
		}
	}
	r1, w1, err := os.Pipe()
	must(h, err)
	r2, w2, err := os.Pipe()
	must(h, err)
	c.cmd = exec.Command("/proc/self/exe")
	c.cmd.Env = []string{stageEnv + "=container", fmt.Sprint("FILES=", len(extra)), fmt.Sprint("ROOT=", o.rootFile != nil)}
	if o.rootFile == nil {
		extra[0], err = os.Open("/dev/null")
		must(h, err)
	}
	c.cmd.ExtraFiles = extra
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = r1, w2, os.Stderr
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP)
	if o.noNetNS {
		flags &^= unix.CLONE_NEWNET
	}
	if o.noCgroupNS {
		flags &^= unix.CLONE_NEWCGROUP
	}
	if o.noPIDNS {
		flags &^= unix.CLONE_NEWPID
	}
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if o.userns {
		ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: usernsBase, Size: 65536}}
		c.cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.cmd.SysProcAttr.UidMappings, c.cmd.SysProcAttr.GidMappings = ids, ids
		c.cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		c.cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
	must(h, c.cmd.Start())
	r1.Close()
	w2.Close()
	for _, f := range extra {
		f.Close()
	}
	c.in, c.out, c.pipes = json.NewEncoder(w1), json.NewDecoder(r2), []io.Closer{w1, r2}
	h.Cleanup(c.stop)
	must(h, c.do("config", string(wire.Encode(cfg.Code))).err())
	return c
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func (c *container) stop() {
	if c.cmd == nil {
		return
	}
	for _, p := range c.pipes {
		p.Close()
	}
	if err := c.cmd.Wait(); err != nil {
		c.Errorf("container: %v", err)
	}
	c.cmd = nil
}

// setup runs all steps of the init stage.
func (c *container) setup() error {
	for _, s := range []string{"attach", "mount", "dev", "pivot", "sysctl", "seal"} {
		if err := c.step(s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	return nil
}

func (c *container) step(name string) error { return c.do("step", name).err() }

// run is start and setup, which must work.
func (h *host) run(root string, cfg *Config, o opts) *container {
	h.Helper()
	c := h.start(root, cfg, o)
	must(h, c.setup())
	return c
}

// refuse is start and setup, which must fail with these words.
func (h *host) refuse(root string, cfg *Config, o opts, words string) {
	h.Helper()
	c := h.start(root, cfg, o)
	err := c.setup()
	c.stop()
	if err == nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "\n") {
		h.Errorf("got error %v\nwant one line with %q", err, words)
	}
}

type request struct {
	Op   string
	Args [][]byte
}

type reply struct {
	Error string
	Errno int
	Text  string
	Stat  unix.Stat_t
	FS    int64
}

func (r reply) err() error {
	if r.Errno != 0 {
		return fmt.Errorf("%s%w", strings.TrimSuffix(r.Error, unix.Errno(r.Errno).Error()), unix.Errno(r.Errno))
	}
	if r.Error != "" {
		return errors.New(r.Error)
	}
	return nil
}

// do has the container do something; see serve.
func (c *container) do(op string, args ...string) (r reply) {
	c.Helper()
	req := request{Op: op}
	for _, a := range args {
		req.Args = append(req.Args, []byte(a))
	}
	must(c, c.in.Encode(req))
	if err := c.out.Decode(&r); err != nil {
		c.Fatalf("%s %q: the container is gone: %v", op, args, err)
	}
	return r
}

// text is do for an answer that must come.
func (c *container) text(op string, args ...string) string {
	c.Helper()
	r := c.do(op, args...)
	if err := r.err(); err != nil {
		c.Fatalf("%s %q: %v", op, args, err)
	}
	return r.Text
}

func (c *container) stat(path string) unix.Stat_t {
	c.Helper()
	r := c.do("lstat", path)
	must(c, r.err())
	return r.Stat
}

func (c *container) wantErr(want unix.Errno, op string, args ...string) {
	c.Helper()
	if err := c.do(op, args...).err(); !errors.Is(err, want) {
		c.Errorf("%s %q: got %v, want %v", op, args, err, want)
	}
}

// mountLine is the last line of the container's mount table for a mount point.
func (c *container) mountLine(point string) (perMount, optional, fstype, super string) {
	c.Helper()
	lines := strings.Split(strings.TrimSpace(c.text("mountinfo")), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		a, b, _ := strings.Cut(lines[i], " - ")
		f, g := strings.Fields(a), strings.Fields(b)
		if f[4] == point {
			return f[5], strings.Join(f[6:], " "), g[0], g[2]
		}
	}
	c.Fatalf("nothing is mounted on %s:\n%s", point, strings.Join(lines, "\n"))
	return
}

// serve is the container: it does what it is told, one request at a time.
func serve() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	a := &agent{}
	var n int
	fmt.Sscan(os.Getenv("FILES"), &n)
	for i := range n {
		unix.CloseOnExec(3 + i)
		a.files = append(a.files, os.NewFile(uintptr(3+i), "source"))
	}
	if os.Getenv("ROOT") == "false" {
		a.files[0].Close()
		a.files[0] = nil
	}
	unix.CloseRange(uint(3+n), ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	a.self, _ = unix.Open("/proc/self", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	a.fds, _ = unix.Open("/proc/self/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for {
		var req request
		if in.Decode(&req) != nil {
			return
		}
		args := make([]string, 4)
		for i := range req.Args {
			args[i] = string(req.Args[i])
		}
		var r reply
		if err := a.do(req.Op, args, &r); err != nil {
			r.Error = err.Error()
			var errno unix.Errno
			if errors.As(err, &errno) && strings.HasSuffix(r.Error, errno.Error()) {
				r.Errno = int(errno)
			}
		}
		out.Encode(&r)
	}
}

type agent struct {
	cfg           Config
	root          *Root
	files         []*os.File
	self          int
	fds           int
	master, slave *os.File
}

func (a *agent) do(op string, args []string, r *reply) (err error) {
	path := args[0]
	switch op {
	case "config":
		return wire.Decode([]byte(path), a.cfg.Code)
	case "step":
		return a.step(path)
	case "read":
		var b []byte
		b, err = os.ReadFile(path)
		r.Text = string(b)
	case "write":
		var f *os.File
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString(args[1])
	case "lstat":
		return unix.Lstat(path, &r.Stat)
	case "statfs":
		var st unix.Statfs_t
		err = unix.Statfs(path, &st)
		r.FS = int64(st.Type)
	case "readlink":
		r.Text, err = os.Readlink(path)
	case "mkdir":
		return os.Mkdir(path, 0o755)
	case "chmod":
		return unix.Chmod(path, 0)
	case "ls":
		var list []os.DirEntry
		list, err = os.ReadDir(path)
		for _, e := range list {
			r.Text += e.Name() + "\n"
		}
	case "xattr":
		b := make([]byte, 256)
		var n int
		n, err = unix.Lgetxattr(path, args[1], b)
		r.Text = string(b[:max(n, 0)])
	case "mountinfo":
		fd, err := unix.Openat(a.self, "mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "mountinfo")
		defer f.Close()
		b, err := io.ReadAll(f)
		r.Text = string(b)
		return err
	case "fds":
		unix.Seek(a.fds, 0, 0)
		b := make([]byte, 1<<16)
		n, err := unix.ReadDirent(a.fds, b)
		if err != nil {
			return err
		}
		_, _, names := unix.ParseDirent(b[:n], -1, nil)
		for _, name := range names {
			b := make([]byte, 4096)
			n, _ := unix.Readlinkat(a.fds, name, b)
			var fd int
			fmt.Sscan(name, &fd)
			flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if fd > 2 && flags&unix.FD_CLOEXEC == 0 {
				return fmt.Errorf("descriptor %s (%s) is not close-on-exec", name, b[:max(n, 0)])
			}
			if !strings.HasPrefix(string(b[:max(n, 0)]), "anon_inode:[event") { // Go's poller
				r.Text += name + "\n"
			}
		}
	case "exec":
		cmd := exec.Command(path, args[1])
		var b []byte
		b, err = cmd.CombinedOutput()
		r.Text = string(b)
	case "tmpfs":
		return unix.Mount("tmpfs", path, "tmpfs", 0, "")
	case "sysctl": // by a procfs from before the pivot
		fd, err := unix.Openat(a.self, "../sys/"+path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), path)
		defer f.Close()
		b, err := io.ReadAll(f)
		r.Text = string(b)
		return err
	case "bind":
		return unix.Mount(path, args[1], "", unix.MS_BIND, "")
	case "umount":
		return unix.Unmount(path, unix.MNT_DETACH)
	case "remount-rw":
		return unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND, "")
	case "same-tty": // is path the slave that Console gave?
		var x, y unix.Stat_t
		if err = errors.Join(unix.Stat(path, &x), unix.Fstat(int(a.slave.Fd()), &y)); err == nil {
			r.Text = fmt.Sprint(x.Rdev == y.Rdev && x.Ino == y.Ino && x.Dev == y.Dev)
		}
	case "echo": // what the slave's user writes to path comes out of the master
		var f *os.File
		if f, err = os.OpenFile(path, os.O_WRONLY|unix.O_NOCTTY, 0); err != nil {
			return err
		}
		defer f.Close()
		if _, err = f.WriteString("hello"); err != nil {
			return err
		}
		b := make([]byte, 64)
		n, err := unix.Read(int(a.master.Fd()), b)
		if err != nil {
			return err
		}
		size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			return err
		}
		r.Text = fmt.Sprintf("%s %dx%d", b[:n], size.Row, size.Col)
	case "escape": // the classic: a chroot below the cwd, then up
		os.Mkdir("/esc", 0o755)
		if err = unix.Chroot("/esc"); err != nil {
			return err
		}
		for range 64 {
			unix.Chdir("..")
		}
		_, err = os.Stat(args[0][1:])
	default:
		return fmt.Errorf("BUG: op %q", op)
	}
	return err
}

func (a *agent) step(name string) (err error) {
	switch name {
	case "attach":
		a.root, err = Attach(&a.cfg, a.files[0])
	case "mount":
		err = a.root.Mount(a.files[1:])
	case "dev":
		err = a.root.Dev()
	case "pivot":
		err = a.root.Pivot()
	case "console":
		a.master, a.slave, err = a.root.Console(24, 80)
	case "sysctl":
		err = a.root.Sysctl()
	case "seal":
		err = a.root.Seal()
	default:
		err = fmt.Errorf("BUG: step %q", name)
	}
	return err
}
