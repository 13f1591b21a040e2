package libcontainer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"thinrun/libcontainer/plan"
	"thinrun/libcontainer/wire"

	"golang.org/x/sys/unix"
)

// The conversation between the parent (create, run) and the init stage, over one
// socket pair. It is the same for exec, without what is about the root file system.
//
//	parent                                   init
//	fork, cgroup, id maps, release  ───────► our binary starts
//	files, plan                     ───────► namespaces, root, mounts, /dev
//	                                ◄─────── mounted         (only when the parent has hooks to run)
//	prestart, createRuntime hooks
//	go on                           ───────► createContainer hooks, pivot_root
//	                                ◄─────── console + fd    (only with a terminal)
//	                                ◄─────── listener + fd   (only when seccomp notifies)
//	                                         user, capabilities, program found
//	                                ◄─────── ready
//	record saved, pid file
//	commit                          ───────► from here on the parent's death is not ours
//	exits                                    waits at the gate
//
// Init may say failed at any time before ready. Hanging up without ready is failure,
// and so is the parent's end of file before commit: init ends.
type message byte

const (
	msgFiles    message = 'f' // descriptors for the plan, at most 250 a message
	msgPlan     message = 'p'
	msgMounted  message = 'm'
	msgContinue message = 'c'
	msgConsole  message = 't' // + the terminal's master
	msgListener message = 'l' // + the seccomp notify descriptor
	msgReady    message = 'r'
	msgCommit   message = 'k'
	msgFailed   message = 'x' // the text of the error
)

// maxFiles a message may carry: SCM_MAX_FD is 253.
const maxFiles = 250

// conn is one end of the conversation: a blocking stream socket.
type conn struct{ fd int }

// socketPair is both ends; the second goes to the child.
func socketPair() (conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return conn{}, nil, os.NewSyscallError("socketpair", err)
	}
	return conn{fds[0]}, os.NewFile(uintptr(fds[1]), "init socket"), nil
}

func (c conn) Close() error { return unix.Close(c.fd) }

// send writes one message; files travel with its first byte.
func (c conn) send(m message, payload []byte, files ...*os.File) error {
	head := make([]byte, 5, 5+len(payload))
	head[0] = byte(m)
	binary.LittleEndian.PutUint32(head[1:], uint32(len(payload)))
	data := append(head, payload...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	for len(data) > 0 {
		n, err := unix.SendmsgN(c.fd, data, rights, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		data, rights = data[n:], nil
	}
	return nil
}

// receive reads one message. io.EOF: the other side hung up.
func (c conn) receive() (message, []byte, []*os.File, error) {
	var head [5]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, err := c.recvmsg(head[:], oob)
	if err != nil {
		return 0, nil, nil, err
	}
	if n == 0 {
		return 0, nil, nil, io.EOF
	}
	files, err := rights(oob[:oobn])
	if err != nil {
		return 0, nil, nil, err
	}
	if err := c.fill(head[n:]); err != nil {
		return 0, nil, files, err
	}
	payload := make([]byte, binary.LittleEndian.Uint32(head[1:]))
	if err := c.fill(payload); err != nil {
		return 0, nil, files, err
	}
	return message(head[0]), payload, files, nil
}

func (c conn) recvmsg(b, oob []byte) (n, oobn int, err error) {
	for {
		n, oobn, _, _, err = unix.Recvmsg(c.fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ECONNRESET) { // it died with our data unread
			return 0, 0, nil
		}
		if err != nil {
			err = os.NewSyscallError("recvmsg", err)
		}
		return n, oobn, err
	}
}

func (c conn) fill(b []byte) error {
	for len(b) > 0 {
		n, _, err := c.recvmsg(b, nil)
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		b = b[n:]
	}
	return nil
}

func rights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "from the parent"))
		}
	}
	return files, nil
}

// sendPlan is the parent's first word. The root and the bind sources travel ahead of
// the plan that names them by number.
func (c conn) sendPlan(p *plan.Init, files []*os.File) error {
	for len(files) > 0 {
		n := min(len(files), maxFiles)
		if err := c.send(msgFiles, nil, files[:n]...); err != nil {
			return err
		}
		files = files[n:]
	}
	return c.send(msgPlan, wire.Encode(p.Code))
}

// receivePlan is its other half.
func (c conn) receivePlan(p *plan.Init) ([]*os.File, error) {
	var files []*os.File
	for {
		m, payload, fs, err := c.receive()
		if err != nil {
			return nil, err
		}
		switch m {
		case msgFiles:
			files = append(files, fs...)
		case msgPlan:
			return files, wire.Decode(payload, p.Code)
		default:
			return nil, fmt.Errorf("BUG: message %q before the plan", m)
		}
	}
}

// answers are what the parent does when init asks.
type answers struct {
	mounted  func() error
	console  func(master *os.File) error
	listener func(fd *os.File) error
}

// errHangUp: init ended without a word; the caller knows where to ask why.
var errHangUp = errors.New("init ended without a word")

// converse is the parent's side until ready.
func (c conn) converse(a answers) error {
	for {
		m, payload, files, err := c.receive()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errHangUp
		}
		if err != nil {
			return err
		}
		switch m {
		case msgMounted:
			if err := a.mounted(); err != nil {
				return err
			}
			if err := c.send(msgContinue, nil); err != nil {
				return err
			}
		case msgConsole, msgListener:
			if len(files) != 1 {
				return fmt.Errorf("BUG: message %q with %d descriptors", m, len(files))
			}
			answer := a.console
			if m == msgListener {
				answer = a.listener
			}
			err := answer(files[0])
			files[0].Close()
			if err != nil {
				return err
			}
		case msgReady:
			return nil
		case msgFailed:
			return errors.New(string(payload))
		default:
			return fmt.Errorf("BUG: message %q from init", m)
		}
	}
}

// ask sends m and waits for the parent's word; init's side.
func (c conn) ask(m, want message) error {
	if err := c.send(m, nil); err != nil {
		return err
	}
	got, _, _, err := c.receive()
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("BUG: message %q where %q was due", got, want)
	}
	return nil
}
