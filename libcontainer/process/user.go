package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Where a container keeps its users.
const (
	passwdFile = "/etc/passwd"
	groupFile  = "/etc/group"
)

// lookup makes ids of User.Name, by the container's own files and Docker's rules: a
// number is an id whether or not anybody has it; who names no group has the one in
// passwd and those of the group file. The primary group is among the additional ones: a
// mode that shuts it out must not be opened by leaving it (CVE-2022-36109).
func (c *Config) lookup(passwd, group string) error {
	word := c.User.Name
	if word == "" {
		return nil
	}
	name, groupName, hasGroup := strings.Cut(word, ":")
	if name == "" || hasGroup && (groupName == "" || strings.Contains(groupName, ":")) {
		return fmt.Errorf("%q is not USER or USER:GROUP", word)
	}
	who, err := findUser(name, passwd)
	if err != nil {
		return err
	}
	u := &c.User
	u.UID, u.GID, c.home = who.uid, who.gid, who.home
	groups, err := []uint32(nil), error(nil)
	if hasGroup {
		u.GID, err = findGroup(groupName, group)
	} else if who.name != "" {
		groups, err = groupsOf(who.name, group)
	}
	if err != nil {
		return err
	}
	all := []uint32{u.GID}
	for _, g := range append(groups, u.AdditionalGIDs...) {
		if !slices.Contains(all, g) {
			all = append(all, g)
		}
	}
	u.AdditionalGIDs, u.Name = all, ""
	return nil
}

// account is a line of passwd.
type account struct {
	name, home string
	uid, gid   uint32
}

func findUser(word, passwd string) (account, error) {
	id, numeric, err := number(word)
	if err != nil {
		return account{}, fmt.Errorf("user %q: %w", word, err)
	}
	found := account{uid: id}
	got, err := scan(passwd, 6, func(f []string) bool {
		uid, uidOK := digits(f[2])
		gid, gidOK := digits(f[3])
		if !uidOK || !gidOK || numeric && uid != id || !numeric && f[0] != word {
			return false
		}
		found = account{f[0], f[5], uid, gid}
		return true
	})
	if got || numeric {
		return found, nil
	}
	if err == nil {
		err = errors.New("there is no such user")
	}
	return account{}, fmt.Errorf("user %q: the container's %s: %w (give a number, or a name that it has)", word, passwd, err)
}

func findGroup(word, group string) (uint32, error) {
	id, numeric, err := number(word)
	if err != nil {
		return 0, fmt.Errorf("group %q: %w", word, err)
	}
	if numeric {
		return id, nil
	}
	got, err := scan(group, 3, func(f []string) bool {
		gid, ok := digits(f[2])
		if ok && f[0] == word {
			id = gid
			return true
		}
		return false
	})
	if got {
		return id, nil
	}
	if err == nil {
		err = errors.New("there is no such group")
	}
	return 0, fmt.Errorf("group %q: the container's %s: %w (give a number, or a name that it has)", word, group, err)
}

// groupsOf are the groups that list the user. A container without a group file has none.
func groupsOf(user, group string) (list []uint32, err error) {
	_, err = scan(group, 4, func(f []string) bool {
		gid, ok := digits(f[2])
		if ok && slices.Contains(strings.Split(f[3], ","), user) {
			list = append(list, gid)
		}
		return false
	})
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("groups of user %q: %w", user, err)
	}
	return list, nil
}

// number: what looks like a number is one, and no name. Anything else has been a way to
// root (CVE-2016-3697, CVE-2024-40635).
func number(word string) (id uint32, numeric bool, err error) {
	if strings.Trim(word, "+-0123456789") != "" {
		return 0, false, nil
	}
	id, ok := digits(word)
	if !ok {
		return 0, true, errors.New("an id is a number from 0 to 4294967294")
	}
	return id, true, nil
}

func digits(word string) (uint32, bool) {
	n, err := strconv.ParseUint(word, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}

// passwdLimit is far beyond any real file; images are strangers.
const passwdLimit = 1 << 20

// scan gives the fields of each line that has so many, until match is content. What is
// not a plain file, or leads out of the container's tree through /proc (RESOLVE_NO_MAGICLINKS
// in openat2(2)), is not read: neither a FIFO nor a terminal may make us wait or become ours.
func scan(path string, fields int, match func(fields []string) bool) (bool, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &how)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, errors.New("not a regular file")
	}
	// As much as it says that it has: the kernel's own files say nothing, and a link to
	// /proc/kmsg would have us wait for the host's messages, and take them from it.
	data := make([]byte, min(st.Size, passwdLimit+1))
	n, err := readFull(fd, data)
	if err != nil {
		return false, err
	}
	data = data[:n]
	whole := data
	if len(data) > passwdLimit { // half a line may say something else
		whole = data[:bytes.LastIndexByte(data, '\n')+1]
	}
	for line := range bytes.Lines(whole) {
		if list := strings.Split(strings.TrimRight(string(line), "\r\n"), ":"); len(list) >= fields && match(list) {
			return true, nil
		}
	}
	if len(data) > passwdLimit {
		return false, fmt.Errorf("longer than %d bytes", passwdLimit)
	}
	return false, nil
}

// readFull reads until buf is full or the file ends. Not by an os.File: one that does not
// block has Go start its poller, which is more work than the reading.
func readFull(fd int, buf []byte) (n int, err error) {
	for n < len(buf) {
		more, err := unix.Read(fd, buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || more == 0 {
			return n, err
		}
		n += more
	}
	return n, nil
}

// homeOf is where the user's line of passwd says, or "/": a container without passwd is
// usual, and whatever else is found in its place counts as none.
func homeOf(uid uint32, passwd string) string {
	home := ""
	_, _ = scan(passwd, 6, func(f []string) bool {
		id, ok := digits(f[2])
		if ok && id == uid {
			home = f[5]
		}
		return ok && id == uid
	})
	return homeOr(home)
}

func homeOr(home string) string {
	if !strings.HasPrefix(home, "/") || strings.IndexByte(home, 0) >= 0 {
		return "/"
	}
	return home
}
