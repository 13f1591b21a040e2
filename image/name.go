package image

import (
	"fmt"
	"strings"
)

// maxName leaves room for ".json" in a file name of 255 bytes.
const maxName = 250

// ParseName checks an image's name and completes it: "debian" is "debian:latest".
//
// The grammar is Docker's, without digests: [HOST[:PORT]/]PATH[:TAG], where PATH is
// lower-case words joined by one '.', one or two '_' or any number of '-', in parts
// joined by '/'. It leaves no room for "..", an empty part or a control character, so
// a name that passes can be made into a file name (fileName).
func ParseName(name string) (string, error) {
	bad := func(why string) (string, error) {
		return "", fmt.Errorf("image name %q: %s; want NAME[:TAG], for example debian:12", shorten(name), why)
	}
	if name == "" {
		return bad("empty")
	}
	if len(name) > maxName {
		return bad(fmt.Sprintf("longer than %d bytes", maxName))
	}
	path, tag, tagged := name, "latest", false
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		path, tag, tagged = name[:i], name[i+1:], true
	}
	if tagged && !isTag(tag) {
		return bad(fmt.Sprintf("tag %q: a tag is letters, digits, '_', '.' and '-', at most 128, and starts with neither '.' nor '-'", shorten(tag)))
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		if i == 0 && len(parts) > 1 && isHost(part) {
			continue
		}
		if !isPathPart(part) {
			return bad(fmt.Sprintf("%q: a part is lower-case letters and digits, joined by '.', '_', '__' or '-'", shorten(part)))
		}
	}
	if full := path + ":" + tag; len(full) <= maxName {
		return full, nil
	}
	return bad(fmt.Sprintf("longer than %d bytes", maxName))
}

func shorten(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

func isLower(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

func isWord(c byte) bool { return isLower(c) || 'A' <= c && c <= 'Z' }

func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !isWord(s[i]) && s[i] != '_' && s[i] != '.' && s[i] != '-' {
			return false
		}
	}
	return true
}

// isHost: a first part is a registry's host if it could not be a path, as Docker
// decides it: it has a '.' or a port, or is localhost, or has capitals.
func isHost(s string) bool {
	host, port, hasPort := strings.Cut(s, ":")
	if hasPort && (port == "" || strings.Trim(port, "0123456789") != "") {
		return false
	}
	if !hasPort && !strings.ContainsRune(host, '.') && host != "localhost" && host == strings.ToLower(host) {
		return false
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || !isWord(label[0]) || !isWord(label[len(label)-1]) {
			return false
		}
		for i := range len(label) {
			if !isWord(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}

func isPathPart(s string) bool {
	if s == "" || !isLower(s[0]) || !isLower(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isLower(s[i]) {
			i++
			continue
		}
		run := i
		for i < len(s) && !isLower(s[i]) {
			i++
		}
		switch sep := s[run:i]; {
		case sep == ".", sep == "_", sep == "__", strings.Trim(sep, "-") == "":
		default:
			return false
		}
	}
	return true
}

// fileName is the record's file; '+' is in no name, so both ways are exact.
func fileName(name string) string { return strings.ReplaceAll(name, "/", "+") + ".json" }
