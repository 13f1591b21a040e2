package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"golang.org/x/sys/unix"
)

// errStalled: nothing came for patience.idle.
var errStalled = errors.New("the registry went silent")

// patient sends requests below all that knows about registries (authentication,
// redirects). It gives up on silence, repeats what is worth repeating, and refuses plain
// http to where it was not allowed: the library above would try it for private addresses.
type patient struct {
	inner *doors
	patience
	plain bool // to anywhere, not only to this machine
}

func newPatient(opt Options, reg name.Registry, certs certificates) *patient {
	t := http.DefaultTransport.(*http.Transport).Clone()
	// As podman does, three layers come over three connections. Go's HTTP/2 also loses the
	// alert with which a server refuses our certificate after a handshake of TLS 1.3.
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(true)
	t.DisableCompression = true // a digest is of the bytes as they lie there
	t.MaxIdleConnsPerHost = parallel + 1
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: opt.Insecure}
	t.OnProxyConnectResponse = func(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode == http.StatusOK {
			return nil
		}
		return fmt.Errorf("the proxy %s says %s", proxy.Host, printable(resp.Status)) // net/http says "Forbidden"
	}
	return &patient{inner: newDoors(t, reg, certs, opt), patience: opt.patience, plain: opt.Insecure}
}

func (p *patient) CloseIdleConnections() { p.inner.CloseIdleConnections() }

func (p *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !p.plain && !isLoopback(req.URL.Hostname()) {
		return nil, &plainHTTPError{req.URL.Host}
	}
	pause := p.pause
	for try := 1; ; try++ {
		resp, err := p.once(req)
		if try == p.tries || req.Body != nil || !again(resp, err) {
			return resp, err
		}
		wait := pause
		pause *= 2
		if resp != nil {
			if asked, ok := retryAfter(resp.Header.Get("Retry-After")); ok {
				if asked > maxRetryAfter {
					return resp, nil
				}
				wait = asked
			}
			io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection serves again
			resp.Body.Close()
		}
		if err := sleep(req.Context(), wait); err != nil {
			return nil, err
		}
	}
}

// again tells what is worth repeating.
func again(resp *http.Response, err error) bool {
	if err == nil {
		return resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500
	}
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.As(err, &dns):
		return dns.IsTemporary
	}
	return errors.Is(err, errStalled) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// maxRetryAfter: who is told to come back in an hour does so himself.
const maxRetryAfter = time.Minute

// retryAfter reads the header, seconds or a date (RFC 9110, 10.2.3).
func retryAfter(h string) (time.Duration, bool) {
	if s, err := strconv.ParseUint(h, 10, 31); err == nil {
		return time.Duration(s) * time.Second, true
	}
	if t, err := http.ParseTime(h); err == nil {
		return max(0, time.Until(t)), true
	}
	return 0, false
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// once sends the request; the silence before the answer and inside it is bounded.
func (p *patient) once(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	stalled := fmt.Errorf("%w: no byte in %v", errStalled, p.idle)
	timer := time.AfterFunc(p.idle, func() { cancel(stalled) })
	resp, err := p.inner.RoundTrip(req.Clone(ctx))
	timer.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errStalled) {
			err = stalled
		}
		cancel(nil)
		return nil, err
	}
	resp.Body = &idleBody{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timer: timer, idle: p.idle}
	// A redirect is followed relative to this, and the clone's context ends with the body.
	resp.Request = req
	return resp, nil
}

// idleBody bounds the silence inside an answer. Time that its reader takes does not count.
type idleBody struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	idle   time.Duration
}

func (b *idleBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.idle)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(b.ctx); errors.Is(cause, errStalled) {
			err = cause
		}
	}
	return n, err
}

func (b *idleBody) Close() error {
	b.timer.Stop()
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// plainHTTPError: somebody leads to plain http where it was not allowed.
type plainHTTPError struct{ host string }

func (e *plainHTTPError) Error() string {
	return fmt.Sprintf("plain http to %s, which is not this machine (--tls-verify=false allows it)", printable(e.host))
}

// isLoopback is Docker's rule for registries that may speak plain http.
func isLoopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
