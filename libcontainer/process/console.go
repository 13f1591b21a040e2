package process

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// SendConsole hands a terminal's master to whoever listens at socket, with its name as
// the payload. containerd, conmon and recvtty read just that.
func SendConsole(socket string, master *os.File) error {
	return SendFile(socket, []byte(master.Name()), master)
}

// SendFile sends one message with one descriptor to the listener at socket.
func SendFile(socket string, payload []byte, f *os.File) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := connect(fd, socket); err != nil {
		return fmt.Errorf("connect to socket %q: %w", socket, err)
	}
	if len(payload) == 0 {
		payload = []byte{0} // a descriptor travels with a byte
	}
	rights := unix.UnixRights(int(f.Fd()))
	for len(payload) > 0 {
		n, err := unix.SendmsgN(fd, payload, rights, nil, unix.MSG_NOSIGNAL)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("send %s to socket %q: %w", f.Name(), socket, err)
		}
		payload, rights = payload[n:], nil
	}
	return nil
}

// connect takes paths beyond the 107 bytes of a socket address through a descriptor.
func connect(fd int, socket string) error {
	const longest = 107
	path := socket
	if len(path) > longest {
		file, err := unix.Open(socket, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(file)
		path = "/proc/self/fd/" + strconv.Itoa(file)
	}
	for {
		err := unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		if err != unix.EINTR {
			return err
		}
	}
}

// CheckPreserved tells before anything is made whether descriptors 3 to 3+n-1 are there
// to be preserved.
func CheckPreserved(n int) error {
	for fd := 3; fd < 3+n; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return fmt.Errorf("--preserve-fds %d: descriptor %d: %w (the caller has to leave it open)", n, fd, err)
		}
	}
	return nil
}

// ListenFDs is how many descriptors, from 3 on, the service manager passed to us for
// socket activation (sd_listen_fds(3)); lookup is os.Getenv, pid our own. They go ahead
// of the preserved ones. The container is told with ListenEnv.
func ListenFDs(lookup func(string) string, pid int) int {
	if lookup("LISTEN_PID") != strconv.Itoa(pid) {
		return 0
	}
	n, err := strconv.Atoi(lookup("LISTEN_FDS"))
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// ListenEnv is what a program expects with n passed sockets. It is process 1 of its
// container; exec says the same, as runc does.
func ListenEnv(n int) []string {
	if n == 0 {
		return nil
	}
	return []string{"LISTEN_FDS=" + strconv.Itoa(n), "LISTEN_PID=1"}
}
