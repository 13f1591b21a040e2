package libcontainer

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"thinrun/image"
	"thinrun/libcontainer/bundle"
)

// changes are instructions of a Dockerfile, as docker commit --change takes them: those
// that say how to run an image.
type changes struct {
	config []func(*image.Config) // in their order
	labels map[string]string
	expose []string // "80/tcp"
}

func (c *changes) apply(cfg *image.Config) {
	for _, change := range c.config {
		change(cfg)
	}
}

func parseChanges(list []string) (*changes, error) {
	c := &changes{labels: map[string]string{}}
	ownCmd := false // an entrypoint drops the base's command, which was made for the old one
	for _, text := range list {
		word, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
		rest = strings.TrimSpace(rest)
		var change func(*image.Config)
		var err error
		switch name := strings.ToUpper(word); name {
		case "CMD":
			ownCmd = true
			change = func(cfg *image.Config) { cfg.Cmd = command(rest) }
		case "ENTRYPOINT":
			keep := ownCmd
			change = func(cfg *image.Config) {
				cfg.Entrypoint = command(rest)
				if !keep {
					cfg.Cmd = nil
				}
			}
		case "ENV":
			change, err = changeEnv(rest)
		case "LABEL":
			err = c.label(rest)
		case "EXPOSE":
			err = c.exposes(rest)
		case "STOPSIGNAL":
			_, err = ParseSignal(rest)
			change = func(cfg *image.Config) { cfg.StopSignal = rest }
		case "USER":
			err = bundle.CheckUser(rest)
			change = func(cfg *image.Config) { cfg.User = rest }
		case "VOLUME":
			change, err = changeVolumes(rest)
		case "WORKDIR":
			change = func(cfg *image.Config) {
				if !path.IsAbs(rest) {
					rest = path.Join("/", cfg.WorkingDir, rest)
				}
				cfg.WorkingDir = path.Clean(rest)
			}
		default:
			err = errors.New("it is none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR")
		}
		if err == nil && rest == "" {
			err = errors.New("it says nothing")
		}
		if err != nil {
			return nil, fmt.Errorf("change %s: %w", bundle.Quote(text), err)
		}
		if change != nil {
			c.config = append(c.config, change)
		}
	}
	return c, nil
}

func changeEnv(text string) (func(*image.Config), error) {
	list, err := pairs(text)
	return func(cfg *image.Config) {
		env := slices.Clone(cfg.Env)
		for _, kv := range list {
			env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, kv[0]+"=") })
			env = append(env, kv[0]+"="+kv[1])
		}
		cfg.Env = env
	}, err
}

func (c *changes) label(text string) error {
	list, err := pairs(text)
	for _, kv := range list {
		c.labels[kv[0]] = kv[1]
	}
	return err
}

// exposes writes what the OCI's config knows: one port each, with its protocol.
func (c *changes) exposes(text string) error {
	for word := range strings.FieldsSeq(text) {
		ports, protocol, given := strings.Cut(word, "/")
		if !given {
			protocol = "tcp"
		}
		first, last, _ := strings.Cut(ports, "-")
		if last == "" {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || from == 0 || from > to || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
			return fmt.Errorf("%s is not a port, or several, such as 80, 53/udp or 8000-8010", bundle.Quote(word))
		}
		for port := from; port <= to; port++ {
			c.expose = append(c.expose, fmt.Sprintf("%d/%s", port, protocol))
		}
	}
	return nil
}

func changeVolumes(text string) (func(*image.Config), error) {
	list, ok := jsonList(text)
	if !ok {
		list = strings.Fields(text)
	}
	for i, dir := range list {
		if !path.IsAbs(dir) {
			return nil, fmt.Errorf("%s is not absolute", bundle.Quote(dir))
		}
		list[i] = path.Clean(dir)
	}
	return func(cfg *image.Config) {
		all := slices.Concat(cfg.Volumes, list)
		slices.Sort(all)
		cfg.Volumes = slices.Compact(all)
	}, nil
}

// command is a list in JSON, or a line for the shell.
func command(text string) []string {
	if list, ok := jsonList(text); ok {
		return list
	}
	return []string{"/bin/sh", "-c", text}
}

func jsonList(text string) (list []string, ok bool) {
	return list, json.Unmarshal([]byte(text), &list) == nil
}

// pairs reads "K=V K2='V 2'", or "K V" with one key.
func pairs(text string) (list [][2]string, err error) {
	words, err := split(text)
	if err != nil || len(words) == 0 {
		return nil, err
	}
	if !strings.Contains(words[0], "=") {
		key, value, ok := strings.Cut(text, " ")
		if !ok {
			return nil, errors.New("wants KEY=VALUE")
		}
		return [][2]string{{key, strings.TrimSpace(value)}}, nil
	}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("%s is not KEY=VALUE", bundle.Quote(w))
		}
		list = append(list, [2]string{key, value})
	}
	return list, nil
}

// split takes words apart at spaces that are not quoted, as a Dockerfile does.
func split(text string) (words []string, err error) {
	var word strings.Builder
	quote, open := rune(0), false
	escaped := false
	for _, r := range text {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, open = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, open = r, true
		case r == ' ' || r == '\t':
			if open {
				words = append(words, word.String())
				word.Reset()
			}
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote is not closed")
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}
