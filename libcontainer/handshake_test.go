package libcontainer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"thinrun/libcontainer/plan"

	"golang.org/x/sys/unix"
)

// pair is both ends of a conversation; the init end in the hands of the test.
func pair(t *testing.T) (parent, init conn) {
	t.Helper()
	parent, f, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Dup(int(f.Fd()))
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { parent.Close(); unix.Close(fd) })
	return parent, conn{fd}
}

func TestPlanArrivesWithManyFiles(t *testing.T) {
	parent, init := pair(t)
	// More than one message may carry, and a plan larger than a socket's buffer.
	sent := plan.Init{Hostname: "web"}
	for i := range 20000 {
		sent.Process.Env = append(sent.Process.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("x", 80)))
	}
	var files []*os.File
	for range 2*maxFiles + 7 {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	failed := make(chan error)
	go func() { failed <- parent.sendPlan(&sent, files) }()
	var got plan.Init
	arrived, err := init.receivePlan(&got)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	if len(arrived) != len(files) || got.Hostname != "web" || len(got.Process.Env) != 20000 || got.Process.Env[19999] != sent.Process.Env[19999] {
		t.Errorf("%d of %d files, hostname %q, %d variables", len(arrived), len(files), got.Hostname, len(got.Process.Env))
	}
	closeAll(files)
	closeAll(arrived)
}

func TestConversation(t *testing.T) {
	parent, init := pair(t)
	var asked []string
	done := make(chan error, 1)
	go func() {
		done <- errors.Join(
			init.ask(msgMounted, nil, msgContinue),
			init.ask(msgListener, []byte("7"), msgContinue),
			init.send(msgConsole, nil, os.Stdin),
			init.send(msgReady, nil))
	}()
	err := parent.converse(answers{
		mounted:  func() error { asked = append(asked, "mounted"); return nil },
		listener: func(fd int) error { asked = append(asked, fmt.Sprint("listener ", fd)); return nil },
		console:  func(f *os.File) error { asked = append(asked, "console"); return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(asked, ", "); got != "mounted, listener 7, console" {
		t.Errorf("the parent was asked for %s", got)
	}
}

func TestInitFailsOrHangsUp(t *testing.T) {
	parent, init := pair(t)
	init.send(msgFailed, []byte("mount: no"))
	if err := parent.converse(answers{}); err == nil || err.Error() != "mount: no" {
		t.Errorf("got %v, want init's own text", err)
	}
	unix.Shutdown(init.fd, unix.SHUT_RDWR)
	if err := parent.converse(answers{}); !errors.Is(err, errHangUp) {
		t.Errorf("got %v, want %v", err, errHangUp)
	}
	if err := parent.tell(msgContinue); !errors.Is(err, errHangUp) {
		t.Errorf("told a dead init: %v, want %v", err, errHangUp)
	}
}

func TestParentsEndIsNotACommit(t *testing.T) {
	parent, init := pair(t)
	unix.Shutdown(parent.fd, unix.SHUT_RDWR)
	if err := init.ask(msgReady, nil, msgCommit); err == nil {
		t.Error("init took the parent's death for a commit")
	}
}

// TestPeerDiesUnread: init can die with our words unread, at any time, and the kernel
// says ECONNRESET then instead of the end of file.
func TestPeerDiesUnread(t *testing.T) {
	for what, read := range map[string]func(conn) error{
		"receive": func(c conn) error { _, _, _, err := c.receive(); return err },
		"word":    func(c conn) error { _, err := c.word(); return err },
	} {
		ours, theirs, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		if err := ours.send(msgPlan, []byte("unread")); err != nil {
			t.Fatal(err)
		}
		if err := theirs.Close(); err != nil {
			t.Fatal(err)
		}
		if err := read(ours); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v, want the end of file", what, err)
		}
	}
}
