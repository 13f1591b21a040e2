package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hostTag is the virtiofs that shows the host's files to the machine.
const hostTag = "host"

// initModules must come with the initramfs: they are the way to the host's files.
const initModules = "virtio_pci virtio_console virtiofs virtio_blk crc32c_generic"

// qemu answers with the command line of the machine. Its processor is emulated: about
// ten times slower than this one, but with several CPUs.
func qemu(job *Job, disks []string) *exec.Cmd {
	mem, err := parseSize(job.Mem)
	must(err, "memory")
	must(os.WriteFile(workDir+"/initrd", initramfs(job), 0600), "initrd")
	serveFiles(workDir + "/virtiofs")

	args := append(bootParameters(job), "console=ttyS0", "reboot=t", "no_timer_check", "tsc=reliable", "lpj=1000000", "mitigations=off", "random.trust_cpu=on")
	memory := fmt.Sprintf("%dM", mem>>20)
	cmd := exec.Command("qemu-system-x86_64",
		// One thread for all CPUs: with several, QEMU 7.2 loses int3 traps, and one boot in
		// fifty ends in an oops.
		"-M", "q35,hpet=off,memory-backend=mem", "-accel", "tcg,thread=single", "-cpu", "max,-cx16", "-smp", fmt.Sprint(job.CPUs),
		"-m", memory, "-object", "memory-backend-memfd,id=mem,share=on,size="+memory,
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", job.Kernel, "-initrd", workDir+"/initrd", "-append", strings.Join(append(args, "--", "__guest", "qemu"), " "),
		"-add-fd", "fd=6,set=3", "-chardev", "file,id=log,path=/dev/fdset/3,append=on", "-serial", "chardev:log",
		"-chardev", "socket,id=files,path="+workDir+"/virtiofs", "-device", "vhost-user-fs-pci,chardev=files,tag="+hostTag+",queue-size=1024",
		"-device", "virtio-serial-pci")
	for i := range 3 { // stdout, stderr, control
		cmd.Args = append(cmd.Args, "-chardev", fmt.Sprintf("socket,id=lab%d,fd=%d", i+1, i+3), "-device", fmt.Sprintf("virtserialport,chardev=lab%d,name=lab%d", i+1, i+1))
	}
	for i, disk := range disks {
		cmd.Args = append(cmd.Args, "-drive", fmt.Sprintf("file=%s,if=none,id=disk%d,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap", disk, i),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i))
	}
	return cmd
}

// serveFiles starts virtiofsd on a socket that listens already: nothing to wait for.
func serveFiles(socket string) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	must(err, "socket")
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	must(err, "socket")
	cmd := exec.Command("/usr/lib/qemu/virtiofsd", "--fd=3", "-f", "-o", "source=/", "-o", "cache=always", "-o", "sandbox=chroot", "-o", "xattr",
		"--rlimit-nofile=0", "--thread-pool-size=0", "-o", "log_level=warn")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{f}
	must(cmd.Start(), "virtiofsd")
}

// initramfs is a cpio archive (newc): this binary as /init, and modules in the order in
// which it loads them.
func initramfs(job *Job) []byte {
	var b bytes.Buffer
	inode := 0
	add := func(name string, mode int, data []byte) {
		inode++
		fmt.Fprintf(&b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		b.Write(make([]byte, -b.Len()&3))
		b.Write(data)
		b.Write(make([]byte, -b.Len()&3))
	}
	for _, dir := range []string{"dev", "proc", "sys", "host", "modules"} {
		add(dir, unix.S_IFDIR|0755, nil)
	}
	self, err := os.ReadFile(job.Self)
	must(err, "self")
	add("init", unix.S_IFREG|0755, self)
	mods, err := readModules(job.Modules)
	must(err, "modules")
	var order []string
	for name := range strings.FieldsSeq(initModules) {
		for _, file := range mods.files[name] {
			if base := filepath.Base(file); !slices.Contains(order, base) {
				order = append(order, base)
				data, err := os.ReadFile(filepath.Join(mods.dir, file))
				must(err, "module")
				add("modules/"+base, unix.S_IFREG|0644, data)
			}
		}
	}
	slices.Reverse(order) // in modules.dep, what is needed first comes last
	add("modules/modules.dep", unix.S_IFREG|0644, fmt.Appendf(nil, "%s: %s\n", order[0], strings.Join(order[1:], " ")))
	add("TRAILER!!!", 0, nil)
	return b.Bytes()
}

// reachHost gets from the initramfs to where UML starts: the host's files as the root.
func reachHost() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return err
		}
	}
	mods, err := readModules("/modules")
	if err != nil {
		return err
	}
	for name := range mods.files { // the only line of it
		if err := mods.load(name); err != nil {
			return err
		}
	}
	if err := unix.Mount(hostTag, "/host", "virtiofs", 0, ""); err != nil {
		return err
	}
	if err := os.Chdir("/host"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, "")
}

// openPort opens the port of virtio-serial that the host named so. Ports appear some
// time after their driver.
func openPort(name string) (*os.File, error) {
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, "/dev", unix.IN_CREATE); err != nil {
		return nil, err
	}
	for {
		names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
		for _, file := range names {
			if b, _ := os.ReadFile(file); strings.TrimSpace(string(b)) == name {
				f, err := os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
				if !os.IsNotExist(err) {
					return f, err
				}
			}
		}
		if _, err := unix.Read(watch, make([]byte, 4096)); err != nil && err != unix.EINTR {
			return nil, err
		}
	}
}
