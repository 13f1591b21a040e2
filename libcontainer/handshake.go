package libcontainer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"thinrun/libcontainer/cgroup"
	"thinrun/libcontainer/plan"
	"thinrun/libcontainer/wire"
	"thinrun/nsenter"

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
//	                                ◄─────── listener, number (only when seccomp notifies)
//	takes it by pidfd_getfd, go on  ───────►
//	                                         user, capabilities, program found
//	                                ◄─────── ready
//	record saved, pid file
//	commit                          ───────► from here on the parent's death is not ours
//	exits                                    waits at the gate
//
// Once a filter is loaded, init's side needs no more than read and write: runc promises
// that much to the authors of profiles, so a profile may notify on sendmsg.
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
	msgListener message = 'l' // the number of init's seccomp notify descriptor
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

// send writes one message; files travel with its first byte. Without files it is plain
// write(2), which cannot raise SIGPIPE here: Go ignores it but for descriptors 1 and 2.
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
		var n int
		var err error
		if rights != nil {
			n, err = unix.SendmsgN(c.fd, data, rights, nil, unix.MSG_NOSIGNAL)
		} else {
			n, err = unix.Write(c.fd, data)
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("send", err)
		}
		data, rights = data[n:], nil
	}
	return nil
}

// receive reads one message. io.EOF: the other side hung up.
func (c conn) receive() (message, []byte, []*os.File, error) {
	var head [5]byte
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	var n, oobn int
	err := retry(func() (err error) {
		n, oobn, _, _, err = unix.Recvmsg(c.fd, head[:], oob, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	if err != nil {
		return 0, nil, nil, os.NewSyscallError("recvmsg", err)
	}
	if n <= 0 {
		return 0, nil, nil, io.EOF
	}
	name := "from init"
	if message(head[0]) == msgConsole {
		name = "/dev/ptmx" // what the console socket is told
	}
	files, err := rights(oob[:oobn], name)
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

// word reads one message that has neither payload nor files; init's side, by read(2).
func (c conn) word() (message, error) {
	var head [5]byte
	if err := c.fill(head[:]); err != nil {
		return 0, err
	}
	return message(head[0]), nil
}

func (c conn) fill(b []byte) error {
	for len(b) > 0 {
		var n int
		err := retry(func() (err error) {
			n, err = unix.Read(c.fd, b)
			return err
		})
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if n <= 0 {
			return io.ErrUnexpectedEOF
		}
		b = b[n:]
	}
	return nil
}

// retry repeats what a signal interrupted. A peer that died with our data unread looks
// like one that hung up, but that n is -1 then.
func retry(call func() error) error {
	for {
		switch err := call(); {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECONNRESET):
			return nil
		default:
			return err
		}
	}
}

func rights(oob []byte, name string) ([]*os.File, error) {
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
			files = append(files, os.NewFile(uintptr(fd), name))
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
	listener func(fd int) error // the number is init's
}

// errHangUp: the stage ended without a word; the caller knows where to ask why.
var errHangUp = errors.New("the init stage ended without a word")

// tell is the parent's answer to an init that waits for it. One that is killed meanwhile
// is met as a broken pipe here and as an end of file by receive: both are a hang-up.
func (c conn) tell(m message) error {
	err := c.send(m, nil)
	if errors.Is(err, unix.EPIPE) {
		return errHangUp
	}
	return err
}

// whyEnded replaces a hang-up, and no other error, by what the stage before our binary
// reported, when it did.
func whyEnded(child *nsenter.Child, err error) error {
	if errors.Is(err, errHangUp) {
		if failure := child.Failure(); failure != nil {
			return failure
		}
	}
	return err
}

// initThreads is what the Go runtime of the init stage takes of a pids limit until it
// executes the program: with four it mostly comes through, and with fewer never. A runtime
// that is refused a thread dies of it, with pages of trace on the program's stderr.
const initThreads = 5

// enoughPids asks ahead whether a stage can boot in cg.
func enoughPids(cg *cgroup.Cgroup) error {
	room, limit, err := cg.PidsRoom()
	if err != nil {
		return err
	}
	if limit > 0 && room < initThreads {
		return fmt.Errorf("the pids limit of %d has room for %d more, and thinrun takes %d until it runs the program; allow more", limit, room, initThreads)
	}
	return nil
}

// limitsHit is how often the kernel has enforced the limits of a cgroup.
type limitsHit struct{ memory, pids uint64 }

func hitsOf(cg *cgroup.Cgroup) (n limitsHit) {
	if cg != nil {
		n.memory, _ = cg.OOMKills()
		n.pids, _ = cg.ForksRefused()
	}
	return n
}

// starved adds which limit of its cgroup was too low for an init stage: one that was hit
// since before. Its threads and memory count there too, until it executes its program.
// Killed at any moment, it is missed by whatever we do next, so the error does not tell.
func starved(cg *cgroup.Cgroup, before limitsHit, err error) error {
	switch now := hitsOf(cg); {
	case now.memory > before.memory:
		return fmt.Errorf("%w: the kernel killed it for the container's memory limit; allow more", err)
	case now.pids > before.pids:
		return fmt.Errorf("%w: the container's pids limit refused it a thread; allow more", err)
	}
	return err
}

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
			if err := c.tell(msgContinue); err != nil {
				return err
			}
		case msgConsole:
			if len(files) != 1 {
				return fmt.Errorf("BUG: a console with %d descriptors", len(files))
			}
			err := a.console(files[0])
			files[0].Close()
			if err != nil {
				return err
			}
		case msgListener:
			fd, err := strconv.Atoi(string(payload))
			if err != nil {
				return fmt.Errorf("BUG: listener %q", payload)
			}
			if err := a.listener(fd); err != nil {
				return err
			}
			if err := c.tell(msgContinue); err != nil {
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
func (c conn) ask(m message, payload []byte, want message) error {
	if err := c.send(m, payload); err != nil {
		return err
	}
	got, err := c.word()
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("BUG: message %q where %q was due", got, want)
	}
	return nil
}
