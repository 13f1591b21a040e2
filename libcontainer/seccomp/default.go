package seccomp

import (
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Default returns a profile on Docker's model (github.com/moby/profiles, v0.2.3) for a
// process whose bounding set is caps: what a container needs is allowed, what reaches
// into the kernel's less travelled parts is not, and a capability opens the calls that
// it is good for.
func Default(caps uint64) *Config {
	has := func(capability uint) bool { return caps&(1<<capability) != 0 }
	eperm := uint(unix.EPERM)
	cfg := &Config{
		DefaultAction:   "SCMP_ACT_ERRNO",
		DefaultErrnoRet: &eperm,
	}
	for _, name := range runnable(runtime.GOARCH) {
		if a, _ := abiOf(name); a.column >= 0 {
			cfg.Architectures = append(cfg.Architectures, name)
		}
	}
	rule := func(names string, args ...Arg) {
		cfg.Syscalls = append(cfg.Syscalls, Rule{Names: strings.Fields(names), Action: "SCMP_ACT_ALLOW", Args: args})
	}
	rule(defaultCalls)

	// Not AF_ALG and not AF_VSOCK: the one is all of the kernel's crypto, the other
	// leads to the hypervisor. (A 32-bit x86 program still gets there by socketcall.)
	rule("socket", Arg{Index: 0, Op: "SCMP_CMP_LT", Value: unix.AF_ALG})
	rule("socket", Arg{Index: 0, Op: "SCMP_CMP_EQ", Value: unix.AF_ALG + 1})
	rule("socket", Arg{Index: 0, Op: "SCMP_CMP_GT", Value: unix.AF_VSOCK})
	// PER_LINUX and PER_LINUX32, each alone or with UNAME26, and the query.
	for _, persona := range [...]uint64{0, 0x8, 0x20000, 0x20008, 0xffffffff} {
		rule("personality", Arg{Index: 0, Op: "SCMP_CMP_EQ", Value: persona})
	}
	if names := nativeCalls(runtime.GOARCH); names != "" {
		rule(names)
	}
	for _, c := range capabilityCalls {
		if has(c.capability) {
			rule(c.names)
		}
	}
	if !has(unix.CAP_SYS_ADMIN) {
		flags := Arg{Index: 0, Op: "SCMP_CMP_MASKED_EQ", Value: unix.CLONE_NEWNS | unix.CLONE_NEWUTS |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP}
		if runtime.GOARCH == "s390x" {
			flags.Index = 1 // CLONE_BACKWARDS2
		}
		rule("clone", flags)
		// Its flags lie in memory. libc falls back to clone if the kernel is "too old".
		nosys := uint(unix.ENOSYS)
		cfg.Syscalls = append(cfg.Syscalls, Rule{Names: []string{"clone3"}, Action: "SCMP_ACT_ERRNO", ErrnoRet: &nosys})
	}
	return cfg
}

// nativeCalls are what one architecture has besides.
func nativeCalls(goarch string) string {
	switch goarch {
	case "amd64":
		return "arch_prctl modify_ldt"
	case "arm64":
		return "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
	case "ppc64le":
		return "sync_file_range2 swapcontext"
	case "riscv64":
		return "riscv_flush_icache"
	case "s390x":
		return "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"
	}
	return ""
}

// capabilityCalls are the calls that mean nothing, or too much, without a capability.
var capabilityCalls = [...]struct {
	capability uint
	names      string
}{
	{unix.CAP_DAC_READ_SEARCH, "open_by_handle_at"},
	{unix.CAP_SYS_ADMIN, "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie " +
		"lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree " +
		"perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare"},
	{unix.CAP_SYS_BOOT, "reboot"},
	{unix.CAP_SYS_CHROOT, "chroot"},
	{unix.CAP_SYS_MODULE, "delete_module init_module finit_module"},
	{unix.CAP_SYS_PACCT, "acct"},
	{unix.CAP_SYS_PTRACE, "kcmp pidfd_getfd process_madvise"},
	{unix.CAP_SYS_RAWIO, "iopl ioperm"},
	{unix.CAP_SYS_TIME, "settimeofday stime clock_settime clock_settime64"},
	{unix.CAP_SYS_TTY_CONFIG, "vhangup"},
	{unix.CAP_SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
	{unix.CAP_SYSLOG, "syslog"},
	{unix.CAP_BPF, "bpf"},
	{unix.CAP_PERFMON, "perf_event_open"},
}

// defaultCalls are allowed to everybody, on every architecture that has them.
const defaultCalls = `
_llseek _newselect accept accept4 access adjtimex alarm bind brk cachestat capget capset
chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64
clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range
connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark
fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid
getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername
getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid
getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch
io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack
membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2
mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget
msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open
openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64
process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64
pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop
semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid
setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid
setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd
signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64
statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime
timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write
writev
`
