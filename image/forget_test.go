package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
)

// Who refuses to have the images forgotten is believed, whether there are any or not; then
// no layer goes. While an image is being made nobody is asked.
func TestForget(t *testing.T) {
	s, layers := fixture(t)
	refused := errors.New("refused")
	no := func([]string) error { return refused }
	never := func() error { t.Error("destroyed"); return nil }
	if err := s.Forget("plain", no, never); !errors.Is(err, refused) {
		t.Errorf("an unused storage: %v, want %v", err, refused)
	}
	_, err := pull(t, s, layers, "x", sourceOf(t, nil, tarOf(t, "a", "1")))
	must(t, err)
	if err := s.Forget("plain", no, never); !errors.Is(err, refused) {
		t.Errorf("%v, want %v", err, refused)
	}
	data := tarOf(t, "b", "2")
	f := sourceOf(t, nil, data)
	inside := &gate{entered: make(chan struct{}), open: make(chan struct{}), data: bytes.NewReader(data)}
	f.Layers[0].Open = func(context.Context) (io.ReadCloser, error) { return io.NopCloser(inside), nil }
	done := make(chan error)
	go func() {
		_, err := pull(t, s, layers, "y", f)
		done <- err
	}()
	<-inside.entered
	if err := s.Forget("plain", func([]string) error { t.Error("asked"); return nil }, never); !errors.Is(err, ErrBusy) {
		t.Errorf("beside a pull: %v, want %v", err, ErrBusy)
	}
	_, release, err := s.Start("x") // nobody waits for it
	must(t, err)
	release()
	close(inside.open)
	must(t, <-done)

	var names []string
	destroyed := false
	must(t, s.Forget("plain", func(list []string) error { names = list; return nil }, func() error { destroyed = true; return nil }))
	equal(t, "names", names, []string{"x:latest", "y:latest"})
	if list, err := s.List(); err != nil || len(list) != 0 || !destroyed {
		t.Errorf("left %v, %v; destroyed: %v", list, err, destroyed)
	}
}
