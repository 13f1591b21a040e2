// Command registry serves one image on a free port of 127.0.0.1, by the OCI distribution
// protocol, out of memory: the layer that it is given and a small one on top. It prints
// the image's reference when it listens, and serves until it is killed.
//
//	registry LAYER.tar.gz
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}

func serve() error {
	if len(os.Args) != 2 {
		return errors.New("wants one layer")
	}
	bottom, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	top, err := small("etc/pulled", "pulled from a registry\n")
	if err != nil {
		return err
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ended := make(chan error)
	go func() { ended <- http.Serve(socket, registry.New(registry.Logger(log.New(io.Discard, "", 0)))) }()
	at := socket.Addr().String()
	if err := push("http://"+at+"/v2/demo/debian/", bottom, top); err != nil {
		return err
	}
	fmt.Println(at + "/demo/debian:12")
	os.Stdout.Close()
	return <-ended
}

// push uploads layers, config and manifest, in this order.
func push(repo string, layers ...[]byte) error {
	config := v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{Cmd: []string{"cat", "/etc/pulled"}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.OCIManifestSchema1}
	for _, layer := range layers {
		plain, err := gzip.NewReader(bytes.NewReader(layer))
		if err != nil {
			return err
		}
		diffID, _, err := v1.SHA256(plain)
		if err != nil {
			return err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
		d, err := blob(repo, layer, types.OCILayer)
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, d)
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if m.Config, err = blob(repo, text, types.OCIConfigJSON); err != nil {
		return err
	}
	if text, err = json.Marshal(m); err != nil {
		return err
	}
	return send("PUT", repo+"manifests/12", string(m.MediaType), text)
}

func blob(repo string, data []byte, kind types.MediaType) (v1.Descriptor, error) {
	digest, size, err := v1.SHA256(bytes.NewReader(data))
	if err != nil {
		return v1.Descriptor{}, err
	}
	return v1.Descriptor{MediaType: kind, Size: size, Digest: digest},
		send("POST", repo+"blobs/uploads/?digest="+digest.String(), "application/octet-stream", data)
}

func send(method, url, kind string, data []byte) error {
	req, err := http.NewRequest(method, url, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", kind)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	return nil
}

// small is a layer of one file.
func small(name, text string) ([]byte, error) {
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	t := tar.NewWriter(zip)
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(t, text)
	}
	err = errors.Join(err, t.Close(), zip.Close())
	return out.Bytes(), err
}
