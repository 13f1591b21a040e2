package power

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A command of the load leaves two marks in the log: "begin/SEQ/WHAT/NAME/CONTENT" before
// it starts, and "done/SEQ" or "refused/SEQ" after it has ended. CONTENT is what image
// NAME holds afterwards, "" for none; a refused command has changed nothing.

// promise is, for one name, every content that it may have now; "" is no image.
type promise []string

func (p promise) String() string {
	words := slices.Clone([]string(p))
	for i, w := range words {
		if w == "" {
			words[i] = "no image"
		}
	}
	return strings.Join(words, " or ")
}

// promises reads the marks before a cut: what must be there, what may be, what must not.
// before are the images that were there before all of them. The commands under way are
// named for the report.
func promises(before map[string]string, marks []string) (names map[string]promise, under []string, err error) {
	type command struct{ what, name, content string }
	running := make(map[string]command)
	state := maps.Clone(before)
	if state == nil {
		state = make(map[string]string)
	}
	known := make(map[string]bool)
	for name := range before {
		known[name] = true
	}
	for _, mark := range marks {
		word := strings.Split(mark, "/")
		switch word[0] {
		case "begin":
			if len(word) != 5 {
				return nil, nil, fmt.Errorf("mark %q", mark)
			}
			running[word[1]] = command{word[2], word[3], word[4]}
			if word[3] != "" {
				known[word[3]] = true
			}
		case "done":
			if c := running[word[1]]; c.name != "" {
				state[c.name] = c.content
			}
			delete(running, word[1])
		case "refused":
			delete(running, word[1])
		}
	}
	names = make(map[string]promise)
	for name := range known {
		names[name] = promise{state[name]}
	}
	for _, seq := range slices.Sorted(maps.Keys(running)) {
		c := running[seq]
		under = append(under, strings.TrimSpace(c.what+" "+c.name))
		if c.name != "" && !slices.Contains(names[c.name], c.content) {
			names[c.name] = append(names[c.name], c.content)
		}
	}
	return names, under, nil
}

// compare says in what the machine after the cut differs from what was promised, and
// which contents its images have.
func compare(names map[string]promise, found map[string]string) (images map[string]string, wrong []string) {
	images = make(map[string]string)
	hashes := make(map[string]string)
	for _, p := range names {
		for _, content := range p {
			if content != "" {
				hashes[sum(tree(content))] = content
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		hash, listed := found[name]
		content := hashes[hash]
		switch {
		case listed && content == "":
			wrong = append(wrong, fmt.Sprintf("image %s is listed, but it holds no known tree (%.300s); wanted %v", name, hash, names[name]))
		case !slices.Contains(names[name], content):
			wrong = append(wrong, fmt.Sprintf("image %s: it is %v, wanted %v", name, promise{content}, names[name]))
		case listed:
			images[name] = content
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if _, known := names[name]; !known {
			wrong = append(wrong, fmt.Sprintf("image %s is listed, but no command had begun to make it", name))
		}
	}
	return images, wrong
}
