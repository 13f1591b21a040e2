package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/proc"
)

func (d *Driver) claimsDir() string { return filepath.Join(d.dir, "claims") }
func (d *Driver) openDir() string   { return filepath.Join(d.dir, "claims", "open") }

func claimIn(dir string, id uint32) string { return filepath.Join(dir, fmt.Sprintf("%06x", id)) }

func (d *Driver) claimPath(id uint32) string { return claimIn(d.claimsDir(), id) }
func (d *Driver) openPath(id uint32) string  { return claimIn(d.openDir(), id) }

// claimIDs are the thin ids that have a claim in a directory, in its order. A file with
// another name is no claim.
func claimIDs(dir string) (ids []uint32, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	for _, name := range names {
		if id, err := strconv.ParseUint(name, 16, 24); err == nil && len(name) == 6 {
			ids = append(ids, uint32(id))
		}
	}
	return ids, err
}

// claim holds a thin id while something is being made of it (below open/, its maker has
// a flock on it) and, for a container, until it is removed.
type claim struct {
	thin uint32
	key  string
	file *os.File
	d    *Driver
}

// owner is for whom an id is claimed.
type owner struct {
	what      string // container, layer, fork, remove layer
	container string
	bytes     uint64 // of the virtual disk
	shared    uint64 // blocks that it has in common with its origin at first
	origin    string // fork: the device that is suspended meanwhile
}

// errTaken: the id has a holder.
var errTaken = errors.New("thin id is taken")

// claim takes an id that nobody has: no container, no layer, nobody at work. The pool may
// still have it, as garbage; create_snap tells. save writes the id down before the claim
// is made, so that a kill in between leaves nothing that no record names; of an id that
// turns out to be taken the record has the wrong key.
func (d *Driver) claim(o owner, save func(*claim) error) (*claim, error) {
	for range 1000 {
		c := &claim{thin: d.newID(), key: fmt.Sprintf("%016x", random()), d: d}
		if save != nil {
			if err := save(c); err != nil {
				return nil, err
			}
		}
		d.step("make claim")
		if err := c.make(o); !errors.Is(err, errTaken) {
			return c, err
		}
	}
	return nil, fmt.Errorf("pool %s: 1000 random ids are all taken: %w", d.dir, unix.EEXIST)
}

// make makes and locks the claim's file; errTaken when the id has a holder.
func (c *claim) make(o owner) error {
	d := c.d
	f, err := os.OpenFile(d.openPath(c.thin), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return errTaken
	}
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	c.file = f
	// Between open and flock a collector may have found the file and taken it away.
	var st unix.Stat_t
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || unix.Fstat(int(f.Fd()), &st) != nil || st.Nlink == 0 {
		f.Close()
		return errTaken
	}
	// A claim or a layer that has the id was there before it left open/, so now that this
	// file is there it can be seen.
	if exists(d.claimPath(c.thin)) || exists(d.layerPath(c.thin)) {
		return errors.Join(errTaken, c.discard())
	}
	if _, err := f.Write(d.claimText(c, o)); err != nil {
		return errors.Join(fmt.Errorf("claim: %w", err), c.discard())
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (d *Driver) claimText(c *claim, o owner) []byte {
	state, node := "", uint64(0)
	if d.opts.StateRoot != "" && o.container != "" {
		state = filepath.Join(d.opts.StateRoot, o.container)
		node = inode(state)
	}
	pid, start := 0, uint64(0)
	if node == 0 {
		pid, start = os.Getpid(), startTime(os.Getpid())
	}
	return lines("what", o.what, "container", o.container, "key", c.key, "bytes", o.bytes, "shared", o.shared, "origin", o.origin,
		"state", state, "stateInode", node, "pid", pid, "start", start, "boot", bootID())
}

// amend adds to a claim. One write over the last line: who is killed has done all of it or
// nothing. Of a key that is there twice the later one counts.
func amend(f *os.File, pairs ...any) error {
	end, err := f.Seek(-int64(len("end\n")), 2)
	if err == nil {
		_, err = f.WriteAt(lines(pairs...), end)
	}
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	return nil
}

// keep makes it a container's claim, until Remove, and adds the number of its device.
func (c *claim) keep(device string) error {
	if err := amend(c.file, "device", device); err != nil {
		return err
	}
	err := unix.Renameat2(unix.AT_FDCWD, c.d.openPath(c.thin), unix.AT_FDCWD, c.d.claimPath(c.thin), unix.RENAME_NOREPLACE)
	if err == unix.EINVAL { // a file system without the flag; the id cannot be there anyway
		err = unix.Rename(c.d.openPath(c.thin), c.d.claimPath(c.thin))
	}
	if err != nil {
		return fmt.Errorf("claim %s: %w", c.d.claimPath(c.thin), err)
	}
	return c.file.Close()
}

// discard gives the id back. The file goes before the lock.
func (c *claim) discard() error {
	err := os.Remove(c.d.openPath(c.thin))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, c.file.Close())
}

// alive tells if a claim of a container still has its owner: the state directory that it
// was made for, or the process that made it.
func alive(r record) bool {
	if r.str("boot") != bootID() {
		return false
	}
	if path := r.str("state"); path != "" && r.num("stateInode") != 0 && inode(path) == r.num("stateInode") {
		return true
	}
	pid, start := int(r.num("pid")), r.num("start")
	return pid > 0 && start != 0 && startTime(pid) == start
}

func inode(path string) uint64 {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// startTime is when a process started; 0, which says of no claim that its maker lives, when
// it has ended, reaped or not, or cannot be read.
func startTime(pid int) uint64 {
	st, err := proc.Read(pid)
	if err != nil || st.State == 'Z' || st.State == 'X' {
		return 0
	}
	return st.Start
}

// bootID is empty when it cannot be read: that is not the boot of a claim.
func bootID() string {
	id, _ := proc.BootID()
	return id
}
