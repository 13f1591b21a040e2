// Package proc reads what tells a process from a later one of the same pid: when it
// started, and in which boot. Records of containers and claims of thin devices have both.
package proc

import (
	"bytes"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// Stat is of /proc/PID/stat.
type Stat struct {
	State byte   // field 3: Z also for a process whose first thread has ended while others go on
	Start uint64 // field 22, clock ticks since boot
}

// Read reads /proc/PID/stat; ENOENT or ESRCH when there is no such process.
func Read(pid int) (Stat, error) {
	name := "/proc/" + strconv.Itoa(pid) + "/stat"
	text, err := readFile(name)
	if err != nil {
		return Stat{}, fmt.Errorf("%s: %w", name, err)
	}
	st, ok := parse(text)
	if !ok {
		return Stat{}, fmt.Errorf("BUG: %s: no start time in %q", name, text)
	}
	return st, nil
}

// parse counts from the last ")": the second field is the program's name in parentheses,
// and the name may hold spaces and parentheses itself.
func parse(stat []byte) (Stat, bool) {
	end := bytes.LastIndexByte(stat, ')')
	if end < 0 {
		return Stat{}, false
	}
	const state, start = 0, 22 - 3 // state is field 3 of proc_pid_stat(5), the first behind ")"
	fields := bytes.Fields(stat[end+1:])
	if len(fields) <= start {
		return Stat{}, false
	}
	n, err := strconv.ParseUint(string(fields[start]), 10, 64)
	return Stat{fields[state][0], n}, err == nil
}

// BootID differs after each boot: start times and pids begin again.
func BootID() (string, error) {
	const name = "/proc/sys/kernel/random/boot_id"
	id, err := readFile(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return string(bytes.TrimSpace(id)), nil
}

// readFile reads a file of procfs, which comes whole with one read. It is on the start
// path: os.Open would try the file with epoll first.
func readFile(name string) ([]byte, error) {
	fd, err := untilDone(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 2048) // stat has 52 fields of at most 21 bytes
	n, err := untilDone(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

func untilDone(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}
