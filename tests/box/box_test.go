package box

import (
	"os"
	"testing"
)

// TestRequireKnowsWhereItIs is the only test that may look at the environment: the
// runner sets it, and protected must find the same without it.
func TestRequireKnowsWhereItIs(t *testing.T) {
	want := InLab() || os.Getenv("THINRUN_BOX") != ""
	if err := protected(); (err == nil) != want {
		t.Errorf("protected: %v; the environment says %v", err, want)
	}
}

func TestBoxedRootIsReadOnly(t *testing.T) {
	Require(t)
	err := os.WriteFile("/thinrun-box-test", nil, 0600)
	if InLab() != (err == nil) {
		t.Errorf("write into /: %v", err)
	}
}
