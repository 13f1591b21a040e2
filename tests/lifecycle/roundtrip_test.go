package lifecycle

import (
	"archive/tar"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestRoundTrip: what is exported and imported again is the same tree under another name,
// and the same image: its next export has the same digest.
func TestRoundTrip(t *testing.T) {
	rt := withImage(t)
	id := rt.ID()
	rt.OK("run", "-d", "--image", "base", id, "sleep", "1000")
	rt.OK("exec", id, "sh", "-c", `
		mkdir -p /d/gone /d/opaque/x; ln /etc/marker /d/hard; ln -s ../etc/marker /d/soft; mkfifo -m 600 /d/fifo
		echo set > /d/set; chown 12:34 /d/set; chmod 6751 /d/set; touch -t 200001010203.04 /d/set /d
		truncate -s 1M /d/sparse; rm /etc/group; chmod 1777 /d/opaque`)
	rt.OK("image", "commit", "-c", "CMD cat /d/set", "-c", "LABEL a=b", id, "one")
	// The second layer takes away and replaces what the first has brought.
	id2 := rt.ID()
	rt.OK("run", "-d", "--image", "one", id2, "sleep", "1000")
	rt.OK("exec", id2, "sh", "-c", "rm -r /d/gone /d/fifo; rm -r /d/opaque; mkdir -m 700 /d/opaque; echo new > /d/opaque/new; ln /d/opaque/new /d/harder")
	rt.OK("image", "commit", id2, "two")

	first, second := t.TempDir()+"/first.tar", t.TempDir()+"/second.tar"
	rt.OK("image", "export", "two", first)
	rt.OK("image", "import", "--quiet", "back", "oci-archive:"+first)
	want, got := treeOf(rt.OK, rt.ID(), "two"), treeOf(rt.OK, rt.ID(), "back")
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("after the round trip:\n%s\nand before:\n%s", strings.Join(got[i:], "\n"), strings.Join(want[i:], "\n"))
			break
		}
	}
	if len(want) < 50 || !slices.ContainsFunc(want, func(l string) bool { return strings.HasPrefix(l, "./d/set 8de9 12:34 ") }) {
		t.Errorf("the tree is %q", want)
	}
	if out := rt.OK("run", "--image", "back", rt.ID()); out != "set\n" {
		t.Errorf("the image's command: %q", out)
	}
	rt.OK("image", "export", "back", second)
	if one, two := manifestIn(t, first), manifestIn(t, second); one != two {
		t.Errorf("exported as %s, and then as %s", one, two)
	}
	// And once more: all is here already.
	rt.OK("image", "import", "--quiet", "again", second)
	layers := func(name string) (ids []string) {
		var img struct{ Layers []struct{ ID string } }
		check(t, json.Unmarshal([]byte(rt.OK("image", "inspect", name)), &img))
		for _, l := range img.Layers {
			ids = append(ids, l.ID)
		}
		return ids
	}
	if a, b := strings.Join(layers("back"), " "), strings.Join(layers("again"), " "); a != b || a == "" {
		t.Errorf("layers %s, and then %s", a, b)
	}
}

// TestGCBesideAnExport: while an image is on its way out gc does its work, and leaves the
// image's layers, though its name goes. The end of the export gives them back.
func TestGCBesideAnExport(t *testing.T) {
	rt := withImage(t)
	rt.OK("gc")
	fifo := t.TempDir() + "/fifo"
	check(t, unix.Mkfifo(fifo, 0o600))
	export := rt.Command("image", "export", "base", fifo)
	rt.Start(export)
	f, err := os.Open(fifo)
	check(t, err)
	defer f.Close()
	_, err = io.ReadFull(f, make([]byte, 512))
	check(t, err)
	rt.OK("image", "rm", "base")
	if out := rt.OK("gc"); out != "" {
		t.Errorf("gc took %q", out)
	}
	_, err = io.Copy(io.Discard, f)
	check(t, err)
	if got := rt.Wait(export); got.Code != 0 {
		t.Error(got)
	}
	if out := rt.OK("gc"); out != "" {
		t.Errorf("left for gc: %q", out)
	}
}

// treeOf is what a container of an image sees in its root: names, kinds, modes, owners,
// links, sizes, times and contents. A directory's links say how its file system counts.
func treeOf(ok func(...string) string, id, image string) []string {
	return lines(ok("run", "--read-only", "--image", image, id, "sh", "-c", `
		cd /; find . -xdev ! -path ./proc ! -path ./sys ! -path ./dev | sort | while read f; do
			if [ -L "$f" ]; then echo "$(stat -c '%n %f %u:%g %h %Y' "$f") $(readlink "$f")"
			elif [ -f "$f" ]; then echo "$(stat -c '%n %f %u:%g %h %Y %s' "$f") $(md5sum <"$f")"
			elif [ -d "$f" ]; then stat -c '%n %f %u:%g %Y' "$f"
			else stat -c '%n %f %u:%g %h %Y %t:%T' "$f"
			fi
		done`))
}

// manifestIn is the digest of the manifest in an OCI archive.
func manifestIn(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	check(t, err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		check(t, err)
		if h.Name != "index.json" {
			continue
		}
		data, err := io.ReadAll(r)
		check(t, err)
		var index struct{ Manifests []struct{ Digest string } }
		check(t, json.Unmarshal(data, &index))
		return index.Manifests[0].Digest
	}
}
