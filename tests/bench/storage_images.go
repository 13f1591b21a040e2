package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// top finds out how thinrun calls the top layer of an image.
func (s *storageBench) top(image, chain string) error {
	infos, err := s.ours.Layers()
	if err != nil {
		return err
	}
	s.tops[image] = chain
	for _, i := range infos {
		if i.Chain == chain {
			s.layers[image] = i.ID
			return nil
		}
	}
	return fmt.Errorf("image %s: thinrun has no layer of chain %s", image, chain)
}

// userland unpacks Debian: from an archive's file to layers that can be run.
func (s *storageBench) userland(rounds int) (*Table, error) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	tar := filepath.Join(s.dir, "debian.tar")
	files, size, err := debianArchive(tar, filepath.Join(cache, "thinrun-lab/debian-bookworm.tar"))
	if err != nil {
		return nil, err
	}
	said("unpack Debian, %d files", files)
	row := fmt.Sprintf("1 import of an OCI archive: Debian, 3 layers, %d files, %d MiB [ms]", files, size>>20)
	t := &Table{Name: "unpack", Names: []string{"thinrun", "containerd"}}
	var blocks [2]int
	t.Rows, err = s.turns(rounds,
		func() (out sample, err error) {
			out, err = timed(row, func() error {
				_, err := s.thinrun.run("image", "import", "--quiet", "debian", "oci-archive:"+tar)
				return err
			})
			if err != nil {
				return nil, err
			}
			if blocks[0], err = s.ourBlocks(); err != nil {
				return nil, err
			}
			_, err = s.thinrun.run("image", "rm", "debian")
			return out, err
		},
		func() (out sample, err error) {
			out, err = timed(row, func() error {
				_, err := s.theirs.ctr("image", "import", "--snapshotter", snapshotter, tar)
				return err
			})
			if err != nil {
				return nil, err
			}
			if blocks[1], err = poolBlocks(ctdPool); err != nil {
				return nil, err
			}
			_, err = s.theirs.ctr("image", "rm", "--sync", ctdName("debian"))
			return out, err
		})
	if err != nil {
		return nil, err
	}
	t.Rows = append(t.Rows, Row{Case: "space that it takes in the pool", Unit: "MiB", Samples: map[string][]float64{
		"thinrun": {float64(blocks[0]) / 16}, "containerd": {float64(blocks[1]) / 16}}})
	// What of containerd's time is mkfs: a layer without a parent begins with one.
	var mkfs []float64
	for range rounds {
		took, err := timed("mkfs", func() error {
			return s.theirs.held(func(id string) error { _, err := s.theirs.prepare(id, ""); return err })
		})
		if err != nil {
			return nil, err
		}
		mkfs = append(mkfs, took["mkfs"])
		if err := s.theirs.collect(); err != nil {
			return nil, err
		}
	}
	t.Lacks = append(t.Lacks, fmt.Sprintf("of containerd's time %s ms are its mkfs.ext4 of a 10 GB disk for the bottom layer (median of %d); thinrun writes a prepared empty file system once, when the pool is made", short(quantile(mkfs, 0.5)), rounds))
	return t, nil
}

// unpacked is how many layers of the chain containerd unpacks itself. The rest are empty
// layers made through its API: at that pace unpacking would take most of the run.
const unpacked = 10

// chains imports images of many layers.
func (s *storageBench) chains(depths []int) (*Table, error) {
	t := &Table{Name: "import", Names: []string{"thinrun", "containerd"}}
	few := slices.DeleteFunc(slices.Clone(depths), func(d int) bool { return d > unpacked })
	layers, err := s.importChain(t, "few.tar", few, few)
	if err != nil {
		return nil, err
	}
	if len(few) < len(depths) {
		if layers, err = s.importChain(t, "many.tar", depths, depths[len(few):]); err != nil {
			return nil, err
		}
	}
	for _, d := range depths {
		if err := s.top(imageOf(d), layers[d-1].chain); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// importChain has both import an archive; new are the depths that they do not have yet.
func (s *storageBench) importChain(t *Table, file string, depths, new []int) ([]*packed, error) {
	tar := filepath.Join(s.dir, file)
	layers, err := chainArchive(tar, depths)
	if err != nil {
		return nil, err
	}
	have := 0
	if depths[0] != new[0] {
		have = unpacked
	}
	what := plural(len(layers)-have, "layer")
	said("import %s, thinrun", what)
	row := Row{Case: "import of " + what + " of one small file each", Unit: "s", Samples: map[string][]float64{}}
	began := time.Now()
	for _, d := range new {
		if _, err := s.thinrun.run("image", "import", "--quiet", imageOf(d), "oci-archive:"+tar+":"+imageOf(d)); err != nil {
			return nil, err
		}
	}
	row.Samples["thinrun"] = []float64{time.Since(began).Seconds()}
	said("import %s, containerd", what)
	began = time.Now()
	if have == 0 {
		_, err = s.theirs.ctr("image", "import", "--snapshotter", snapshotter, tar)
	} else {
		row.Case += " (containerd: empty layers, by its API)"
		_, err = s.theirs.ctr("image", "import", "--no-unpack", tar)
		for i := have; i < len(layers) && err == nil; i++ {
			err = s.theirs.seal(layers[i-1].chain, layers[i].chain)
		}
	}
	row.Samples["containerd"] = []float64{time.Since(began).Seconds()}
	t.Rows = append(t.Rows, row)
	return layers, err
}
