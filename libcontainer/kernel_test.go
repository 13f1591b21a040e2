package libcontainer

import "testing"

func TestOldKernelsAreRefusedByName(t *testing.T) {
	for release, want := range map[string]string{
		"5.10.0-30-amd64":  "this kernel is Linux 5.10.0-30-amd64; thinrun needs 5.15 or newer",
		"4.19":             "this kernel is Linux 4.19; thinrun needs 5.15 or newer",
		"5.15.0":           "",
		"6.1.176":          "",
		"6.18.44-fc-v657":  "",
		"10.0":             "",
		"something-custom": "",
	} {
		got := ""
		if err := checkRelease(release); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %q, want %q", release, got, want)
		}
	}
}
