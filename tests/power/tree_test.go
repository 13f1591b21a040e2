package power

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A content is a word that says all that is in an image below /data: "c3" is one of the
// generated trees, "c3+w7" the same with the file that container w7 wrote.

// file is one name of a tree.
type file struct {
	name string // below the root
	mode fs.FileMode
	data []byte
	link string
}

// layers are the files of a generated tree as an image's three layers, base first. The
// lower ones are those of other contents, too, so that images share them. The top one
// takes a file of the lowest away.
func layers(base string) [][]file {
	var n int
	fmt.Sscanf(base, "c%d", &n)
	list := [][]file{{{name: "data", mode: fs.ModeDir | 0o755}}, nil, nil}
	for d, from := range []string{fmt.Sprint("low", n%2), fmt.Sprint("mid", n%4), base} {
		rnd := seeded(from)
		dir := fmt.Sprintf("data/d%d", d)
		list[d] = append(list[d], file{name: dir, mode: fs.ModeDir | 0o750})
		for i := range 4 {
			size := []int{0, 100, 5000, 70000, 300000}[rnd.IntN(5)]
			list[d] = append(list[d], file{name: fmt.Sprintf("%s/f%d", dir, i), mode: 0o640, data: noise(rnd, size)})
		}
		list[d] = append(list[d], file{name: dir + "/link", mode: fs.ModeSymlink | 0o777, link: "f1"})
	}
	list[0] = append(list[0], file{name: "data/d0/" + removed, mode: 0o640, data: written(removed)})
	list[2] = append(list[2], file{name: "data/d0/.wh." + removed, mode: 0o640})
	return list
}

const removed = "removed"

// tree makes the files of a content, parents first.
func tree(content string) (list []file) {
	base, added, _ := strings.Cut(content, "+")
	for _, f := range slices.Concat(layers(base)...) {
		if !strings.HasSuffix(f.name, removed) {
			list = append(list, f)
		}
	}
	for word := range strings.SplitSeq(added, "+") {
		if word != "" {
			list = append(list, file{name: "data/" + word, mode: 0o600, data: written(word)})
		}
	}
	return list
}

// written is what a container writes: its own name says what.
func written(word string) []byte { return noise(seeded(word), 200000) }

func seeded(word string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(word))
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

func noise(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// sum is a content's hash: of names, modes, links and bytes.
func sum(list []file) string {
	lines := make([]string, len(list))
	for i, f := range list {
		lines[i] = fmt.Sprintf("%s %v %q %x\n", f.name, f.mode, f.link, sha256.Sum256(f.data))
	}
	slices.Sort(lines)
	h := sha256.Sum256([]byte(strings.Join(lines, "")))
	return hex.EncodeToString(h[:])
}

// makeTar makes a plain tar of files.
func makeTar(files []file) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range files {
		h := &tar.Header{Name: e.name, Mode: int64(e.mode.Perm()), Size: int64(len(e.data)), Linkname: e.link, Typeflag: tar.TypeReg}
		switch e.mode.Type() {
		case fs.ModeDir:
			h.Typeflag = tar.TypeDir
		case fs.ModeSymlink:
			h.Typeflag = tar.TypeSymlink
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}

// readTree is the tree below /data of the root that we are in.
func readTree() (list []file, err error) {
	err = filepath.WalkDir("/data", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		f := file{name: strings.TrimPrefix(path, "/"), mode: info.Mode()}
		switch f.mode.Type() {
		case fs.ModeSymlink:
			f.link, err = os.Readlink(path)
		case 0:
			f.data, err = os.ReadFile(path)
		}
		list = append(list, f)
		return err
	})
	return list, err
}
