package transfer

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// wanted is the platform to take, and whether somebody asked for it.
type wanted struct {
	v1.Platform
	asked bool
}

func (o *Options) wanted() (wanted, error) {
	if o.Platform == "" {
		return wanted{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}, nil
	}
	p, err := v1.ParsePlatform(strings.ToLower(o.Platform))
	if err != nil || p.OS == "" || p.Architecture == "" || p.OSVersion != "" {
		return wanted{}, fmt.Errorf("--platform %q: want os/arch[/variant], for example linux/arm64", o.Platform)
	}
	switch p.Architecture { // as uname -m says it
	case "x86_64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	}
	return wanted{*p, true}, nil
}

// takes tells whether p will do. A variant that nobody asked for does not matter here;
// best looks at it.
func (w wanted) takes(p v1.Platform) bool {
	return p.OS == w.OS && p.Architecture == w.Architecture &&
		(w.Variant == "" || variant(p) == variant(w.Platform))
}

// variant with the one that an empty one stands for (OCI image-spec, and containerd's
// platforms).
func variant(p v1.Platform) string {
	switch {
	case p.Variant != "":
		return p.Variant
	case p.Architecture == "arm64":
		return "v8"
	case p.Architecture == "arm":
		return "v7"
	case p.Architecture == "amd64":
		return "v1"
	}
	return ""
}

// best chooses from an index. An entry without a platform comes last: its config will
// tell.
func (w wanted) best(list []v1.Descriptor) (v1.Descriptor, error) {
	var found []v1.Descriptor
	var there []string
	for _, d := range list {
		switch {
		case d.Platform == nil || d.Platform.OS == "" && d.Platform.Architecture == "":
			found = append(found, d)
		case w.takes(*d.Platform):
			found = append(found, d)
		case d.Platform.OS != "unknown": // an attestation, which is no image
			there = append(there, d.Platform.String())
		}
	}
	rank := func(d v1.Descriptor) int {
		base := v1.Platform{Architecture: w.Architecture}
		switch {
		case d.Platform == nil || d.Platform.OS == "":
			return 2
		case w.Variant == "" && variant(*d.Platform) != variant(base):
			return 1 // amd64/v3 needs a newer processor than amd64
		}
		return 0
	}
	if len(found) > 0 {
		return slices.MinFunc(found, func(a, b v1.Descriptor) int { return rank(a) - rank(b) }), nil
	}
	slices.Sort(there)
	there = slices.Compact(there)
	if len(there) == 0 {
		return v1.Descriptor{}, fmt.Errorf("nothing for %s: the index names no image", w)
	}
	text := strings.Join(there[:min(len(there), 20)], ", ")
	if len(there) > 20 {
		text += ", ..."
	}
	return v1.Descriptor{}, fmt.Errorf("nothing for %s, only for %s (see --platform)", w, printable(text))
}
