package seccomp

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"
)

// TestSameDecisionsAsLibseccomp compares with what libseccomp 2.5.4 decided on random
// profiles, recorded by testdata/libseccomp.py.
func TestSameDecisionsAsLibseccomp(t *testing.T) {
	path := "testdata/libseccomp.json"
	if p := os.Getenv("SECCOMP_CASES"); p != "" {
		path = p // more of them, from a longer run of the script
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cases, calls, refused := 0, 0, 0
	for d := json.NewDecoder(f); ; cases++ {
		var c struct {
			GOARCH string
			Config Config
			Calls  []struct {
				Arch, Nr, Verdict uint32
				Args              [6]uint64
			}
		}
		if err := d.Decode(&c); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		p, err := compile(&c.Config, c.GOARCH)
		if (err != nil) != (len(c.Calls) == 0) {
			t.Errorf("case %d: error %v, libseccomp refused: %v\n%s", cases, err, len(c.Calls) == 0, show(c.Config))
			continue
		}
		if err != nil {
			refused++
			continue
		}
		m := newMachine(t, p)
		for _, call := range c.Calls {
			calls++
			got := m.run(t, packet{call.Arch, call.Nr, call.Args}, false)
			if got != call.Verdict {
				t.Errorf("case %d: arch %#x nr %d args %#x: got %#x, libseccomp %#x\n%s", cases, call.Arch, call.Nr, call.Args, got, call.Verdict, show(c.Config))
				break
			}
		}
	}
	if cases < 100 || calls < 1000 || refused == 0 {
		t.Fatalf("only %d cases, %d calls, %d refusals", cases, calls, refused)
	}
}

func show(c Config) string {
	b, _ := json.Marshal(c)
	return string(b)
}
