package transfer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// explain says what a person can do about an error of the network or the registry. What is
// neither stays as it is.
func (r *repository) explain(err error) error {
	reg := r.repo.Registry
	// First, because to this machine plain http was tried too, and has said something else.
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		advice := "--tls-verify=false takes it nevertheless"
		if unknown := (x509.UnknownAuthorityError{}); errors.As(cert, &unknown) {
			advice = fmt.Sprintf("its CA's certificate belongs in %s/ca.crt; %s", r.certDir(err), advice)
		}
		return fmt.Errorf("%s: %w (%s)", r.at(err), oneLineOf(cert), advice) // a certificate's names are anybody's
	}
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" && r.hostOf(err) == r.repo.RegistryStr() && strings.Contains(alert.Err.Error(), "certificate") {
		advice := "it takes none of the client certificates in " + r.certs.dir
		if len(r.certs.ours) == 0 {
			advice = fmt.Sprintf("it wants a client certificate: %s/client.cert and client.key", r.certDir(err))
		}
		return fmt.Errorf("%s: %w (%s)", r.at(err), alert.Err, advice)
	}
	var plain *plainHTTPError
	if errors.As(err, &plain) {
		return plain
	}
	var elsewhere *elsewhereError
	var status *transport.Error
	switch {
	case errors.As(err, &elsewhere) && errors.As(err, &status):
		return fmt.Errorf("%s, where %s has sent us, says %s", printable(elsewhere.host), reg, said(status))
	case errors.As(err, &status):
		return r.explainStatus(status)
	}
	var sent *url.Error
	if !errors.As(err, &sent) {
		return err // not the network's
	}
	// net/http has no value for this one.
	if reg.Scheme() == "https" && strings.Contains(err.Error(), "server gave HTTP response to HTTPS client") {
		return fmt.Errorf("%s: %w (--tls-verify=false takes it nevertheless)", r.at(err), bare(err))
	}
	why := bare(err)
	if why == io.EOF {
		why = errors.New("hung up without an answer")
	}
	return fmt.Errorf("%s: %w", r.at(err), why)
}

// explainLogin also names the registry where the library's own words about a challenge or
// a token would stand alone.
func (r *repository) explainLogin(err error) error {
	if explained := r.explain(err); explained != err {
		return explained
	}
	return fmt.Errorf("%s: log in: %w", r.repo.Registry, oneLineOf(err))
}

// explainStatus is about an answer of the registry, or of its token server.
func (r *repository) explainStatus(status *transport.Error) error {
	who, perhaps := r.repo.RegistryStr(), ", or there is no such image" // Docker Hub does not tell them apart
	if req := status.Request; req != nil && hostKey(req.URL.Host) != hostKey(who) {
		who, perhaps = fmt.Sprintf("%s, the token server of %s,", printable(req.URL.Host), who), ""
	}
	why := said(status)
	switch status.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		if r.login.from == "" {
			return fmt.Errorf("%s says %s; it wants credentials: --creds USER:PASSWORD, or docker login, or podman login%s", who, why, perhaps)
		}
		return fmt.Errorf("%s says %s to the credentials from %s%s", who, why, r.login.from, perhaps)
	case http.StatusNotFound:
		return fmt.Errorf("%s says %s: %s", who, why, missing(status.Request))
	}
	return fmt.Errorf("%s says %s", who, why)
}

// missing is what a 404 is about. A manifest is asked for by name, and names the blobs.
func missing(req *http.Request) string {
	if req == nil {
		return "no such image or tag"
	}
	switch path.Base(path.Dir(req.URL.Path)) {
	case "manifests":
		return "no such image or tag"
	case "blobs":
		return "it lacks a part of the image"
	}
	return "perhaps it is no registry"
}

func said(status *transport.Error) string {
	why := fmt.Sprintf("%d %s", status.StatusCode, http.StatusText(status.StatusCode))
	if len(status.Errors) > 0 {
		why += ": " + printable(status.Errors[0].Message)
	}
	return why
}

// elsewhereError is an answer of who is not the registry, after a redirect.
type elsewhereError struct {
	host string
	err  error
}

func (e *elsewhereError) Error() string { return e.host + ": " + e.err.Error() }
func (e *elsewhereError) Unwrap() error { return e.err }

// hostOf is the host that an error is about.
func (r *repository) hostOf(err error) string {
	host := r.repo.RegistryStr()
	for u := (*url.Error)(nil); errors.As(err, &u); err = u.Err { // the innermost: a token is fetched inside a request
		if at, err := url.Parse(u.URL); err == nil {
			host = at.Host
		}
	}
	if hostKey(host) == hostKey(r.repo.RegistryStr()) {
		return r.repo.RegistryStr()
	}
	return printable(host)
}

func (r *repository) at(err error) string {
	if host := r.hostOf(err); host != r.repo.RegistryStr() {
		return fmt.Sprintf("%s (for %s)", host, r.repo.Registry)
	}
	return r.repo.RegistryStr()
}

// certDir is where certificates for who an error is about are looked for.
func (r *repository) certDir(err error) string {
	host := r.hostOf(err)
	switch {
	case host != r.repo.RegistryStr():
		return "/etc/containers/certs.d/" + hostKey(host)
	case r.certs.dir != "":
		return r.certs.dir
	}
	return "/etc/containers/certs.d/" + certDirName(r.repo.Registry)
}

// bare leaves out the method and the URL, which is long and may hold a token.
func bare(err error) error {
	for u := (*url.Error)(nil); errors.As(err, &u); {
		err = u.Err
	}
	return oneLineOf(err)
}

// oneLineOf leaves out what the library adds on further lines: the answer of a token
// server, with whatever tokens it has.
func oneLineOf(err error) error {
	first, _, more := strings.Cut(err.Error(), "\n")
	if clean := printable(strings.TrimSuffix(first, ":")); more || clean != first {
		return errors.New(clean)
	}
	return err
}
