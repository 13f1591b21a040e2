package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestStartReadsNoLayers: of an image of a thousand layers a start reads the top one, from
// a part of the record whose length does not depend on them.
func TestStartReadsNoLayers(t *testing.T) {
	s, _ := fixture(t)
	must(t, os.MkdirAll(s.dir, 0o700))
	img := &Image{Version: Version, Name: "deep:latest", Driver: "plain", Created: time.Unix(1, 0).UTC(), OCI: []byte(`{"os":"linux"}`), Platform: &Platform{OS: "linux"}}
	for i := range 1000 {
		img.Layers = append(img.Layers, fmt.Sprintf("layer%d", i))
		img.DiffIDs = append(img.DiffIDs, digest([]byte{byte(i)}))
	}
	img.Chains, img.Sizes = chainIDs(img.DiffIDs), make([]int64, 1000)
	must(t, s.put(img))

	got, release, err := s.Use("deep")
	must(t, err)
	release()
	if !reflect.DeepEqual(got, img) {
		t.Errorf("read %+v, want what was written", got)
	}
	top, release, err := s.Start("deep")
	must(t, err)
	release()
	if top.Layer() != "layer999" || len(top.Layers) != 1 || top.OCI != nil || top.Platform.OS != "linux" {
		t.Errorf("a start reads %+v, want the top layer alone", top)
	}

	path := filepath.Join(s.dir, "deep:latest.json")
	data, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(data), `"layer998"`, `"layer998`, 1)), 0o600))
	if _, release, err := s.Start("deep"); err != nil {
		t.Errorf("a start reads layers: %v", err)
	} else {
		release()
	}
	for name, cut := range map[string]string{
		"not JSON":     string(data[:len(data)/2]),
		"one too many": strings.Replace(string(data), `"layer998"`, `"layer998","more"`, 1),
		"another top":  strings.Replace(string(data), "    \"layer999\"\n  ],\n  \"sizes\"", "    \"layer0\"\n  ],\n  \"sizes\"", 1),
	} {
		must(t, os.WriteFile(path, []byte(cut), 0o600))
		if _, err := s.Get("deep"); err == nil || !strings.Contains(err.Error(), "damaged image record") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRecordOfVersion1: one object with all layers, and then the config.
func TestRecordOfVersion1(t *testing.T) {
	s, _ := fixture(t)
	must(t, os.MkdirAll(s.dir, 0o700))
	old := `{"version":1,"name":"old:latest","driver":"plain","layers":["a","b"],"chains":["",""],"size":5,"created":"2026-01-02T03:04:05Z","config":{"Cmd":["sh"]}}` + "\n" + `{"os":"linux","architecture":"arm64"}`
	must(t, os.WriteFile(filepath.Join(s.dir, "old:latest.json"), []byte(old), 0o600))
	for how, use := range map[string]func(string) (*Image, func(), error){"use": s.Use, "start": s.Start} {
		img, release, err := use("old")
		must(t, err)
		release()
		of, err := img.For()
		if err != nil || of.Architecture != "arm64" || img.Layer() != "b" || len(img.Layers) != 2 || img.Config.Cmd[0] != "sh" {
			t.Errorf("%s: %+v, for %v, %v", how, img, of, err)
		}
	}
}

// TestTagOfRecordsWithoutChains: of two images whose records have no chain ids nobody knows
// that they are the same; the one that a container is on stays.
func TestTagOfRecordsWithoutChains(t *testing.T) {
	s, layers := fixture(t)
	must(t, os.MkdirAll(s.dir, 0o700))
	for _, name := range []string{"one", "two"} {
		must(t, os.Mkdir(filepath.Join(layers.dir, "layer-"+name), 0o755))
		old := `{"version":1,"name":"` + name + `:latest","driver":"plain","layers":["layer-` + name + `"],"size":5,"created":"2026-01-02T03:04:05Z","config":{}}`
		must(t, os.WriteFile(filepath.Join(s.dir, name+":latest.json"), []byte(old), 0o600))
	}
	_, err := s.Tag("one", "two", layers, func(layer string) []string {
		return map[string][]string{"layer-two": {"web"}}[layer]
	})
	if !errors.Is(err, ErrInUse) {
		t.Errorf("%v; want ErrInUse", err)
	}
	equal(t, "layers", layers.has(t), []string{"layer-one", "layer-two"})
}

// TestPlatformOfAStranger: what an image says of itself does not drive the terminal.
func TestPlatformOfAStranger(t *testing.T) {
	for want, p := range map[string]Platform{
		"linux/arm64":                            {OS: "linux", Architecture: "arm64"},
		"linux/arm/v7":                           {OS: "linux", Architecture: "arm", Variant: "v7"},
		"linux/s390x/??":                         {OS: "linux", Architecture: "s390x", Variant: "\x1b\u009b"},
		"a?b/" + strings.Repeat("x", 56) + "...": {OS: "a\nb", Architecture: strings.Repeat("x", 1000)},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestListWithStrangers: what is no record is passed over.
func TestListWithStrangers(t *testing.T) {
	s, layers := fixture(t)
	_, err := pull(t, s, layers, "x", sourceOf(t, nil, tarOf(t, "a", "1")))
	must(t, err)
	for _, name := range []string{".json", ".x.json", "x:latest.json.orig", "note"} {
		must(t, os.WriteFile(filepath.Join(s.dir, name), []byte("x"), 0o600))
	}
	if list, err := s.List(); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}
