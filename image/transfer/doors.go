package transfer

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
)

// doors lead to hosts, each with what is trusted and shown there. The registry's CAs also
// vouch for the token server that it names, which could be the registry itself; they sign
// nobody else whom it sends us to. Our certificate is for the registry alone, and no other
// host is shown the one that is kept for it: a registry must not choose whom we log in to.
type doors struct {
	opt      Options
	registry string // as hostKey
	certs    certificates
	plain    *http.Transport // to who has no certificates of his own

	mu     sync.Mutex
	tokens string // the token server's hostKey, once it is known
	byHost map[string]*http.Transport
}

func newDoors(plain *http.Transport, reg name.Registry, certs certificates, opt Options) *doors {
	return &doors{opt: opt, registry: hostKey(reg.RegistryStr()), certs: certs, plain: plain, byHost: make(map[string]*http.Transport)}
}

func (d *doors) RoundTrip(req *http.Request) (*http.Response, error) {
	host, t := hostKey(req.URL.Host), d.plain
	if req.URL.Scheme == "https" {
		var err error
		if t, err = d.to(host); err != nil {
			return nil, err
		}
	}
	resp, err := t.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized && host == d.registry {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.tokens = realmOf(resp.Header)
	}
	return resp, err
}

func (d *doors) to(host string) (*http.Transport, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.byHost[host]; t != nil {
		return t, nil
	}
	certs := d.certs
	if host != d.registry {
		var err error
		if certs, err = d.opt.hostCerts(host); err != nil {
			return nil, err
		}
		certs.ours = nil
		if host == d.tokens {
			certs.cas = append(certs.cas, d.certs.cas...)
		}
	}
	d.byHost[host] = d.with(certs)
	return d.byHost[host], nil
}

// with is a way of its own, where there are certificates for it.
func (d *doors) with(certs certificates) *http.Transport {
	if certs.cas == nil && certs.ours == nil {
		return d.plain
	}
	t := d.plain.Clone()
	t.TLSClientConfig.Certificates = certs.ours
	if certs.cas != nil {
		roots, err := x509.SystemCertPool()
		if err != nil { // nothing of the system's can be read
			roots = x509.NewCertPool()
		}
		for _, ca := range certs.cas {
			roots.AddCert(ca)
		}
		t.TLSClientConfig.RootCAs = roots
	}
	return t
}

func (d *doors) CloseIdleConnections() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plain.CloseIdleConnections()
	for _, t := range d.byHost {
		t.CloseIdleConnections()
	}
}

// realmOf is the host of the token server in a challenge, Bearer realm="https://HOST/PATH";
// "" where there is none.
func realmOf(header http.Header) string {
	for _, challenge := range header.Values("WWW-Authenticate") {
		scheme, rest, _ := strings.Cut(challenge, " ")
		_, rest, found := strings.Cut(rest, `realm="`)
		realm, _, ended := strings.Cut(rest, `"`)
		if u, err := url.Parse(realm); err == nil && found && ended && strings.EqualFold(scheme, "bearer") {
			return hostKey(u.Host)
		}
	}
	return ""
}

// hostKey makes one of the ways to write a host and its port of https.
func hostKey(host string) string {
	return strings.TrimSuffix(strings.ToLower(host), ":443")
}
