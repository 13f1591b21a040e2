package flock

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// waits tells whether somebody waits for a lock of the file, of a kind as /proc/locks has it.
func waits(t *testing.T, f *os.File, kind string) bool {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(int(f.Fd()), &st))
	locks, err := os.ReadFile("/proc/locks")
	must(t, err)
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, "-> "+kind) && strings.Contains(line, ":"+strconv.FormatUint(st.Ino, 10)+" ") {
			return true
		}
	}
	return false
}

// One who wants the lock alone comes before all who want to share it later, whether they
// wait or not; then they come in.
func TestOneAloneComesFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, alone, later, hasty := open(t, path), open(t, path), open(t, path), open(t, path)
	must(t, Gated(first, unix.LOCK_SH))
	order := make(chan string, 2)
	take := func(f *os.File, how int, name string) {
		err := Gated(f, how)
		order <- name
		if err != nil {
			t.Error(err)
		}
		f.Close()
	}
	go take(alone, unix.LOCK_EX, "alone")
	for !waits(t, first, "FLOCK") {
		time.Sleep(time.Millisecond)
	}
	if err := Gated(hasty, unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("one who does not wait: %v, want %v", err, unix.EWOULDBLOCK)
	}
	go take(later, unix.LOCK_SH, "later")
	for !waits(t, first, "OFDLCK") {
		if len(order) > 0 {
			t.Fatalf("%s came in", <-order)
		}
		time.Sleep(time.Millisecond)
	}
	first.Close()
	if one, two := <-order, <-order; one != "alone" || two != "later" {
		t.Errorf("first came %s, then %s", one, two)
	}
	must(t, Gated(hasty, unix.LOCK_SH|unix.LOCK_NB))
	must(t, Gated(hasty, unix.LOCK_EX|unix.LOCK_NB)) // from shared to alone
}
