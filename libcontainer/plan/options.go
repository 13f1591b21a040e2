package plan

import (
	"slices"
	"strings"

	"thinrun/libcontainer/bundle"
	"thinrun/nsenter"

	"golang.org/x/sys/unix"
)

// The words of mounts[].options.

// word is a mount option that is a flag: of mount(2), and for the recursive ones of
// mount_setattr(2). clear means that it takes the flag away.
type word struct {
	name  string
	clear bool
	flag  uint64
}

// "acl" is not here: it is data of some file systems, and MS_POSIXACL cannot be set.
var mountWords = [...]word{
	{"async", true, unix.MS_SYNCHRONOUS},
	{"atime", true, unix.MS_NOATIME},
	{"bind", false, unix.MS_BIND},
	{"defaults", false, 0},
	{"dev", true, unix.MS_NODEV},
	{"diratime", true, unix.MS_NODIRATIME},
	{"dirsync", false, unix.MS_DIRSYNC},
	{"exec", true, unix.MS_NOEXEC},
	{"iversion", false, unix.MS_I_VERSION},
	{"lazytime", false, unix.MS_LAZYTIME},
	{"loud", true, unix.MS_SILENT},
	{"mand", false, unix.MS_MANDLOCK},
	{"noatime", false, unix.MS_NOATIME},
	{"nodev", false, unix.MS_NODEV},
	{"nodiratime", false, unix.MS_NODIRATIME},
	{"noexec", false, unix.MS_NOEXEC},
	{"noiversion", true, unix.MS_I_VERSION},
	{"nolazytime", true, unix.MS_LAZYTIME},
	{"nomand", true, unix.MS_MANDLOCK},
	{"norelatime", true, unix.MS_RELATIME},
	{"nostrictatime", true, unix.MS_STRICTATIME},
	{"nosuid", false, unix.MS_NOSUID},
	{"nosymfollow", false, unix.MS_NOSYMFOLLOW},
	{"rbind", false, unix.MS_BIND | unix.MS_REC},
	{"relatime", false, unix.MS_RELATIME},
	{"remount", false, unix.MS_REMOUNT},
	{"ro", false, unix.MS_RDONLY},
	{"rw", true, unix.MS_RDONLY},
	{"silent", false, unix.MS_SILENT},
	{"strictatime", false, unix.MS_STRICTATIME},
	{"suid", true, unix.MS_NOSUID},
	{"symfollow", true, unix.MS_NOSYMFOLLOW},
	{"sync", false, unix.MS_SYNCHRONOUS},
}

var recursiveWords = [...]word{
	{"ratime", true, unix.MOUNT_ATTR_NOATIME},
	{"rdev", true, unix.MOUNT_ATTR_NODEV},
	{"rdiratime", true, unix.MOUNT_ATTR_NODIRATIME},
	{"rexec", true, unix.MOUNT_ATTR_NOEXEC},
	{"rnoatime", false, unix.MOUNT_ATTR_NOATIME},
	{"rnodev", false, unix.MOUNT_ATTR_NODEV},
	{"rnodiratime", false, unix.MOUNT_ATTR_NODIRATIME},
	{"rnoexec", false, unix.MOUNT_ATTR_NOEXEC},
	{"rnorelatime", true, unix.MOUNT_ATTR_RELATIME},
	{"rnostrictatime", true, unix.MOUNT_ATTR_STRICTATIME},
	{"rnosuid", false, unix.MOUNT_ATTR_NOSUID},
	{"rnosymfollow", false, unix.MOUNT_ATTR_NOSYMFOLLOW},
	{"rrelatime", false, unix.MOUNT_ATTR_RELATIME},
	{"rro", false, unix.MOUNT_ATTR_RDONLY},
	{"rrw", true, unix.MOUNT_ATTR_RDONLY},
	{"rstrictatime", false, unix.MOUNT_ATTR_STRICTATIME},
	{"rsuid", true, unix.MOUNT_ATTR_NOSUID},
	{"rsymfollow", true, unix.MOUNT_ATTR_NOSYMFOLLOW},
}

