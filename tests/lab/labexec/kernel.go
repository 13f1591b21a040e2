package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
)

// machine writes what the machine needs below workDir and answers with its command line.
func machine(job *Job) *exec.Cmd {
	must(os.MkdirAll(workDir+"/new", 0755), "mkdir")
	must(os.MkdirAll(workDir+"/scratch", 0755), "mkdir")
	b, err := json.Marshal(job)
	must(err, "job")
	must(os.WriteFile(workDir+"/job.json", b, 0600), "job")
	var disks []string
	for i, size := range append(slices.Clone(job.Disks), "16G") {
		if diskFile(size) {
			disks = append(disks, size)
			continue
		}
		n, err := parseSize(size)
		must(err, "disk")
		disks = append(disks, fmt.Sprintf("%s/disk%d", workDir, i))
		must(os.WriteFile(disks[i], nil, 0600), "disk")
		must(os.Truncate(disks[i], n), "disk of "+size)
	}
	// The last disk becomes /tmp: tests want direct I/O, extended attributes and id-mapped
	// mounts, and tmpfs of Linux 6.1 has none of them.
	mkfs := exec.Command("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", disks[len(job.Disks)])
	mkfs.Stderr = os.Stderr
	must(mkfs.Run(), "mkfs.ext4 (package e2fsprogs)")
	if job.VM == "qemu" {
		return qemu(job, disks)
	}
	return uml(job, disks)
}

// bootParameters are for both kernels. Benchmarks of raid6 and xor cost 0.7 s of every
// boot and serve nobody here; expedited RCU makes namespaces and cgroups go fast.
func bootParameters(job *Job) []string {
	args := []string{"panic=-1", "cryptomgr.notests", "rcupdate.rcu_expedited=1",
		"initcall_blacklist=raid6_select_algo,raid6_init,calibrate_xor_blocks,load_system_certificate_list,jent_mod_init"}
	if !job.Verbose {
		args = append(args, "quiet")
	}
	return args
}

func uml(job *Job, disks []string) *exec.Cmd {
	kernel, err := os.ReadFile(job.Kernel)
	must(err, "kernel")
	must(os.WriteFile(workDir+"/linux", wideState(kernel), 0755), "kernel")
	args := append(bootParameters(job),
		"mem="+job.Mem, "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init="+job.Self,
		// The log is the console; stdout, stderr and control are one tty each.
		"con0=null,fd:6", "con1=null,fd:3", "con2=null,fd:4", "con3=fd:5,fd:5", "con=null", "ssl=null",
		"uml_dir="+workDir+"/uml", "umid=lab", "lpj=20000000")
	for i, disk := range disks {
		args = append(args, fmt.Sprintf("ubd%d=%s", i, disk))
	}
	cmd := exec.Command(workDir+"/linux", append(args, "--", "__guest", "uml")...)
	cmd.Env = []string{"TMPDIR=" + workDir, "HOME=/"} // the machine's memory is a file there
	return cmd
}

// wideState lets Linux 6.1's UML run on processors with AMX. It gives back a process's
// extended registers by PTRACE_SETREGSET with a fixed size of 2696 bytes, and the host
// refuses (EFAULT) a set that is smaller than the processor's, 11008 with AMX
// (xstateregs_set in arch/x86/kernel/fpu/regset.c). The host takes no more than it
// knows and reads no component that the header does not list, so a greater size does
// no harm anywhere. Later kernels ask the host for its size: they lack the pattern and
// stay as they are.
func wideState(kernel []byte) []byte {
	fixed := []byte{0x88, 0x0a, 0, 0, // iov.iov_len = 2696
		0xbf, 0x05, 0x42, 0, 0} // mov $PTRACE_SETREGSET, %edi
	if bytes.Count(kernel, fixed) != 1 {
		return kernel
	}
	wide := bytes.Clone(fixed)
	wide[0], wide[1] = 0, 0x30
	return bytes.Replace(kernel, fixed, wide, 1)
}
