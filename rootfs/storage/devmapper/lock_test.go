package devmapper

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/flock"
)

// lockable is a driver with a directory for a lock, and no pool.
func lockable(t *testing.T) *Driver {
	t.Helper()
	d, err := Open(t.TempDir(), Options{})
	if err == nil {
		err = os.Mkdir(d.dir, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

type locking struct {
	file *os.File
	err  error
}

func taking(d *Driver, how int) chan locking {
	c := make(chan locking, 1)
	go func() {
		f, err := d.locked(how)
		c <- locking{f, err}
	}()
	return c
}

func taken(t *testing.T, c chan locking) *os.File {
	t.Helper()
	l := <-c
	if l.err != nil {
		t.Fatal(l.err)
	}
	return l.file
}

// queue is how many wait for a lock of the pool's file, of a kind as /proc/locks has it.
func queue(t *testing.T, d *Driver, kind string) (n int) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(d.dir, "lock"), &st); err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, "-> "+kind) && strings.Contains(line, ":"+strconv.FormatUint(st.Ino, 10)+" ") {
			n++
		}
	}
	return n
}

// waitQueue looks again until n wait: the kernel tells nobody.
func waitQueue(t *testing.T, d *Driver, kind string, n int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); queue(t, d, kind) < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d wait for %s, want %d", queue(t, d, kind), kind, n)
		}
	}
}

// TestSharersLetOneAlone: a row of sharers, each of whom comes before the one before has
// gone, ends for one who wants the lock alone, and goes on after it.
func TestSharersLetOneAlone(t *testing.T) {
	const many = 100
	d := lockable(t)
	held := taken(t, taking(d, unix.LOCK_SH))
	alone := taking(d, unix.LOCK_EX)
	waitQueue(t, d, "FLOCK", 1)
	if f, err := d.locked(unix.LOCK_SH | unix.LOCK_NB); err == nil {
		t.Error("one who does not wait comes in before one who wants the lock alone")
		f.Close()
	}
	for turn := 1; ; turn++ {
		next := taking(d, unix.LOCK_SH)
		var l locking
		for l == (locking{}) && queue(t, d, "OFDLCK") == 0 {
			select {
			case l = <-next:
			case <-time.After(time.Millisecond):
			}
		}
		held.Close()
		if l.err != nil {
			t.Fatal(l.err)
		}
		if held = l.file; held != nil {
			if turn == many {
				t.Fatalf("%d have come and gone, and the lock was never free", many)
			}
			continue
		}
		taken(t, alone).Close()
		taken(t, next).Close()
		return
	}
}

// TestAloneFromShared: two who share the lock and want it alone get it one after the other.
func TestAloneFromShared(t *testing.T) {
	d := lockable(t)
	got := make(chan error, 2)
	for n, f := range []*os.File{taken(t, taking(d, unix.LOCK_SH)), taken(t, taking(d, unix.LOCK_SH))} {
		if n == 1 {
			waitQueue(t, d, "FLOCK", 1)
		}
		go func() {
			got <- flock.Gated(f, unix.LOCK_EX)
			f.Close()
		}()
	}
	for range 2 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
}

// TestKilledAtTheGate: who is killed while it keeps the gate shut lets the others in.
func TestKilledAtTheGate(t *testing.T) {
	d := lockable(t)
	held := taken(t, taking(d, unix.LOCK_SH))
	defer held.Close()
	cmd := act{Do: "lock", Storage: d.storage}.command(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitQueue(t, d, "FLOCK", 1)
	next := taking(d, unix.LOCK_SH)
	waitQueue(t, d, "OFDLCK", 1)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	taken(t, next).Close()
}

// TestAdmissionIsNotTheGate: the place that strict admission keeps and the pool's lock are two
// things.
func TestAdmissionIsNotTheGate(t *testing.T) {
	d := lockable(t)
	p := pool{Driver: d, lock: taken(t, taking(d, unix.LOCK_SH))}
	if err := p.reserve(); err != nil {
		t.Fatal(err)
	}
	f, err := d.locked(unix.LOCK_SH | unix.LOCK_NB)
	if err != nil {
		t.Fatalf("beside one who is being admitted: %v", err)
	}
	f.Close()
	alone := taking(d, unix.LOCK_EX)
	waitQueue(t, d, "FLOCK", 1)
	p.leave()
	taken(t, alone).Close()
}
