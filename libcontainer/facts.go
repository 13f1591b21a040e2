package libcontainer

import (
	"fmt"
	"os"
	"strings"

	"thinrun/libcontainer/cgroup"
	"thinrun/libcontainer/plan"
	"thinrun/nsenter"
	"thinrun/rootfs"

	"golang.org/x/sys/unix"
)

// facts are the host's part of the plan. What costs a look is a function, called only
// when the config makes it matter.
func facts(host cgroup.Host) plan.Facts {
	f := plan.Facts{
		CgroupV2: host.V2, OwnCgroup: host.Own, EUID: os.Geteuid(), Cgroup1Paths: map[string]string{},
		StatSource: isDir, HostNetwork: isOurNetwork, ProcFS: isProcFS, UserNSMappings: userNSMappings,
	}
	// user_namespaces(7): the first user namespace maps everything onto itself.
	if uidMap, err := os.ReadFile("/proc/self/uid_map"); err == nil {
		f.InUserNS = strings.Join(strings.Fields(string(uidMap)), " ") != "0 0 4294967295"
	}
	if f.InUserNS {
		word, err := os.ReadFile("/proc/self/setgroups")
		f.SetgroupsDenied = err == nil && strings.TrimSpace(string(word)) == "deny"
	}
	for _, h := range host.Hierarchies {
		c := rootfs.Cgroup1{Name: h.Name, Options: h.Name, File: -1}
		if name, ok := strings.CutPrefix(h.Name, "name="); ok {
			c.Name, c.Options = name, "none,"+h.Name
		}
		if list := h.Controllers(); len(list) > 1 {
			c.Links = list
		}
		f.Cgroup1 = append(f.Cgroup1, c)
		f.Cgroup1Paths[c.Name] = h.Mount
	}
	return f
}

func isDir(path string) (bool, error) {
	st, err := os.Stat(path)
	return err == nil && st.IsDir(), err
}

func isOurNetwork(path string) (bool, error) {
	var ours, theirs unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &ours); err != nil {
		return false, os.NewSyscallError("stat /proc/self/ns/net", err)
	}
	if err := unix.Stat(path, &theirs); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return ours.Dev == theirs.Dev && ours.Ino == theirs.Ino, nil
}

// isProcFS: a directory of a procfs is only its root when it has procfs's first inode.
func isProcFS(path string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	const rootInode = 1 // PROC_ROOT_INO in the kernel's proc/root.c
	return fs.Type == unix.PROC_SUPER_MAGIC && st.Ino == rootInode, nil
}

// userNSMappings reads the maps of a user namespace that is named through a process in
// it. A bind-mounted namespace file names none.
func userNSMappings(path string) (uid, gid []nsenter.Mapping, err error) {
	dir, ok := strings.CutSuffix(path, "/ns/user")
	if !ok || !strings.HasPrefix(dir, "/proc/") {
		return nil, nil, fmt.Errorf("%s is not /proc/PID/ns/user, so its mappings cannot be read; give linux.uidMappings and linux.gidMappings", path)
	}
	if uid, err = readMap(dir + "/uid_map"); err == nil {
		gid, err = readMap(dir + "/gid_map")
	}
	return uid, gid, err
}

func readMap(file string) (list []nsenter.Mapping, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		var m nsenter.Mapping
		if _, err := fmt.Sscan(line, &m.ContainerID, &m.HostID, &m.Size); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", file, line, err)
		}
		list = append(list, m)
	}
	return list, nil
}
