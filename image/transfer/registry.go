package transfer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"thinrun/image"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// repository is one of a registry, authenticated.
type repository struct {
	client http.Client
	base   *patient // below client, which cannot close idle connections through the library
	repo   name.Repository
	login  login
	certs  certificates
	root   v1.Descriptor // what the reference led to, and its content
	body   []byte
	patience
}

// openRegistry finds the image; nothing of its layers is fetched before it is needed.
func openRegistry(ctx context.Context, text string, opt Options) (*image.Source, error) {
	want, err := opt.wanted()
	if err != nil {
		return nil, err
	}
	ref, err := parseReference(text, opt.Insecure)
	if err != nil {
		return nil, err
	}
	repo := ref.Context()
	login, err := opt.login(repo)
	if err != nil {
		return nil, err
	}
	certs, err := opt.registryCerts(repo.Registry)
	if err != nil {
		return nil, err
	}
	r := &repository{base: newPatient(opt, repo.Registry, certs), repo: repo, login: login, certs: certs, patience: opt.patience}
	img, err := r.find(ctx, ref, want)
	if err != nil {
		r.base.CloseIdleConnections()
		return nil, err
	}
	return newFetch(ctx, r, img, opt).source(), nil
}

// find logs in, and follows the reference to the image of a platform.
func (r *repository) find(ctx context.Context, ref name.Reference, want wanted) (img *found, err error) {
	r.client.Transport, err = transport.NewWithContext(ctx, r.repo.Registry, r.login, r.base, []string{r.repo.Scope(transport.PullScope)})
	if err != nil {
		return nil, r.explainLogin(err)
	}
	if err := r.look(ctx, ref); err != nil {
		return nil, r.explain(err)
	}
	if img, err = find(ctx, r, r.root, want); err != nil {
		return nil, r.explain(err)
	}
	return img, nil
}

// CheckReference tells whether Open would know what to ask for.
func CheckReference(text string) error {
	_, err := parseReference(strings.TrimPrefix(text, "docker://"), false)
	return err
}

// parseReference completes a name as Docker does, and marks where plain http will do.
func parseReference(text string, insecure bool) (name.Reference, error) {
	if scheme, _, is := strings.Cut(text, "://"); is {
		return nil, fmt.Errorf("reference %q: leave out %q; want [HOST[:PORT]/]NAME[:TAG][@DIGEST] (--tls-verify=false allows plain http)", printable(text), printable(scheme)+"://")
	}
	var ref name.Reference // ParseReference does not say what is wrong
	var err error
	if strings.Contains(text, "@") {
		ref, err = name.NewDigest(text, name.WeakValidation)
	} else {
		ref, err = name.NewTag(text, name.WeakValidation)
	}
	if err != nil {
		return nil, fmt.Errorf("reference %q: %s (want [HOST[:PORT]/]NAME[:TAG][@DIGEST], the name in lower case)", printable(text), printable(err.Error()))
	}
	if d, ok := ref.(name.Digest); ok && !strings.HasPrefix(d.DigestStr(), "sha256:") {
		return nil, fmt.Errorf("reference %q: thinrun verifies sha256 digests only", printable(text))
	}
	for part := range strings.SplitSeq(ref.Context().RepositoryStr(), "/") {
		if strings.Trim(part, ".") == "" { // "", "." and ".." mean something else in a URL's path
			return nil, fmt.Errorf("reference %q: %q is no part of a name", printable(text), part)
		}
	}
	host, _, err := net.SplitHostPort(ref.Context().RegistryStr())
	if err != nil {
		host = ref.Context().RegistryStr()
	}
	if insecure || isLoopback(strings.Trim(host, "[]")) {
		return name.ParseReference(text, name.WeakValidation, name.Insecure)
	}
	return ref, nil
}

// look reads what the reference stands for. A tag is whatever the registry says, so the
// digest is counted here; a digest is verified.
func (r *repository) look(ctx context.Context, ref name.Reference) error {
	header, body, err := r.document(ctx, "manifests", ref.Identifier())
	if err != nil {
		return err
	}
	r.body = body
	r.root = v1.Descriptor{Digest: digestOf(body), Size: int64(len(body)), MediaType: types.MediaType(header.Get("Content-Type"))}
	said := header.Get("Docker-Content-Digest")
	if d, ok := ref.(name.Digest); ok {
		said = d.DigestStr()
	}
	if strings.HasPrefix(said, "sha256:") && said != r.root.Digest.String() {
		return fmt.Errorf("manifest %s: its content has digest %s", said, r.root.Digest)
	}
	return nil
}

func (r *repository) manifest(ctx context.Context, h v1.Hash) (io.ReadCloser, error) {
	if h == r.root.Digest {
		return io.NopCloser(bytes.NewReader(r.body)), nil
	}
	return r.reader(r.document(ctx, "manifests", h.String()))
}

func (r *repository) blob(ctx context.Context, h v1.Hash) (io.ReadCloser, error) {
	return r.reader(r.document(ctx, "blobs", h.String()))
}

func (r *repository) reader(_ http.Header, body []byte, err error) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(body)), err
}

// document gets a manifest or config whole, again if the connection breaks in it.
func (r *repository) document(ctx context.Context, kind, what string) (header http.Header, body []byte, err error) {
	for try := 1; ; try++ {
		resp, err := r.get(ctx, kind, what, 0)
		if err != nil {
			return nil, nil, err
		}
		body, err = readDocument(resp.Body)
		resp.Body.Close()
		if err == nil || len(body) > maxDocument {
			return resp.Header, body, err
		}
		if ctx.Err() != nil || try == r.tries {
			return nil, nil, fmt.Errorf("%s broke off after %d bytes: %w", printable(resp.Request.URL.Host), len(body), err)
		}
		if err := sleep(ctx, r.pause); err != nil {
			return nil, nil, err
		}
	}
}

// get asks for a manifest or blob, from the byte at from on if the registry does ranges.
func (r *repository) get(ctx context.Context, kind, what string, from int64) (*http.Response, error) {
	u := url.URL{Scheme: "https", Host: r.repo.RegistryStr(), Path: fmt.Sprintf("/v2/%s/%s/%s", r.repo.RepositoryStr(), kind, what)}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if kind == "manifests" {
		for _, t := range []types.MediaType{types.OCIImageIndex, types.OCIManifestSchema1, types.DockerManifestList, types.DockerManifestSchema2} {
			req.Header.Add("Accept", string(t))
		}
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		resp.Body.Close()
		if at := resp.Request.URL.Host; hostKey(at) != hostKey(r.repo.RegistryStr()) {
			return nil, &elsewhereError{at, err}
		}
		return nil, err
	}
	return resp, nil
}
