package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"time"
)

// describe makes the OCI config of a committed image: the base's, with all in it that we
// do not know, and one layer more.
func (img *Image) describe(c Commit) error {
	doc := c.Base.OCI
	if doc == nil {
		var err error
		if doc, err = c.Base.config(); err != nil {
			return err
		}
	}
	created := c.Created.UTC().Format(time.RFC3339Nano)
	history := map[string]any{"created": created, "created_by": "thinrun image commit"}
	if c.Message != "" {
		history["comment"] = c.Message
	}
	changes := map[string]any{"created": created, "rootfs": map[string]any{"type": "layers", "diff_ids": img.DiffIDs}}
	if c.Author != "" {
		changes["author"], history["author"] = c.Author, c.Author
	}
	var fields, config map[string]json.RawMessage
	if err := json.Unmarshal(doc, &fields); err != nil {
		return fmt.Errorf("config of image %s: %w", c.Base.Name, err)
	}
	var past []json.RawMessage
	if err := unmarshal(fields["history"], &past); err != nil {
		return fmt.Errorf("config of image %s: history: %w", c.Base.Name, err)
	}
	changes["history"] = append(complete(past, len(c.Base.Layers), "unknown"), history)
	if err := unmarshal(fields["config"], &config); err != nil {
		return fmt.Errorf("config of image %s: config: %w", c.Base.Name, err)
	}
	if config == nil {
		config = make(map[string]json.RawMessage)
	}
	for _, key := range []string{"Env", "Cmd", "Entrypoint", "WorkingDir", "User", "StopSignal", "Volumes"} {
		delete(config, key)
	}
	for key, value := range img.Config.fields() {
		var err error
		if config[key], err = json.Marshal(value); err != nil {
			return err
		}
	}
	if err := addTo(config, "Labels", c.Labels); err != nil {
		return err
	}
	ports := make(map[string]struct{})
	for _, port := range c.Expose {
		ports[port] = struct{}{}
	}
	if err := addTo(config, "ExposedPorts", ports); err != nil {
		return err
	}
	changes["config"] = config
	if fields == nil {
		fields = make(map[string]json.RawMessage)
	}
	for key, value := range changes {
		var err error
		if fields[key], err = json.Marshal(value); err != nil {
			return err
		}
	}
	var err error
	if img.OCI, err = json.Marshal(fields); err != nil {
		return err
	}
	of, err := img.For()
	if err != nil {
		return err
	}
	img.Platform = &of
	if !slices.Contains(img.DiffIDs, "") { // else it is nobody's config yet: export completes it
		img.ID = digest(img.OCI)
	}
	return nil
}

// addTo adds to one of the config's objects.
func addTo[V any](config map[string]json.RawMessage, key string, more map[string]V) error {
	if len(more) == 0 {
		return nil
	}
	all := make(map[string]V)
	if err := unmarshal(config[key], &all); err != nil {
		return fmt.Errorf("image config: config.%s: %w", key, err)
	}
	maps.Copy(all, more)
	var err error
	config[key], err = json.Marshal(all)
	return err
}

func unmarshal(data json.RawMessage, v any) error {
	if len(data) == 0 {
		return nil
	}
	return json.Unmarshal(data, v)
}

// complete is a history that tells of so many layers at least. Some builders write none or
// half of one, and then buildah refuses to build upon an image whose new layer is told of.
func complete(past []json.RawMessage, layers int, by string) (all []any) {
	told := 0
	for _, step := range past {
		var of struct {
			Empty bool `json:"empty_layer"`
		}
		if json.Unmarshal(step, &of) == nil && !of.Empty {
			told++
		}
		all = append(all, step)
	}
	for ; told < layers; told++ {
		all = append(all, map[string]any{"created_by": by})
	}
	return all
}

// fields are what the config says, as the OCI's document has it.
func (c *Config) fields() map[string]any {
	fields := make(map[string]any)
	for key, list := range map[string][]string{"Env": c.Env, "Cmd": c.Cmd, "Entrypoint": c.Entrypoint} {
		if len(list) > 0 {
			fields[key] = list
		}
	}
	for key, text := range map[string]string{"WorkingDir": c.WorkingDir, "User": c.User, "StopSignal": c.StopSignal} {
		if text != "" {
			fields[key] = text
		}
	}
	if len(c.Volumes) > 0 {
		volumes := make(map[string]struct{})
		for _, v := range c.Volumes {
			volumes[v] = struct{}{}
		}
		fields["Volumes"] = volumes
	}
	return fields
}

// config is an OCI config for an image that came without one.
func (img *Image) config() (json.RawMessage, error) {
	return json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": img.Created.UTC().Format(time.RFC3339Nano),
		"config":  img.Config.fields(),
		"rootfs":  map[string]any{"type": "layers", "diff_ids": padded(img.DiffIDs, len(img.Layers))},
		"history": complete(nil, len(img.Layers), "thinrun image import"),
	})
}
