// Labexec runs one command in a place where it can break nothing, as if it had run
// here: same arguments, environment and working directory, stdout and stderr apart,
// same exit code. Made for
//
//	go test -exec "labexec -vm uml -disk 4G" ./rootfs/...
//
// The place is one of
//
//	-vm uml   User-Mode Linux: a kernel that is an ordinary process; has dm-thin
//	-vm qemu  Debian's kernel on emulated processors: several, and ten times slower
//	-vm none  this kernel, boxed: own mounts, processes, network and cgroup
//
// Host files are read-only there; /tmp and /run are fresh. Nothing outlives labexec,
// not even after kill -9.
//
// The binary has four faces, each in its own file:
//
//	outer  what you call: flags, output (stream), timeout, exit code
//	stage  pid 1 of private namespaces on the host: read-only files, then the machine
//	guest  pid 1 of the machine: root, modules, cgroups
//	job    the command's parent in the machine: relays output, reports the exit code
//
// It is a test tool, not a security boundary: the command is root with all
// capabilities.
package main

import (
	"os"
	"runtime"
)

// Job is what the faces tell each other, as JSON.
type Job struct {
	VM      string   // uml, qemu, none
	Kernel  string   // the kernel's file
	Modules string   // its directory of modules, with modules.dep
	Mem     string   // 2G
	CPUs    int      // qemu only
	Disks   []string // sizes of scratch disks, or files that are disks
	Cgroup  string   // v2, v1, hybrid
	RW      []string // host directories that stay writable
	Show    []string // host directories that must be seen although /tmp or /run hide them
	Verbose bool
	Self    string
	Args    []string
	Env     []string
	Dir     string
	// What -vm none gets on the host: a fresh directory as its /tmp, and a cgroup named
	// Box in each of Cgroups.
	Tmp     string
	Box     string
	Cgroups []Hierarchy
}

// exitBroken is labexec's own failure, as in env(1) and timeout(1).
const exitBroken = 125

// mark is the source of labexec's own mounts. Package box looks for it before a
// destructive test runs.
const mark = "thinrun-lab"

// workDir carries a tmpfs in the stage's mount namespace: disks, job, scratch.
const workDir = "/mnt"

func main() {
	// PDEATHSIG follows the thread that forked: it must live as long as the process.
	runtime.LockOSThread()
	face := ""
	if len(os.Args) > 1 {
		face = os.Args[1]
	}
	switch face {
	case "__stage":
		stage()
	case "__guest":
		guest()
	case "__job":
		jobMain()
	default:
		os.Exit(outer())
	}
}