var propagationWords = [...]word{
	{"private", false, unix.MS_PRIVATE},
	{"rprivate", false, unix.MS_PRIVATE | unix.MS_REC},
	{"rshared", false, unix.MS_SHARED | unix.MS_REC},
	{"rslave", false, unix.MS_SLAVE | unix.MS_REC},
	{"runbindable", false, unix.MS_UNBINDABLE | unix.MS_REC},
	{"shared", false, unix.MS_SHARED},
	{"slave", false, unix.MS_SLAVE},
	{"unbindable", false, unix.MS_UNBINDABLE},
}

// otherWords are neither: they change how the mount is made.
var otherWords = [...]string{"copy-symlink", "dest-nofollow", "idmap", "ridmap", "src-nofollow", "tmpcopyup"}

// MountOptions lists every word that is understood, sorted; for features.
func MountOptions() []string {
	var out []string
	for _, table := range [][]word{mountWords[:], recursiveWords[:], propagationWords[:]} {
		for _, w := range table {
			out = append(out, w.name)
		}
	}
	out = append(out, otherWords[:]...)
	slices.Sort(out)
	return out
}

func lookup(table []word, name string) (word, bool) {
	for _, w := range table {
		if w.name == name {
			return w, true
		}
	}
	return word{}, false
}

func propagation(name string) (uint64, bool) {
	w, ok := lookup(propagationWords[:], name)
	return w.flag, ok
}

// options is a mount's list of words, taken apart.
type options struct {
	flags, cleared   uint64 // MS_*
	recSet, recClear uint64 // MOUNT_ATTR_*
	propagation      []uint64
	data             []string // the file system's own
	dataAt           []int    // where in the list each came from
	tmpCopyUp        bool
	tmpCopyUpAt      int
	idMap, idMapRec  bool
	idMapText        string // crun's idmap=uids=...
	idMapAt          int
	srcNoFollow      bool
	destNoFollow     bool
	copySymlink      bool
}

func parseOptions(words []string) options {
	var o options
	for i, name := range words {
		if w, ok := lookup(mountWords[:], name); ok {
			if w.clear {
				o.flags &^= w.flag
				o.cleared |= w.flag
			} else {
				o.flags |= w.flag
				o.cleared &^= w.flag
			}
			continue
		}
		if flag, ok := propagation(name); ok {
			o.propagation = append(o.propagation, flag)
			continue
		}
		if w, ok := lookup(recursiveWords[:], name); ok {
			o.recursive(w)
			continue
		}
		switch {
		case name == "tmpcopyup":
			o.tmpCopyUp, o.tmpCopyUpAt = true, i
		case name == "idmap", name == "ridmap":
			o.idMap, o.idMapRec, o.idMapAt = true, name == "ridmap", i
		case strings.HasPrefix(name, "idmap="), strings.HasPrefix(name, "ridmap="):
			o.idMap, o.idMapRec, o.idMapAt = true, name[0] == 'r', i
			_, o.idMapText, _ = strings.Cut(name, "=")
		case name == "src-nofollow":
			o.srcNoFollow = true
		case name == "dest-nofollow":
			o.destNoFollow = true
		case name == "copy-symlink":
			o.copySymlink = true
		case name == "":
		default:
			for _, part := range splitData(name) {
				o.data, o.dataAt = append(o.data, part), append(o.dataAt, i)
			}
		}
	}
	return o
}

// recursive applies one of rro and friends; a later word undoes an earlier one. The
// access time is a field of three values, not a flag: mount_setattr(2) wants all its
// bits cleared when it is set.
func (o *options) recursive(w word) {
	if w.flag&^unix.MOUNT_ATTR__ATIME == 0 {
		o.recClear |= unix.MOUNT_ATTR__ATIME
		o.recSet &^= unix.MOUNT_ATTR__ATIME
		if !w.clear { // a word that clears leaves relatime, which is 0
			o.recSet |= w.flag
		}
		return
	}
	if w.clear {
		o.recClear |= w.flag
		o.recSet &^= w.flag
	} else {
		o.recSet |= w.flag
		o.recClear &^= w.flag
	}
}

