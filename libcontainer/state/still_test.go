package state

import (
	"errors"
	"os"
	"testing"
)

// TestStillTellsTheLivingFromTheKilled: a mark whose maker has let go of it without taking
// it away is what others may undo; one that is held is not.
func TestStillTellsTheLivingFromTheKilled(t *testing.T) {
	s, err := Open(t.TempDir() + "/state")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := s.Claim("c1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	none := func(want string) {
		t.Helper()
		if m, err := s.LeftStill("c1", false); m != nil || err != nil {
			t.Errorf("%s: got %v, %v", want, m, err)
		}
	}
	none("nothing is there")
	mark, left, err := c.Still()
	if err != nil || left {
		t.Fatal(left, err)
	}
	none("its maker lives")
	if _, _, err := c.Still(); !errors.Is(err, ErrBusy) {
		t.Errorf("a second commit: %v, want %v", err, ErrBusy)
	}
	if err := mark.Close(); err != nil { // as the kernel does for who is killed
		t.Fatal(err)
	}
	m, err := c.LeftStill()
	if m == nil || err != nil {
		t.Fatal(m, err)
	}
	none("somebody is about it")
	if err := m.Close(); err != nil { // and is killed too
		t.Fatal(err)
	}
	if mark, left, err = c.Still(); err != nil || !left {
		t.Errorf("the next commit: left %v, %v", left, err)
	}
	// Who waits gets nothing when the commit ends well.
	done := make(chan error, 1)
	go func() {
		m, err := s.LeftStill("c1", true)
		if m != nil {
			err = errors.Join(err, errors.New("a mark was left"))
		}
		done <- err
	}()
	if err := mark.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	none("it was taken away")
	if _, err := os.Stat(c.Path + "/still"); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := s.LeftStill("c2", false); !errors.Is(err, ErrNotExist) {
		t.Errorf("no such container: %v", err)
	}
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
}
