package power

import (
	"archive/tar"
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

// tree makes the files of a content, parents first.
func tree(content string) (list []file) {
	base, added, _ := strings.Cut(content, "+")
	rnd := seeded(base)
	list = append(list, file{name: "data", mode: fs.ModeDir | 0o755})
	for d := range 3 {
		dir := fmt.Sprintf("data/d%d", d)
		list = append(list, file{name: dir, mode: fs.ModeDir | 0o750})
		for i := range 4 {
			size := []int{0, 100, 5000, 70000, 300000}[rnd.IntN(5)]
			list = append(list, file{name: fmt.Sprintf("%s/f%d", dir, i), mode: 0o640, data: noise(rnd, size)})
		}
		list = append(list, file{name: dir + "/link", mode: fs.ModeSymlink | 0o777, link: "f1"})
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

// writeTar makes a plain tar of a content.
func writeTar(path, content string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, e := range tree(content) {
		h := &tar.Header{Name: e.name, Mode: int64(e.mode.Perm()), Size: int64(len(e.data)), Linkname: e.link, Typeflag: tar.TypeReg}
		switch e.mode.Type() {
		case fs.ModeDir:
			h.Typeflag = tar.TypeDir
		case fs.ModeSymlink:
			h.Typeflag = tar.TypeSymlink
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(e.data); err != nil {
			return err
		}
	}
	return w.Close()
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
