package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// archive is an OCI archive: images that share layers, in one file that both import.
type archive struct {
	out   *tar.Writer
	index []descriptor
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// packed is a layer that is in the archive, with the chain id of it on all below.
type packed struct {
	blob   descriptor
	diffID string
	chain  string
}

const ociType = "application/vnd.oci.image."

// writeArchive makes the file that fill fills.
func writeArchive(file string, fill func(*archive) error) error {
	f, err := os.Create(file + ".new")
	if err != nil {
		return err
	}
	defer f.Close()
	a := &archive{out: tar.NewWriter(f)}
	if err := a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)); err != nil {
		return err
	}
	if err := fill(a); err != nil {
		return err
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": a.index})
	if err == nil {
		err = a.file("index.json", index)
	}
	if err == nil {
		err = a.out.Close()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func (a *archive) file(name string, data []byte) error {
	if err := a.out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := a.out.Write(data)
	return err
}

func (a *archive) blob(kind string, data []byte) (descriptor, error) {
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	return descriptor{MediaType: ociType + kind, Digest: "sha256:" + sum, Size: int64(len(data))}, a.file("blobs/sha256/"+sum, data)
}

// layer packs what write writes, on top of parent.
func (a *archive) layer(parent *packed, write func(*tar.Writer) error) (*packed, error) {
	var data bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&data, gzip.BestSpeed)
	plain := sha256.New()
	out := tar.NewWriter(io.MultiWriter(zip, plain))
	err := write(out)
	if err == nil {
		err = out.Close()
	}
	if err == nil {
		err = zip.Close()
	}
	if err != nil {
		return nil, err
	}
	p := &packed{diffID: fmt.Sprintf("sha256:%x", plain.Sum(nil))}
	p.chain = p.diffID
	if parent != nil { // OCI image-spec, config.md: ChainID
		p.chain = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(parent.chain+" "+p.diffID)))
	}
	p.blob, err = a.blob("layer.v1.tar+gzip", data.Bytes())
	return p, err
}

// image names a chain of layers, in the words of both: thinrun takes the short name,
// containerd the long one.
func (a *archive) image(name string, layers []*packed) error {
	var diffs []string
	var blobs []descriptor
	for _, l := range layers {
		diffs, blobs = append(diffs, l.diffID), append(blobs, l.blob)
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Cmd": []string{"true"}, "Env": []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		return err
	}
	c, err := a.blob("config.v1+json", config)
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociType + "manifest.v1+json", "config": c, "layers": blobs})
	if err != nil {
		return err
	}
	m, err := a.blob("manifest.v1+json", manifest)
	m.Annotations = map[string]string{"org.opencontainers.image.ref.name": name, "io.containerd.image.name": ctdName(name)}
	a.index = append(a.index, m)
	return err
}

func ctdName(name string) string { return "docker.io/bench/" + name + ":latest" }

// chainArchive has an image of each depth; all are the beginnings of the deepest. The
// bottom is busybox, each further layer one small file. It returns the layers.
func chainArchive(file string, depths []int) (layers []*packed, err error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, fmt.Errorf("%w (Debian's busybox-static has it)", err)
	}
	err = writeArchive(file, func(a *archive) error {
		var top *packed
		for _, depth := range depths {
			for len(layers) < depth {
				n := len(layers)
				if top, err = a.layer(top, func(out *tar.Writer) error {
					if n == 0 {
						return writeBusybox(out, busybox)
					}
					return one(out, fmt.Sprintf("layers/%d", n), fmt.Appendf(nil, "layer %d\n", n))
				}); err != nil {
					return err
				}
				layers = append(layers, top)
			}
			if err := a.image(imageOf(depth), layers[:depth]); err != nil {
				return err
			}
		}
		return nil
	})
	return layers, err
}

func imageOf(depth int) string { return fmt.Sprintf("d%d", depth) }

func writeBusybox(out *tar.Writer, busybox []byte) error {
	for _, d := range []string{"bin", "dev", "etc", "layers", "proc", "sys", "tmp"} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	if err := one(out, "bin/busybox", busybox); err != nil {
		return err
	}
	for _, name := range []string{"true", "sh", "dd"} {
		if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}); err != nil {
			return err
		}
	}
	return nil
}

func one(out *tar.Writer, name string, data []byte) error {
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := out.Write(data)
	return err
}

// debianArchive cuts a userland into three layers by directories: programs and
// configuration, libraries, and what both share. It returns how much is in it.
func debianArchive(file, userland string) (files int, size int64, err error) {
	err = writeArchive(file, func(a *archive) error {
		var layers []*packed
		var top *packed
		for n := range 3 {
			if top, err = a.layer(top, func(out *tar.Writer) error {
				f, err := os.Open(userland)
				if err != nil {
					return fmt.Errorf("%w (make demo makes it)", err)
				}
				defer f.Close()
				in := tar.NewReader(f)
				for {
					h, err := in.Next()
					if err == io.EOF {
						return nil
					}
					if err != nil {
						return err
					}
					if cut(h.Name) != n {
						continue
					}
					files, size = files+1, size+h.Size
					if err := out.WriteHeader(h); err != nil {
						return err
					}
					if _, err := io.Copy(out, in); err != nil {
						return err
					}
				}
			}); err != nil {
				return err
			}
			layers = append(layers, top)
		}
		return a.image("debian", layers)
	})
	return files, size, err
}

// cut tells the layer of a path. Hard links in a Debian stay within these.
func cut(name string) int {
	name = path.Clean("/" + name)
	switch {
	case strings.HasPrefix(name, "/usr/lib/"):
		return 1
	case strings.HasPrefix(name, "/usr/share/"), strings.HasPrefix(name, "/var/"):
		return 2
	}
	return 0
}
