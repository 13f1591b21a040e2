package bundle

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestRefusals: a valid config with one thing wrong, and the line that says so.
func TestRefusals(t *testing.T) {
	proc := func(fields string) string {
		return `{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"],` + fields + `},"linux":{"namespaces":[{"type":"mount"}]}}`
	}
	top := func(fields string) string {
		return `{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"]},"linux":{"namespaces":[{"type":"mount"}]},` + fields + `}`
	}
	lin := func(fields string) string {
		return `{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"],"user":{"uid":0,"gid":0}},"linux":{"namespaces":[{"type":"mount"}],` + fields + `}}`
	}
	all := func(fields string) string {
		return strings.Replace(lin(fields), `{"type":"mount"}`, `{"type":"mount"},{"type":"user"},{"type":"ipc"},{"type":"network"},{"type":"uts"},{"type":"time"}`, 1)
	}
	maps := `"uidMappings":[{"containerID":0,"hostID":1,"size":9}],"gidMappings":[{"containerID":0,"hostID":1,"size":9}]`
	res := func(fields string) string { return lin(`"resources":{` + fields + `}`) }
	mnt := func(m string) string { return top(`"mounts":[{"destination":"/a","type":"tmpfs"},` + m + `]`) }
	for _, c := range []struct{ text, want string }{
		{`{}`, `ociVersion: is missing (the runtime-spec's version, "1.3.0" for one)`},
		{`{"ociVersion":"1"}`, `ociVersion: "1" is not a version (major.minor.patch)`},
		{`{"ociVersion":"1.02.0"}`, `ociVersion: "1.02.0" is not a version (major.minor.patch)`},
		{`{"ociVersion":"2.0.0"}`, `ociVersion: "2.0.0" is not supported; thinrun knows 1.0.0 to 1.3.0`},
		{`{"ociVersion":"0.2.0"}`, `ociVersion: "0.2.0" is not supported; thinrun knows 1.0.0 to 1.3.0`},
		{`{"ociVersion":"1.3.0"}`, `process: is missing`},
		{`{"ociVersion":"1.3.0","process":{"cwd":"/","args":["a"]}}`, `linux: is missing (a container needs its own mount namespace at least; see linux.namespaces)`},
		{top(`"vm":{"kernel":{"path":"/k"}}`), `vm: asks for a virtual machine; thinrun makes containers only`},
		{top(`"annotations":{"":"x"}`), `annotations: has an empty key`},

		{proc(`"args":[]`), `process.args: is given twice`},
		{strings.Replace(proc(`"terminal":false`), `["true"]`, `[]`, 1), `process.args: is missing or empty`},
		{strings.Replace(proc(`"terminal":false`), `"cwd":"/"`, `"cwd":"srv"`, 1), `process.cwd: "srv" is not absolute`},
		{strings.Replace(proc(`"terminal":false`), `"cwd":"/"`, `"cwd":""`, 1), `process.cwd: is missing or empty`},
		{proc(`"env":["A=b","C"]`), `process.env[1]: "C" is not of the form NAME=value`},
		{proc(`"env":["=b"]`), `process.env[0]: "=b" is not of the form NAME=value`},
		{proc(`"terminal":true,"consoleSize":{"height":65536,"width":1}`), `process.consoleSize: is larger than 65535 characters`},
		{proc(`"user":{"uid":4294967295,"gid":0}`), `process.user.uid: 4294967295 is no id (it is -1 to the kernel)`},
		{proc(`"user":{"uid":0,"gid":4294967295}`), `process.user.gid: 4294967295 is no id (it is -1 to the kernel)`},
		{proc(`"user":{"uid":0,"gid":0,"additionalGids":[1,4294967295]}`), `process.user.additionalGids[1]: 4294967295 is no id (it is -1 to the kernel)`},
		{proc(`"user":{"uid":0,"gid":0,"umask":512}`), `process.user.umask: 512 is more than 511 (octal 777)`},
		{proc(`"capabilities":{"effective":["CAP_KILL","CAP_FLY"]}`), `process.capabilities.effective[1]: "CAP_FLY" is not a capability (see capabilities(7))`},
		{proc(`"capabilities":{"ambient":["cap_kill"]}`), `process.capabilities.ambient[0]: "cap_kill" is not a capability (see capabilities(7))`},
		{proc(`"rlimits":[{"type":"RLIMIT_FOO","hard":1,"soft":1}]`), `process.rlimits[0].type: "RLIMIT_FOO" is not a resource limit (see getrlimit(2))`},
		{proc(`"rlimits":[{"type":"RLIMIT_AS","hard":1,"soft":1},{"type":"RLIMIT_AS","hard":1,"soft":1}]`), `process.rlimits[1].type: "RLIMIT_AS" is given twice`},
		{proc(`"rlimits":[{"type":"RLIMIT_AS","hard":1,"soft":2}]`), `process.rlimits[0]: soft limit 2 is above hard limit 1`},
		{proc(`"oomScoreAdj":1001`), `process.oomScoreAdj: 1001 is not between -1000 and 1000`},
		{proc(`"scheduler":{}`), `process.scheduler.policy: is missing`},
		{proc(`"scheduler":{"policy":"SCHED_ISO"}`), `process.scheduler.policy: "SCHED_ISO" is reserved, not implemented by Linux (see sched(7))`},
		{proc(`"scheduler":{"policy":"X"}`), `process.scheduler.policy: "X" is not a scheduling policy (see sched(7))`},
		{proc(`"scheduler":{"policy":"SCHED_OTHER","flags":["X"]}`), `process.scheduler.flags[0]: "X" is not a scheduler flag (see sched_setattr(2))`},
		{proc(`"scheduler":{"policy":"SCHED_OTHER","nice":20}`), `process.scheduler.nice: 20 is not between -20 and 19`},
		{proc(`"scheduler":{"policy":"SCHED_OTHER","priority":1}`), `process.scheduler.priority: only SCHED_FIFO and SCHED_RR have a priority`},
		{proc(`"scheduler":{"policy":"SCHED_RR","priority":100}`), `process.scheduler.priority: 100 is not between 1 and 99`},
		{proc(`"scheduler":{"policy":"SCHED_RR","priority":1,"runtime":1}`), `process.scheduler: runtime, deadline and period belong to SCHED_DEADLINE`},
		{proc(`"scheduler":{"policy":"SCHED_DEADLINE","runtime":3,"deadline":2,"period":4}`), `process.scheduler: SCHED_DEADLINE wants 0 < runtime <= deadline <= period (see sched(7))`},
		{proc(`"ioPriority":{"class":"X","priority":0}`), `process.ioPriority.class: "X" is not an I/O priority class (IOPRIO_CLASS_RT, _BE, _IDLE)`},
		{proc(`"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":8}`), `process.ioPriority.priority: 8 is not between 0 and 7`},
		{proc(`"execCPUAffinity":{"initial":"3-1"}`), `process.execCPUAffinity.initial: "3-1" is not a list of numbers and ranges ("0-3,7")`},
		{proc(`"execCPUAffinity":{"final":"1,,2"}`), `process.execCPUAffinity.final: "1,,2" is not a list of numbers and ranges ("0-3,7")`},

		{mnt(`{"type":"tmpfs"}`), `mounts[1].destination: is missing`},
		{mnt(`{"destination":"/b"}`), `mounts[1].type: is missing (a bind mount has the option bind or rbind)`},
		{mnt(`{"destination":"/b","options":["rbind"]}`), `mounts[1].source: is missing; a bind mount needs one`},
		{mnt(`{"destination":"/proc","type":"tmpfs"}`), `mounts[1].destination: only a mount of type "proc" or a bind of the host's /proc may be on /proc`},
		{mnt(`{"destination":"/proc/self","source":"/x","options":["bind"]}`), `mounts[1].destination: "/proc/self" is inside /proc, where only a few files may be covered (those of lxcfs)`},
		{mnt(`{"destination":"/x/../proc/sys/kernel","type":"tmpfs"}`), `mounts[1].destination: "/x/../proc/sys/kernel" is inside /proc, where only a few files may be covered (those of lxcfs)`},
		{mnt(`{"destination":"proc/../proc/self/attr","type":"tmpfs"}`), `mounts[1].destination: "proc/../proc/self/attr" is inside /proc, where only a few files may be covered (those of lxcfs)`},
		{mnt(`{"destination":"/b","type":"tmpfs","uidMappings":[{"size":1}]}`), `mounts[1]: uidMappings and gidMappings go together`},
		{mnt(`{"destination":"/b","type":"bind","source":"/b","uidMappings":[{"size":1}],"gidMappings":[]}`), `mounts[1]: uidMappings and gidMappings go together`},
		{mnt(`{"destination":"/b","type":"tmpfs","uidMappings":[{"size":1}],"gidMappings":[{"size":1}]}`), `mounts[1].uidMappings: only bind mounts can have ids mapped`},
		{mnt(`{"destination":"/b","type":"bind","source":"/","uidMappings":[{"size":1}],"gidMappings":[{"size":0}]}`), `mounts[1].gidMappings[0].size: is missing or 0`},

		{top(`"hooks":{"poststop":[{}]}`), `hooks.poststop[0].path: is missing`},
		{top(`"hooks":{"createRuntime":[{"path":"/a"},{"path":"b"}]}`), `hooks.createRuntime[1].path: "b" is not absolute`},
		{top(`"hooks":{"prestart":[{"path":"/a","timeout":0}]}`), `hooks.prestart[0].timeout: 0 is not a number of seconds above 0`},
		{top(`"hooks":{"startContainer":[{"path":"/a","env":["x"]}]}`), `hooks.startContainer[0].env[0]: "x" is not of the form NAME=value`},

		{strings.Replace(lin(`"mountLabel":""`), `{"type":"mount"}`, ``, 1), `linux.namespaces: has no mount namespace; without one the container's mounts would be the host's`},
		{lin(`"namespaces":[]`), `linux.namespaces: is given twice`},
		{strings.Replace(lin(`"mountLabel":""`), `{"type":"mount"}`, `{"type":"mount"},{"type":"mount"}`, 1), `linux.namespaces[1].type: "mount" is given twice`},
		{strings.Replace(lin(`"mountLabel":""`), `{"type":"mount"}`, `{"type":"mnt"}`, 1), `linux.namespaces[0].type: "mnt" is not a namespace (pid, network, mount, ipc, uts, user, cgroup, time)`},
		{strings.Replace(lin(`"mountLabel":""`), `{"type":"mount"}`, `{"path":"/x"}`, 1), `linux.namespaces[0].type: is missing`},
		{strings.Replace(lin(`"mountLabel":""`), `{"type":"mount"}`, `{"type":"mount"},{"type":"pid","path":"x"}`, 1), `linux.namespaces[1].path: "x" is not absolute`},
		{top(`"hostname":"h"`), `hostname: needs a uts namespace, or it would rename the host (see linux.namespaces)`},
		{top(`"domainname":"h"`), `domainname: needs a uts namespace, or it would rename the host (see linux.namespaces)`},
		{lin(maps), `linux.uidMappings: needs a user namespace (see linux.namespaces)`},
		{all(`"gidMappings":[{"size":1}]`), `linux.uidMappings: is missing or empty; a new user namespace needs it`},
		{all(`"uidMappings":[{"size":1}]`), `linux.gidMappings: is missing or empty; a new user namespace needs it`},
		{all(`"uidMappings":[{"size":0}]`), `linux.uidMappings[0].size: is missing or 0`},
		{all(`"uidMappings":[{"hostID":4294967295,"size":1}]`), `linux.uidMappings[0]: reaches beyond id 4294967294 of the host`},
		{all(`"uidMappings":[{"containerID":4294967290,"size":6}]`), `linux.uidMappings[0]: reaches beyond id 4294967294 of the container`},
		{all(`"uidMappings":[{"containerID":0,"hostID":0,"size":9},{"containerID":8,"hostID":100,"size":1}]`), `linux.uidMappings[1]: overlaps with entry 0`},
		{all(`"uidMappings":[{"containerID":1,"hostID":1,"size":9}]`), `linux.uidMappings: does not map id 0 of the container, and its init starts as that`},
		{strings.Replace(all(maps), `"uid":0`, `"uid":9`, 1), `process.user.uid: 9 is not mapped (see linux.uidMappings)`},
		{strings.Replace(all(maps), `"gid":0`, `"gid":9`, 1), `process.user.gid: 9 is not mapped (see linux.gidMappings)`},
		{strings.Replace(all(maps), `"gid":0`, `"gid":0,"additionalGids":[8,9]`, 1), `process.user.additionalGids[1]: 9 is not mapped (see linux.gidMappings)`},
		{lin(`"timeOffsets":{"boottime":{}}`), `linux.timeOffsets: needs a time namespace (see linux.namespaces)`},
		{all(maps + `,"timeOffsets":{"realtime":{}}`), `linux.timeOffsets.realtime: only "monotonic" and "boottime" have an offset`},
		{all(maps + `,"timeOffsets":{"boottime":{"nanosecs":1000000000}}`), `linux.timeOffsets.boottime.nanosecs: is not below a second`},
		{strings.Replace(lin(`"timeOffsets":{"boottime":{}}`), `{"type":"mount"}`, `{"type":"mount"},{"type":"time","path":"/t"}`, 1), `linux.timeOffsets: the time namespace is joined, and its clocks can no longer be set`},

		{lin(`"sysctl":{"net.ipv4.ip_forward":"1"}`), `linux.sysctl["net.ipv4.ip_forward"]: would be set for the host: the container has no network namespace`},
		{lin(`"sysctl":{"kernel.shmmax":"1"}`), `linux.sysctl["kernel.shmmax"]: would be set for the host: the container has no ipc namespace`},
		{lin(`"sysctl":{"fs/mqueue/msg_max":"1"}`), `linux.sysctl["fs/mqueue/msg_max"]: would be set for the host: the container has no ipc namespace`},
		{lin(`"sysctl":{"user.max_user_namespaces":"1"}`), `linux.sysctl["user.max_user_namespaces"]: would be set for the host: the container has no user namespace`},
		{all(maps + `,"sysctl":{"kernel.hostname":"1"}`), `linux.sysctl["kernel.hostname"]: use the field hostname`},
		{all(maps + `,"sysctl":{"kernel.core_pattern":"|/x"}`), `linux.sysctl["kernel.core_pattern"]: belongs to the host, not to a namespace`},
		{all(maps + `,"sysctl":{"net":"x"}`), `linux.sysctl.net: belongs to the host, not to a namespace`},
		// CVE-2022-0811
		{all(maps + `,"sysctl":{"kernel.shm_rmid_forced":"1+kernel.core_pattern=|/x"}`), `linux.sysctl["kernel.shm_rmid_forced"]: value "1+kernel.core_pattern=|/x" holds a character that no sysctl takes`},
		{all(maps + `,"sysctl":{"kernel.shm_rmid_forced":"1\nx"}`), `linux.sysctl["kernel.shm_rmid_forced"]: value "1\nx" holds a character that no sysctl takes`},
		{all(maps + `,"sysctl":{"net.a+b":"1"}`), `linux.sysctl["net.a+b"]: is not the name of a sysctl`},
		{all(maps + `,"sysctl":{"net/../kernel/core_pattern":"1"}`), `linux.sysctl["net/../kernel/core_pattern"]: is not the name of a sysctl`},
		{all(maps + `,"sysctl":{"net.//.kernel":"1"}`), `linux.sysctl["net.//.kernel"]: is not the name of a sysctl`},
		{all(maps + `,"sysctl":{"/net/x":"1"}`), `linux.sysctl["/net/x"]: is not the name of a sysctl`},
		{all(maps + `,"sysctl":{"net.x\ny":"1"}`), `linux.sysctl["net.x\ny"]: is not the name of a sysctl`},
		{all(maps + `,"sysctl":{"":"1"}`), `linux.sysctl[""]: is not the name of a sysctl`},

		{lin(`"devices":[{"type":"c"}]`), `linux.devices[0].path: is missing`},
		{lin(`"devices":[{"path":"dev/x","type":"c"}]`), `linux.devices[0].path: "dev/x" is not absolute`},
		{lin(`"devices":[{"path":"/dev/","type":"c"}]`), `linux.devices[0].path: "/dev/" is a directory`},
		{lin(`"devices":[{"path":"/dev/x"}]`), `linux.devices[0].type: is missing`},
		{lin(`"devices":[{"path":"/dev/x","type":"d"}]`), `linux.devices[0].type: "d" is not a device (c, u, b, p)`},
		{lin(`"devices":[{"path":"/dev/x","type":"c","major":4096}]`), `linux.devices[0].major: 4096 is not between 0 and 4095`},
		{lin(`"devices":[{"path":"/dev/x","type":"b","minor":-1}]`), `linux.devices[0].minor: -1 is not between 0 and 1048575`},
		{lin(`"devices":[{"path":"/dev/x","type":"p","fileMode":4294967295}]`), `linux.devices[0].fileMode: 4294967295 is not a file mode (in decimal)`},
		{lin(`"devices":[{"path":"/dev/x","type":"p","uid":4294967295}]`), `linux.devices[0].uid: 4294967295 is no id (it is -1 to the kernel)`},
		{lin(`"devices":[{"path":"/dev/x","type":"p","gid":4294967295}]`), `linux.devices[0].gid: 4294967295 is no id (it is -1 to the kernel)`},
		{lin(`"netDevices":{"eth0":{}}`), `linux.netDevices: needs a network namespace (see linux.namespaces)`},
		{all(maps + `,"netDevices":{"../x":{}}`), `linux.netDevices["../x"]: is not the name of a network interface`},
		{all(maps + `,"netDevices":{"eth0":{"name":"aaaaaaaaaaaaaaaa"}}`), `linux.netDevices.eth0.name: "aaaaaaaaaaaaaaaa" is not the name of a network interface`},
		{all(maps + `,"netDevices":{"eth0":{"name":"eth1"},"eth1":{}}`), `linux.netDevices.eth1: gives the name "eth1" a second time`},
		{lin(`"maskedPaths":["/a","b"]`), `linux.maskedPaths[1]: "b" is not absolute`},
		{lin(`"readonlyPaths":["b"]`), `linux.readonlyPaths[0]: "b" is not absolute`},
		{lin(`"rootfsPropagation":"rw"`), `linux.rootfsPropagation: "rw" is not a propagation (private, slave, shared, unbindable, or one of these with r)`},
		{lin(`"intelRdt":{"closID":"a/b"}`), `linux.intelRdt.closID: "a/b" is not a directory's name`},
		{lin(`"intelRdt":{"closID":".."}`), `linux.intelRdt.closID: ".." is not a directory's name`},
		{lin(`"intelRdt":{"schemata":["a\nb"]}`), `linux.intelRdt.schemata[0]: "a\nb" is not one line`},
		{lin(`"intelRdt":{"l3CacheSchema":"a\nb"}`), `linux.intelRdt.l3CacheSchema: is more than one line`},
		{lin(`"intelRdt":{"memBwSchema":"a\nb"}`), `linux.intelRdt.memBwSchema: is more than one line`},
		{lin(`"memoryPolicy":{}`), `linux.memoryPolicy.mode: is missing`},
		{lin(`"memoryPolicy":{"mode":"X"}`), `linux.memoryPolicy.mode: "X" is not a memory policy (see set_mempolicy(2))`},
		{lin(`"memoryPolicy":{"mode":"MPOL_BIND"}`), `linux.memoryPolicy.nodes: is missing or empty; MPOL_BIND needs it`},
		{lin(`"memoryPolicy":{"mode":"MPOL_BIND","nodes":"x"}`), `linux.memoryPolicy.nodes: "x" is not a list of numbers and ranges ("0-3,7")`},
		{lin(`"memoryPolicy":{"mode":"MPOL_LOCAL","nodes":"0"}`), `linux.memoryPolicy.nodes: MPOL_LOCAL takes no nodes`},
		{lin(`"memoryPolicy":{"mode":"MPOL_DEFAULT","nodes":"","flags":["MPOL_F_STATIC_NODES"]}`), `linux.memoryPolicy.flags: MPOL_DEFAULT takes no flags`},
		{lin(`"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0","flags":["X"]}`), `linux.memoryPolicy.flags[0]: "X" is not a memory policy flag (see set_mempolicy(2))`},
		{lin(`"memoryPolicy":{"mode":"MPOL_PREFERRED","nodes":"","flags":["MPOL_F_STATIC_NODES"]}`), `linux.memoryPolicy.flags: MPOL_PREFERRED without nodes takes no flags`},
		{lin(`"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES","MPOL_F_RELATIVE_NODES"]}`), `linux.memoryPolicy.flags: MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES exclude each other`},
		{lin(`"memoryPolicy":{"mode":"MPOL_INTERLEAVE","nodes":"0","flags":["MPOL_F_NUMA_BALANCING"]}`), `linux.memoryPolicy.flags: MPOL_F_NUMA_BALANCING goes with MPOL_BIND or MPOL_PREFERRED_MANY`},
		{lin(`"personality":{"domain":"SVR4"}`), `linux.personality.domain: "SVR4" is neither "LINUX" nor "LINUX32"`},
		{lin(`"personality":{"domain":"LINUX","flags":["x"]}`), `linux.personality.flags: the runtime-spec defines no personality flags`},

		{lin(`"seccomp":{"defaultAction":"X"}`), `linux.seccomp.defaultAction: "X" is not a seccomp action (SCMP_ACT_...)`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_NOTIFY"}`), `linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be the default`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"x"}]}`), `linux.seccomp.syscalls[0].action: "x" is not a seccomp action (SCMP_ACT_...)`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_LOG"}]}`), `linux.seccomp.syscalls[0].names: is missing or empty`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a",""],"action":"SCMP_ACT_LOG"}]}`), `linux.seccomp.syscalls[0].names[1]: is empty`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["write"],"action":"SCMP_ACT_NOTIFY"}]}`), `linux.seccomp.syscalls[0].names[0]: SCMP_ACT_NOTIFY is not possible for write`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}`), `linux.seccomp.syscalls[0].args[0].index: 6 is not between 0 and 5`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_LOG","args":[{"index":5,"op":"EQ"}]}]}`), `linux.seccomp.syscalls[0].args[0].op: "EQ" is not a comparison (SCMP_CMP_...)`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"x"}`), `linux.seccomp.listenerPath: "x" is not absolute`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","listenerMetadata":"x"}`), `linux.seccomp.listenerMetadata: needs a listenerPath`},
		{lin(`"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_NOTIFY"}]}`), `linux.seccomp.listenerPath: is missing; SCMP_ACT_NOTIFY needs it`},

		{res(`"devices":[{"allow":true}]`), `linux.resources.devices[0].access: is missing or empty`},
		{res(`"devices":[{"access":"rx"}]`), `linux.resources.devices[0].access: "rx" is not made of "r", "w" and "m"`},
		{res(`"devices":[{"access":"r","type":"u"}]`), `linux.resources.devices[0].type: "u" is not a device type (a, b, c)`},
		{res(`"devices":[{"access":"r","major":-2}]`), `linux.resources.devices[0].major: -2 is not between 0 and 4095`},
		{res(`"devices":[{"access":"r","minor":1048576}]`), `linux.resources.devices[0].minor: 1048576 is not between 0 and 1048575`},
		{res(`"memory":{"limit":-2}`), `linux.resources.memory.limit: -2 is not a number of bytes, or -1 for no limit`},
		{res(`"memory":{"reservation":-2}`), `linux.resources.memory.reservation: -2 is not a number of bytes, or -1 for no limit`},
		{res(`"memory":{"limit":5,"swap":4}`), `linux.resources.memory.swap: 4 is less than limit 5; it is memory and swap together`},
		{res(`"memory":{"limit":-1,"swap":4}`), `linux.resources.memory.swap: cannot be limited while limit is -1; it is memory and swap together`},
		{res(`"memory":{"kernel":1}`), `linux.resources.memory.kernel: kernel memory can no longer be limited on its own; use limit`},
		{res(`"memory":{"kernelTCP":1}`), `linux.resources.memory.kernelTCP: TCP buffers are part of limit; an own limit exists in cgroup v1 only and is not supported`},
		{res(`"memory":{"swappiness":101}`), `linux.resources.memory.swappiness: 101 is not between 0 and 100`},
		{res(`"memory":{"useHierarchy":false}`), `linux.resources.memory.useHierarchy: Linux accounts memory by hierarchy always since 5.11`},
		{res(`"cpu":{"shares":262145}`), `linux.resources.cpu.shares: 262145 is not between 2 and 262144`},
		{res(`"cpu":{"quota":-2}`), `linux.resources.cpu.quota: -2 is not a number of microseconds, or -1 for no limit`},
		{res(`"cpu":{"idle":2}`), `linux.resources.cpu.idle: 2 is neither 0 nor 1`},
		{res(`"cpu":{"cpus":"a"}`), `linux.resources.cpu.cpus: "a" is not a list of numbers and ranges ("0-3,7")`},
		{res(`"cpu":{"mems":"0-"}`), `linux.resources.cpu.mems: "0-" is not a list of numbers and ranges ("0-3,7")`},
		{res(`"blockIO":{"weight":9}`), `linux.resources.blockIO.weight: 9 is not between 10 and 1000`},
		{res(`"blockIO":{"leafWeight":1001}`), `linux.resources.blockIO.leafWeight: 1001 is not between 10 and 1000`},
		{res(`"blockIO":{"weightDevice":[{"major":8}]}`), `linux.resources.blockIO.weightDevice[0]: has neither weight nor leafWeight`},
		{res(`"blockIO":{"weightDevice":[{"major":-1,"weight":10}]}`), `linux.resources.blockIO.weightDevice[0].major: -1 is not between 0 and 4095`},
		{res(`"blockIO":{"throttleReadIOPSDevice":[{"major":8,"minor":1048576}]}`), `linux.resources.blockIO.throttleReadIOPSDevice[0].minor: 1048576 is not between 0 and 1048575`},
		{res(`"hugepageLimits":[{"pageSize":"2MiB"}]`), `linux.resources.hugepageLimits[0].pageSize: "2MiB" is not a page size ("2MB", "1GB")`},
		{res(`"network":{"priorities":[{"name":"a b"}]}`), `linux.resources.network.priorities[0].name: "a b" is not the name of a network interface`},
		{res(`"rdma":{"a b":{}}`), `linux.resources.rdma["a b"]: is not the name of an rdma device`},
		{res(`"unified":{"../memory.max":"1"}`), `linux.resources.unified["../memory.max"]: is not the name of a cgroup file`},
	} {
		_, err := Parse([]byte(c.text))
		if err == nil || err.Error() != "config.json: "+c.want {
			t.Errorf("%s:\n got  %v\n want config.json: %s", c.text, err, c.want)
		}
	}
}

// TestAccepted: what looks odd and is right, mostly because a manager sends it.
func TestAccepted(t *testing.T) {
	for _, text := range []string{
		`"ociVersion":"1.0.2-dev"`, `"ociVersion":"1.9.0+meta-x"`,
		`"mounts":[{"destination":"relative","type":"tmpfs"}]`,
		`"mounts":[{"destination":"/proc","type":"proc"},{"destination":"/proc","options":["remount","ro"]}]`,
		`"mounts":[{"destination":"/proc/meminfo","type":"bind","source":"/x"}]`,
		`"mounts":[{"destination":"/","options":["rshared"]}]`,
		`"linux":{"namespaces":[{"type":"mount"},{"type":"network"}],"sysctl":{"net/ipv4/conf/eno2.100.rp_filter":"1","net.ipv4.ip_local_port_range":"1024\t65000"}}`,
		`"linux":{"namespaces":[{"type":"mount"}],"seccomp":{}}`,
		`"linux":{"namespaces":[{"type":"mount"}],"resources":{"memory":{"limit":-1,"swap":-1,"kernel":-1,"useHierarchy":true},"cpu":{"shares":1,"quota":-1},"pids":{"limit":0},"devices":[{"allow":true,"major":-1,"access":"m"}]}}`,
		`"linux":{"namespaces":[{"type":"mount"},{"type":"user","path":"/proc/1/ns/user"}]}`,
	} {
		full := `{"ociVersion":"1.3.0","process":{"cwd":"/","args":["true"]},"linux":{"namespaces":[{"type":"mount"}]}}`
		name, _, _ := strings.Cut(text, ":")
		switch name {
		case `"ociVersion"`:
			full = strings.Replace(full, `"ociVersion":"1.3.0"`, text, 1)
		case `"linux"`:
			full = strings.Replace(full, `"linux":{"namespaces":[{"type":"mount"}]}`, text, 1)
		default:
			full = full[:len(full)-1] + "," + text + "}"
		}
		if _, err := Parse([]byte(full)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestParseUser(t *testing.T) {
	for _, c := range []struct {
		in       string
		uid, gid uint32
		hasGID   bool
	}{{"0", 0, 0, false}, {"1:2", 1, 2, true}, {"4294967294:0", 4294967294, 0, true}, {"007", 7, 0, false}} {
		uid, gid, has, err := ParseUser(c.in)
		if err != nil || uid != c.uid || gid != c.gid || has != c.hasGID {
			t.Errorf("%q: got %d %d %v, %v", c.in, uid, gid, has, err)
		}
	}
	for _, in := range []string{"", " ", "4294967295", "4294967296", "-1", "1:", ":1", "0x1", "1 ", "+1", "1_0", "root", "1:2:3", "1:-1", "1:4294967295", "18446744073709551616", "٣"} {
		if uid, _, _, err := ParseUser(in); err == nil {
			t.Errorf("%q was read as uid %d", in, uid)
		}
	}
}

// TestCheckUser: names pass, and nothing that looks like a number and is no id.
func TestCheckUser(t *testing.T) {
	for _, in := range []string{"0", "1:2", "web", "web:www-data", "1000:www", "web:0", "_apt", "a.b$", "0x1", "١"} {
		if err := CheckUser(in); err != nil {
			t.Errorf("%q: %v", in, err)
		}
	}
	for _, in := range []string{"", ":", "web:", ":web", "a:b:c", "-1", "+1", "4294967295", "4294967296:1", "web:-1", "web:4294967295", "a b", "a\nb", "a,b", "a\x00", strings.Repeat("x", 300)} {
		if err := CheckUser(in); err == nil {
			t.Errorf("%q passed", in)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]uint64{
		"0": 0, "1": 1, "1k": 1 << 10, "512M": 512 << 20, "20G": 20 << 30, "20gb": 20 << 30, "20GiB": 20 << 30, "1.5g": 3 << 29, "2T": 2 << 40, "10b": 10,
	} {
		if got, err := ParseSize(in); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "g", "-1", "1x", "1.g", ".5g", "1.5", "1e3", "99999999999999999999", "9999999T", "10iB", "NaNg", "1 2"} {
		if got, err := ParseSize(in); err == nil {
			t.Errorf("%q was read as %d", in, got)
		}
	}
}

func TestDefaultHasNoInheritableOrAmbientCapabilities(t *testing.T) {
	for _, rootless := range []bool{false, true} {
		s := Default(rootless)
		if c := s.Process.Capabilities; len(c.Inheritable)+len(c.Ambient) != 0 {
			t.Errorf("rootless %v: inheritable %v, ambient %v", rootless, c.Inheritable, c.Ambient)
		}
		if _, err := Parse(Encode(s)); err != nil {
			t.Errorf("rootless %v: our own example is refused: %v", rootless, err)
		}
	}
}

func TestForImage(t *testing.T) {
	has := func(list []string, s string) bool {
		for _, x := range list {
			if x == s {
				return true
			}
		}
		return false
	}
	b, err := ForImage(ImageOptions{Args: []string{"sh"}, CapDrop: []string{"ALL"}, CapAdd: []string{"kill"}, Net: "/run/netns/x", PidsLimit: -1,
		Volumes: []string{"/a:/b:ro,rslave"}, Hostname: "h"})
	if err != nil {
		t.Fatal(err)
	}
	s := b.Spec
	if c := s.Process.Capabilities; len(c.Bounding) != 1 || c.Bounding[0] != "CAP_KILL" || len(c.Inheritable)+len(c.Ambient) != 0 {
		t.Errorf("capabilities are %+v", c)
	}
	if !s.Process.NoNewPrivileges || s.Process.Cwd != "/" {
		t.Errorf("process is %+v", s.Process)
	}
	if *s.Linux.Resources.Pids.Limit != -1 {
		t.Errorf("pids limit is %d", *s.Linux.Resources.Pids.Limit)
	}
	m := s.Mounts[len(s.Mounts)-1]
	if m.Source != "/a" || m.Destination != "/b" || !has(m.Options, "rro") || !has(m.Options, "rslave") || !has(m.Options, "nosuid") {
		t.Errorf("volume is %+v", m)
	}
	net := s.Linux.Namespaces[len(s.Linux.Namespaces)-1]
	if net.Type != specs.NetworkNamespace || net.Path != "/run/netns/x" {
		t.Errorf("network namespace is %+v", net)
	}
	b, err = ForImage(ImageOptions{Args: []string{"sh"}, Net: "host"})
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range b.Spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			t.Error("net host has a network namespace")
		}
	}
	if *b.Spec.Linux.Resources.Pids.Limit != 2048 {
		t.Errorf("default pids limit is %d", *b.Spec.Linux.Resources.Pids.Limit)
	}
	for _, c := range []struct {
		o    ImageOptions
		want string
	}{
		{ImageOptions{}, "no command is given, and the image names none"},
		{ImageOptions{Args: []string{"a"}, User: "-1"}, `user "-1" is not UID or UID:GID (numbers from 0 to 4294967294)`},
		{ImageOptions{Args: []string{"a"}, Image: ImageConfig{User: "a:b:c"}}, `user "a:b:c" is not USER or USER:GROUP`},
		{ImageOptions{Args: []string{"a"}, MemorySwap: "1g"}, `memory-swap "1g" needs --memory too: it is memory and swap together`},
		{ImageOptions{Args: []string{"a"}, Memory: "2g", MemorySwap: "1g"}, `memory-swap "1g" is not -1, nor a size of memory and swap together (512m, 2G)`},
		{ImageOptions{Args: []string{"a"}, Ulimits: []string{"fly=1"}}, `ulimit "fly=1" is not NAME=SOFT[:HARD] (nofile=1024:4096; see getrlimit(2))`},
		{ImageOptions{Args: []string{"a"}, Ulimits: []string{"nofile=5:1"}}, `ulimit "nofile=5:1" is not NAME=SOFT[:HARD] (nofile=1024:4096; see getrlimit(2))`},
		{ImageOptions{Args: []string{"a"}, ShmSize: "0"}, `shm-size "0" is not a size (64m, 1G)`},
		{ImageOptions{Args: []string{"a"}, Env: []string{"=b"}}, `env "=b" is not NAME=VALUE or NAME`},
		{ImageOptions{Args: []string{"a"}, Annotations: []string{"x"}}, `annotation "x" is not KEY=VALUE`},
		{ImageOptions{Args: []string{"a"}, Security: []string{"label=disable"}}, `security-opt "label=disable" is not no-new-privileges[=false], apparmor=PROFILE, seccomp=unconfined or systempaths=unconfined`},
		{ImageOptions{Args: []string{"a"}, Volumes: []string{"data:/b"}}, `volume "data:/b": there are no named volumes here; a directory beside you is "./data"`},
		{ImageOptions{Args: []string{"a"}, Volumes: []string{"/a:/b", "/c:/b/"}}, `mount "/c:/b/": there is one at "/b" already`},
		{ImageOptions{Args: []string{"a"}, Volumes: []string{"/a:/"}}, `mount "/a:/": "/" is the image's place`},
		{ImageOptions{Args: []string{"a"}, Mounts: []string{"type=volume,source=x,target=/y"}}, `mount "type=volume,source=x,target=/y": there are no named volumes here; give type=bind and a directory`},
		{ImageOptions{Args: []string{"a"}, Mounts: []string{"type=bind,target=/y"}}, `mount "type=bind,target=/y": a bind wants source=PATH and no tmpfs options`},
		{ImageOptions{Args: []string{"a"}, Mounts: []string{"type=bind,source=/x"}}, `mount "type=bind,source=/x": wants target=/PATH`},
		{ImageOptions{Args: []string{"a"}, Mounts: []string{"type=bind,source=/x,target=/y,fly"}}, `mount "type=bind,source=/x,target=/y,fly": "fly" is not understood (type, source, target, readonly, bind-propagation, bind-nonrecursive, tmpfs-size, tmpfs-mode)`},
		{ImageOptions{Args: []string{"a"}, Mounts: []string{"type=tmpfs,target=/y,tmpfs-mode=9"}}, `mount "type=tmpfs,target=/y,tmpfs-mode=9": "tmpfs-mode=9" is not an octal mode`},
		{ImageOptions{Args: []string{"a"}, Tmpfs: []string{"run"}}, `tmpfs "run" is not TARGET[:OPTIONS]`},
		{ImageOptions{Args: []string{"a"}, Memory: "0"}, `memory limit "0" is not a size (512m, 2G)`},
		{ImageOptions{Args: []string{"a"}, CPUs: -1}, `cpus -1 is not between 0.01 and 65536`},
		{ImageOptions{Args: []string{"a"}, Net: "bridge"}, `network "bridge" is not none, host, or the absolute path of a network namespace`},
		{ImageOptions{Args: []string{"a"}, CapAdd: []string{"fly"}}, `capability "fly" does not exist (see capabilities(7))`},
		{ImageOptions{Args: []string{"a"}, Volumes: []string{"/a"}}, `volume "/a" is not SOURCE:TARGET[:OPTIONS]`},
		{ImageOptions{Args: []string{"a"}, Volumes: []string{"/a:/b:fly"}}, `volume "/a:/b:fly" is not SOURCE:TARGET[:OPTIONS]: "fly" is not an option of a volume`},
		{ImageOptions{Args: []string{"a"}, Cwd: "b"}, `config.json: process.cwd: "b" is not absolute`},
	} {
		if _, err := ForImage(c.o); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestLoadProcessAndResources(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/p.json"
	writeFile(t, file, `{"args":["id"],"cwd":"/","user":{"uid":1,"gid":2},"capabilities":{"bounding":["CAP_X"]}}`)
	_, err := LoadProcess(file)
	if err == nil || err.Error() != `p.json: capabilities.bounding[0]: "CAP_X" is not a capability (see capabilities(7))` {
		t.Errorf("got %v", err)
	}
	writeFile(t, file, `{"args":["id"],"cwd":"/","user":{"uid":1,"gid":2}}`)
	p, err := LoadProcess(file)
	if err != nil || p.User.GID != 2 {
		t.Errorf("got %+v, %v", p, err)
	}
	r, err := LoadResources("stdin", []byte(`{"memory":{"limit":5}}`))
	if err != nil || *r.Memory.Limit != 5 {
		t.Errorf("got %+v, %v", r, err)
	}
	_, err = LoadResources("-", []byte(`{"pids":{"limit":"5"}}`))
	if err == nil || err.Error() != "-: pids.limit: want a number, got a string" {
		t.Errorf("got %v", err)
	}
	_, err = LoadResources("-", []byte(`{"cpu":{"idle":5}}`))
	if err == nil || err.Error() != "-: cpu.idle: 5 is neither 0 nor 1" {
		t.Errorf("got %v", err)
	}
}

func TestParseList(t *testing.T) {
	for _, c := range []struct {
		in   string
		want []int
	}{
		{"", nil}, {"0", []int{0}}, {"3,1-2,2", []int{1, 2, 3}}, {" 1 , 2 - 3 ", []int{1, 2, 3}}, {"65535", []int{65535}},
		{"62-130", func() (l []int) {
			for n := 62; n <= 130; n++ {
				l = append(l, n)
			}
			return l
		}()},
	} {
		if got, err := ParseList(c.in); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q: got %v, %v, want %v", c.in, got, err, c.want)
		}
	}
	for _, in := range []string{"-", ",", "1-", "-1", "2-1", "65536", "a", "1-2-3", "0x1", strings.Repeat("0-65535,", 10000) + "1"} {
		if got, err := ParseList(in); err == nil {
			t.Errorf("%.20q was read as %d numbers", in, len(got))
		}
	}
	if got, err := ParseList(strings.Repeat("0-65535,", 8000) + "1"); err != nil || len(got) != 65536 {
		t.Errorf("got %d numbers, %v", len(got), err)
	}
}
