package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"thinrun/image"

	"github.com/google/go-containerregistry/pkg/name"
)

// saved is an entry of manifest.json in what docker save writes, and podman and skopeo
// after it.
type saved struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// fromDocker finds the image in a docker archive, whose files are closed with the Source.
// There are no digests of what is in it but the config's diff_ids.
func fromDocker(ctx context.Context, in files, ref string, opt Options) (*image.Source, error) {
	want, err := opt.wanted()
	if err != nil {
		return nil, err
	}
	var list []saved
	if err := readJSON(in, "manifest.json", &list); err != nil {
		return nil, fmt.Errorf("not a docker archive: %w", err)
	}
	chosen, err := tagged(list, ref)
	if err != nil {
		return nil, err
	}
	r, _, err := in.open(chosen.Config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	config, err := readDocument(r)
	r.Close()
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if len(chosen.Layers) > maxLayers {
		return nil, fmt.Errorf("manifest.json: %d layers; thinrun takes %d", len(chosen.Layers), maxLayers)
	}
	diffIDs, err := checkConfig(config, len(chosen.Layers), want)
	if err != nil {
		return nil, err
	}
	src := &image.Source{Config: config, Close: in.Close}
	for i, name := range chosen.Layers {
		r, size, err := in.open(name)
		if err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(chosen.Layers), err)
		}
		r.Close()
		src.Layers = append(src.Layers, image.SourceLayer{DiffID: diffIDs[i], Bytes: size, Open: func(ctx context.Context) (io.ReadCloser, error) {
			r, size, err := in.open(name)
			if err != nil {
				return nil, err
			}
			have := int64(0)
			counted := readerFunc(func(p []byte) (int, error) {
				n, err := r.Read(p)
				have += int64(n)
				opt.progress(Progress{Layer: i, Digest: diffIDs[i], Bytes: have, Total: size})
				return n, err
			})
			return rawLayer{name: printable(name), r: counted, ctx: ctx, close: r.Close}.open(), nil
		}})
	}
	return src, nil
}

// tagged chooses by tag; without one there has to be one image only.
func tagged(list []saved, ref string) (saved, error) {
	var names []string
	for _, s := range list {
		names = append(names, s.RepoTags...)
		if len(s.RepoTags) == 0 {
			names = append(names, "")
		}
	}
	switch {
	case len(list) == 0:
		return saved{}, errors.New("manifest.json names no image")
	case ref == "" && len(list) == 1:
		return list[0], nil
	case ref == "":
		return saved{}, severalOf(len(list), names, "docker-archive:FILE:NAME")
	}
	for _, s := range list {
		if slices.ContainsFunc(s.RepoTags, func(t string) bool { return full(t) == full(ref) }) {
			return s, nil
		}
	}
	return saved{}, noneOf(ref, names)
}

// full completes a tag as Docker does: skopeo writes docker.io/library/debian:latest,
// docker save debian:latest.
func full(tag string) string {
	ref, err := name.ParseReference(tag, name.WeakValidation)
	if err != nil {
		return tag
	}
	return ref.Name()
}
