package transfer

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// certificates are what certs.d keeps for a host (containers-certs.d(5)).
type certificates struct {
	dir  string              // "": there is none
	cas  []*x509.Certificate // besides the system's
	ours []tls.Certificate   // TLS takes the first that is of a CA the other side names
}

// certDirs is podman's order, with Docker's at the end. The first that exists is meant.
func (o *Options) certDirs(host string) (dirs []string) {
	if strings.Trim(host, ".") == "" || strings.Contains(host, "/") {
		return nil // no name of a directory
	}
	etc := o.etc
	if etc == "" {
		etc = "/etc"
	}
	if home, _ := os.UserHomeDir(); home != "" {
		dirs = append(dirs, filepath.Join(home, ".config/containers/certs.d", host))
	}
	return append(dirs, filepath.Join(etc, "containers/certs.d", host), filepath.Join(etc, "docker/certs.d", host))
}

// registryCerts are for the registry that was asked for.
func (o *Options) registryCerts(reg name.Registry) (certificates, error) {
	if o.CertDir != "" {
		c, err := readCerts(o.CertDir)
		if err != nil {
			return c, fmt.Errorf("--cert-dir: %w", err)
		}
		return c, nil
	}
	return o.hostCerts(certDirName(reg))
}

// certDirName is the registry as people write it.
func certDirName(reg name.Registry) string {
	if host := reg.RegistryStr(); host != name.DefaultRegistry {
		return host
	}
	return "docker.io"
}

func (o *Options) hostCerts(host string) (certificates, error) {
	for _, dir := range o.certDirs(host) {
		// Docker keeps /etc/docker from other users, for whom there is nothing in it.
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		return readCerts(dir)
	}
	return certificates{}, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// readCerts reads *.crt, CAs, and NAME.cert with NAME.key, ours. Half a pair is refused, as
// everywhere: it is most often a CA under the wrong name.
func readCerts(dir string) (certificates, error) {
	c := certificates{dir: dir}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return c, err
	}
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		stem := strings.TrimSuffix(file, filepath.Ext(file))
		switch filepath.Ext(file) {
		case ".crt":
			err = c.addCAs(file)
		case ".cert":
			err = c.addPair(stem)
		case ".key":
			if !exists(stem + ".cert") {
				err = fmt.Errorf("%s: there is no %s for it", file, filepath.Base(stem)+".cert")
			}
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// addCAs is strict where CertPool.AppendCertsFromPEM skips what it cannot read.
func (c *certificates) addCAs(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	n := 0
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		c.cas = append(c.cas, cert)
		n++
	}
	if begun := bytes.Count(text, []byte("-----BEGIN CERTIFICATE-----")); n == 0 || n < begun {
		return fmt.Errorf("%s: %d of %d certificates in it are PEM", file, n, begun)
	}
	return nil
}

func (c *certificates) addPair(stem string) error {
	if !exists(stem + ".key") {
		return fmt.Errorf("%s: there is no %s for it (a CA's certificate is named *.crt)", stem+".cert", filepath.Base(stem)+".key")
	}
	pair, err := tls.LoadX509KeyPair(stem+".cert", stem+".key")
	var file *fs.PathError
	switch {
	case errors.As(err, &file):
		return err
	case err != nil:
		return fmt.Errorf("%s with %s: %w", stem+".cert", filepath.Base(stem)+".key", err)
	}
	c.ours = append(c.ours, pair)
	return nil
}
