package mountinfo

import (
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	got := Parse(`24 30 0:22 / /proc rw,nosuid shared:5 - proc proc rw
31 24 0:25 / /sys/fs/cgroup/cpu\040-\134 rw - cgroup cgroup rw,cpu,cpuacct
short - proc
32 24 0:26 / /nameless rw - proc  rw,hidepid=2
40 30 8:1 / /a\011b\012 rw master:1 propagate_from:2 - ext4 /dev/a\040b ro`)
	want := []Mount{
		{"/proc", "proc", "rw"}, {`/sys/fs/cgroup/cpu -\`, "cgroup", "rw,cpu,cpuacct"},
		{"/nameless", "proc", "rw,hidepid=2"}, {"/a\tb\n", "ext4", "ro"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