// splitData takes one option apart at its commas, as the kernel does with mount(2)'s
// string: not behind a backslash (overlayfs has such paths), not in quotes (SELinux
// contexts), which fsconfig(2) does not want to see.
func splitData(s string) []string {
	if !strings.ContainsAny(s, `,"`) {
		return []string{s}
	}
	var out []string
	var part strings.Builder
	quoted := false
	flush := func() {
		if part.Len() > 0 {
			out = append(out, part.String())
			part.Reset()
		}
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			part.WriteByte(c)
			i++
			part.WriteByte(s[i])
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			flush()
		default:
			part.WriteByte(c)
		}
	}
	flush()
	return out
}

const atimeFlags = unix.MS_NOATIME | unix.MS_STRICTATIME | unix.MS_RELATIME

// attributes are the flags of the mount itself: MS_* as MOUNT_ATTR_*.
func attributes(flags uint64) uint64 {
	var attr uint64
	for _, pair := range [...]struct{ ms, attr uint64 }{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_NOSYMFOLLOW, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if flags&pair.ms != 0 {
			attr |= pair.attr
		}
	}
	// Which of them counts is path_mount's rule in fs/namespace.c.
	switch {
	case flags&unix.MS_STRICTATIME != 0:
		attr |= unix.MOUNT_ATTR_STRICTATIME
	case flags&unix.MS_NOATIME != 0:
		attr |= unix.MOUNT_ATTR_NOATIME
	}
	return attr
}

// superFlags are the flags of the file system instance.
func superFlags(flags uint64) uint64 {
	return flags & (unix.MS_RDONLY | unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_MANDLOCK |
		unix.MS_LAZYTIME | unix.MS_I_VERSION | unix.MS_SILENT)
}

// changes are what a bind sets and clears on the clone. Whatever no word names stays as
// the source has it: a nosuid of the host is not lost by the way, as it would be with a
// remount.
func changes(o options) (set, clear uint64) {
	set = attributes(o.flags)
	clear = attributes(o.cleared &^ atimeFlags)
	if (o.flags|o.cleared)&atimeFlags != 0 {
		clear |= unix.MOUNT_ATTR__ATIME
	}
	return set, clear
}

// inlineIDMap reads crun's form: uids=0-100000-65536#...;gids=... Each triple is the
// first id on the file system, the first id it becomes, and the count; with @ the second
// is an id of the container's user namespace.
func inlineIDMap(text string, uidMap, gidMap []nsenter.Mapping) (uid, gid []nsenter.Mapping, ok bool) {
	for part := range strings.SplitSeq(text, ";") {
		kind, list, _ := strings.Cut(part, "=")
		var err bool
		switch kind {
		case "uids":
			uid, err = triples(list, uidMap)
		case "gids":
			gid, err = triples(list, gidMap)
		default:
			return nil, nil, false
		}
		if err {
			return nil, nil, false
		}
	}
	return uid, gid, uid != nil && gid != nil
}

func triples(list string, container []nsenter.Mapping) (out []nsenter.Mapping, bad bool) {
	for part := range strings.SplitSeq(list, "#") {
		part, relative := strings.CutPrefix(part, "@")
		var n [3]uint32
		fields := strings.Split(part, "-")
		if len(fields) != len(n) {
			return nil, true
		}
		for i, f := range fields {
			id, _, hasGID, err := bundle.ParseUser(f) // the one strict reader of ids
			if err != nil || hasGID {
				return nil, true
			}
			n[i] = id
		}
		m := nsenter.Mapping{ContainerID: n[0], HostID: n[1], Size: n[2]}
		if m.Size == 0 {
			return nil, true
		}
		if relative {
			first, ok := hostID(container, m.HostID)
			last, ok2 := hostID(container, m.HostID+m.Size-1)
			if !ok || !ok2 || last-first != m.Size-1 {
				return nil, true
			}
			m.HostID = first
		}
		out = append(out, m)
	}
	return out, false
}
