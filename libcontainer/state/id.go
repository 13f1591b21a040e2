package state

import "fmt"

// MaxID is the longest id. DESIGN allows 1024 bytes, the kernel does not: the id is the
// name of a directory here and of a cgroup, and a file name ends at NAME_MAX. A hashed
// directory name would work, but then a claimed id without a record has no name at all.
const MaxID = 255

// CheckID says whether id may become part of a path: [A-Za-z0-9_+-][A-Za-z0-9_+.-]*.
// So it is no "." or "..", has no slash, and no name that begins with a dot is an id.
// crun 1.8 without such a check made "delete --force /" remove the host's files.
func CheckID(id string) error {
	if id == "" {
		return fmt.Errorf("container id is empty")
	}
	if len(id) > MaxID {
		return fmt.Errorf("container id %q... is %d bytes long; the limit is %d, the longest file name", id[:32], len(id), MaxID)
	}
	for i := 0; i < len(id); i++ {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '+', c == '-':
		case c == '.' && i > 0:
		default:
			return fmt.Errorf("container id %q is invalid: %q at %d (letters, digits and _ + - . are allowed, no dot at the start)", id, c, i)
		}
	}
	return nil
}
