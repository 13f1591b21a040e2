package layer

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// The names of image-spec's layer.md: an empty file .wh.NAME takes NAME of the layers
// below away, .wh..wh..opq all that they have in its directory. What else begins with
// .wh..wh. is aufs's own bookkeeping.
const (
	whiteoutPrefix = ".wh."
	opaqueMark     = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// maxDepth of what is removed or compared: each level is an open descriptor.
const maxDepth = 2000

// whiteout does what a whiteout says. It is about lower layers only, wherever in the
// archive it stands: what this layer has brought stays.
func (t *tree) whiteout(p string) (done bool, err error) {
	if !strings.Contains(p, whiteoutPrefix) {
		return false, nil
	}
	parent, base := path.Split(p)
	for part := range strings.SplitSeq(parent, "/") {
		if strings.HasPrefix(part, aufsPrefix) {
			return true, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return true, fmt.Errorf("is below the whiteout %q", part)
		}
	}
	name, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok {
		return false, nil
	}
	switch {
	case base == opaqueMark:
		name = ""
	case strings.HasPrefix(base, aufsPrefix):
		return true, nil
	case name == "" || name == "." || name == "..":
		return true, errors.New("a whiteout that names no file")
	}
	parent = path.Clean(parent)
	if t.at.fd < 0 || t.at.path != parent {
		t.at.close()
		fd, err := t.open(parent, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return true, nil // there is nothing to take away
		}
		if err != nil {
			return true, err
		}
		if t.at, err = t.look(fd, parent); err != nil {
			return true, err
		}
	}
	if name != "" {
		return true, t.remove(t.at, name, path.Join(parent, name), 0, false)
	}
	names, err := list(t.at.fd)
	for _, name := range names {
		if err == nil {
			err = t.remove(t.at, name, path.Join(parent, name), 0, false)
		}
	}
	return true, err
}

// remove takes away what is at name, and all below it; but not what this layer has
// brought, if not all. It goes from descriptor to descriptor, never through a link and
// never onto another mount.
func (t *tree) remove(in dir, name, p string, depth int, all bool) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	_, ours := t.mine[place{in.ino, name}]
	ours = ours && !all
	if all {
		delete(t.mine, place{in.ino, name})
	}
	if !ours {
		err := unix.Unlinkat(in.fd, name, 0)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EISDIR) {
			return fmt.Errorf("remove %q: %w", p, err)
		}
	}
	if depth == maxDepth {
		return fmt.Errorf("remove %q: deeper than %d directories", p, maxDepth)
	}
	fd, err := t.openat2(in.fd, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOENT) {
		return nil // a file of ours
	}
	if err != nil {
		return fmt.Errorf("remove %q: %w", p, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	var names []string
	if err == nil {
		names, err = list(fd)
	}
	below := dir{fd: fd, path: p, ino: st.Ino}
	for _, name := range names {
		if err == nil {
			err = t.remove(below, name, path.Join(p, name), depth+1, all)
		}
	}
	below.close()
	if err != nil {
		return err
	}
	if !ours {
		err := unix.Unlinkat(in.fd, name, unix.AT_REMOVEDIR)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.ENOTEMPTY) || all {
			return fmt.Errorf("remove %q: %w", p, err)
		}
	}
	t.touch(p, &st) // it stays, with something of ours in it
	return nil
}
