package lifecycle

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"thinrun/tests/box"
	"thinrun/tests/testbundle"
)

// TestCommit: what a container has changed is an image, whether it runs or not, and the
// container does not notice.
func TestCommit(t *testing.T) {
	rt := withImage(t)
	id, pidFile := rt.ID(), t.TempDir()+"/pid"
	rt.OK("run", "-d", "--pid-file", pidFile, "--image", "base", id, "sh", "-c", "while :; do date > /tmp/beat; sleep 1; done")
	rt.OK("exec", id, "sh", "-c", "echo new > /new; rm /etc/marker; chmod 600 /etc/group")
	rt.OK("image", "commit", "--message", "what", "--author", "who", "-c", `CMD ["cat", "/new"]`, "-c", `ENV A=b C="d e"`, "-c", "LABEL x=y",
		"-c", "EXPOSE 80 53/udp", "-c", "USER user", "-c", "WORKDIR /tmp", "-c", "STOPSIGNAL USR2", "-c", "VOLUME /vol", id, "changed")
	if out := rt.OK("exec", id, "sh", "-c", "echo more > /more && cat /more"); out != "more\n" {
		t.Errorf("after the commit: %q", out)
	}
	if out := rt.OK("run", "--image", "changed", rt.ID()); out != "new\n" {
		t.Errorf("the image's command: %q", out)
	}
	script := "cat /new; ls /etc/marker /more 2>/dev/null; stat -c %a /etc/group; id -u; pwd; echo $C; ls -d /vol"
	if out := rt.OK("run", "--image", "changed", rt.ID(), "sh", "-c", script); out != "new\n600\n1000\n/tmp\nd e\n/vol\n" {
		t.Errorf("a container of it: %q", out)
	}
	var img struct {
		Digest, Driver string
		Containers     []string
		Layers         []struct{ ID, DiffID string }
		OCI            struct {
			Author  string
			History []struct{ Comment string }
			Config  struct {
				Labels       map[string]string
				ExposedPorts map[string]any
				StopSignal   string
			}
		}
	}
	check(t, json.Unmarshal([]byte(rt.OK("image", "inspect", "changed")), &img))
	if len(img.Layers) != 2 || !strings.HasPrefix(img.Layers[1].DiffID, "sha256:") || img.OCI.Author != "who" || img.OCI.History[1].Comment != "what" ||
		img.OCI.Config.Labels["x"] != "y" || len(img.OCI.Config.ExposedPorts) != 2 || img.OCI.Config.StopSignal != "USR2" {
		t.Errorf("inspect: %+v", img)
	}
	check(t, json.Unmarshal([]byte(rt.OK("image", "inspect", "base")), &img))
	if len(img.Containers) != 1 || img.Containers[0] != id {
		t.Errorf("containers of base: %q", img.Containers)
	}

	rt.OK("image", "tag", "changed", "second")
	rt.OK("image", "rm", "changed")
	rt.OK("kill", id, "KILL")
	pid, err := strconv.Atoi(read(t, pidFile))
	check(t, err)
	rt.Reap(pid)
	rt.OK("image", "commit", id, "stopped")
	if out := rt.OK("run", "--image", "stopped", rt.ID(), "sh", "-c", "cat /new /more"); out != "new\nmore\n" {
		t.Errorf("of a stopped container: %q", out)
	}
	if out := rt.OK("run", "--image", "second", rt.ID()); out != "new\n" {
		t.Errorf("under its second name: %q", out)
	}
	for _, x := range []struct {
		args []string
		want string
	}{
		{[]string{id, "../x"}, "../x"},
		{[]string{"nosuch", "x"}, "does not exist"},
		{[]string{"-c", "FROM x", id, "x"}, `change "FROM x": it is none of`},
		{[]string{"-c", "CMD", id, "x"}, `change "CMD": it says nothing`},
		{[]string{"-c", "ENV A='b", id, "x"}, "a quote is not closed"},
		{[]string{"-c", "USER -1", id, "x"}, `"-1"`},
		{[]string{"-c", "STOPSIGNAL NO", id, "x"}, `"NO"`},
		{[]string{"-c", "VOLUME x", id, "x"}, `"x" is not absolute`},
		{[]string{id, "base"}, "in use"},
	} {
		rt.Fails(1, append([]string{"image", "commit"}, x.args...), x.want)
	}
	rt.OK("delete", id)
	rt.OK("image", "rm", "stopped", "second", "base")
	if out := rt.OK("gc"); out != "" {
		t.Errorf("gc found %q", out)
	}
}

// TestGuardianLetsGo: a commit that is killed while it holds the container still leaves one
// that runs. On overlay it holds the processes for as long as it copies.
func TestGuardianLetsGo(t *testing.T) {
	rt := withImage(t)
	if box.InLab() {
		t.Skip("native only: on dm-thin the moment is that of one ioctl; devmapper's tests stop there")
	}
	id := rt.ID()
	rt.OK("run", "-d", "--image", "base", id, "sleep", "100000")
	rt.OK("exec", id, "sh", "-c", "dd if=/dev/urandom of=/a bs=1024k count=200 2>/dev/null; i=0; while [ $i -lt 500 ]; do echo x > /f$i; i=$((i+1)); done")
	frozen := 0
	for round := range 10 {
		cmd := rt.Command("image", "commit", id, "half")
		rt.Start(cmd)
		over := make(chan bool)
		go func() { rt.Wait(cmd); close(over) }()
		for done := false; !done; {
			select {
			case <-over:
				done = true
			default:
				if done = status(t, rt, id) == "paused"; done {
					frozen++
				}
			}
		}
		_ = cmd.Process.Kill() // unless it has ended
		<-over
		for deadline := time.Now().Add(patience); status(t, rt, id) != "running"; { // state only looks
			if time.Now().After(deadline) {
				t.Fatalf("round %d: it is left %s", round, status(t, rt, id))
			}
		}
		if got := rt.Run("exec", id, "echo", "alive"); got.Stdout != "alive\n" {
			t.Fatalf("round %d: %v", round, got)
		}
	}
	if frozen == 0 {
		t.Error("in no round was the container found standing still: nothing was tested")
	}
	rt.OK("image", "commit", id, "whole")
	rt.OK("delete", "--force", id)
	rt.OK("image", "rm", "whole", "base")
	rt.Run("image", "rm", "half")
	rt.OK("gc")
	if out := rt.OK("gc"); out != "" {
		t.Errorf("a second gc found %q", out)
	}
}

func status(t *testing.T, rt *testbundle.Runtime, id string) string {
	t.Helper()
	var st testbundle.State
	check(t, json.Unmarshal([]byte(rt.OK("state", id)), &st))
	return st.Status
}
