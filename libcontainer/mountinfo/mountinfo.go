// Package mountinfo reads the text of /proc/self/mountinfo. Where it comes from is the
// caller's business: rootfs may not walk a path that the container has a say in.
package mountinfo

import "strings"

// Mount is a line's share that anybody asks for.
type Mount struct {
	Point   string
	Type    string // of the file system
	Options string // of the file system, not of the mount
}

// Parse reads proc_pid_mountinfo(5), in the order of mounting: optional fields end at a
// lone "-". A line of another form is passed over.
func Parse(text string) []Mount {
	list := make([]Mount, 0, strings.Count(text, "\n"))
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fields := strings.Fields(before)
		if !ok || len(fields) < 5 {
			continue
		}
		kind, rest, _ := strings.Cut(after, " ")
		_, options, _ := strings.Cut(rest, " ") // the source between them may be empty
		list = append(list, Mount{unescape(fields[4]), kind, options})
	}
	return list
}

// unescape undoes the octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
