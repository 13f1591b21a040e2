#!/usr/bin/env python3
"""Writes libseccomp.json: random profiles and what libseccomp makes of them.

python3 libseccomp.py [CASES [SEED]] > libseccomp.json    (needs libseccomp.so.2, on x86-64)

The rules go in as runc puts them in; the filter that comes out is run here on random
system calls. A profile that libseccomp refuses has no calls. Left out are the profiles
for which libseccomp 2.5.4 gives an answer that no rule gives which holds, or misses one
that does: its trees of several rules for one call have such bugs, which nobody can want.
"""
import ctypes, json, os, random, signal, struct, sys

L = ctypes.CDLL("libseccomp.so.2")


class Cmp(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


P = ctypes.c_void_p
L.seccomp_init.restype, L.seccomp_init.argtypes = P, [ctypes.c_uint32]
L.seccomp_arch_add.argtypes = [P, ctypes.c_uint32]
L.seccomp_export_bpf.argtypes = [P, ctypes.c_int]
L.seccomp_release.argtypes = [P]
L.seccomp_rule_add_array.argtypes = [P, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Cmp)]
L.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
L.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]

OPS = {"SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5, "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}
ACTS = {"SCMP_ACT_ALLOW": 0x7FFF0000, "SCMP_ACT_KILL": 0, "SCMP_ACT_KILL_PROCESS": 0x80000000, "SCMP_ACT_ERRNO": 0x50000, "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_TRAP": 0x30000}
# libseccomp's token, seccomp_data.arch
ARCHS = {
    "SCMP_ARCH_X86_64": (0xC000003E, 0xC000003E), "SCMP_ARCH_X86": (0x40000003, 0x40000003), "SCMP_ARCH_X32": (0x4000003E, 0xC000003E),
    "SCMP_ARCH_AARCH64": (0xC00000B7, 0xC00000B7), "SCMP_ARCH_ARM": (0x40000028, 0x40000028),
}
MUX = [102, 117, 359, 364, 393]
NARROW = {"SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"}
FAMILIES = {"amd64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"], "arm64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]}
NAMES = ["getpid", "read", "ioctl", "clone", "personality", "socket", "accept4", "semget", "shmat", "mmap", "mmap2", "kill"]
VALUES = [0, 1, 2, 3, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (1 << 32) + 5, (2 << 32) + 5, 1 << 63, (1 << 64) - 1]


def value(action, errno):
    v = ACTS[action]
    return v | (1 if errno is None else errno) if action == "SCMP_ACT_ERRNO" else v


def run(code, arch, nr, args):
    data = struct.pack("<IIQ6Q", nr, arch, 0, *args)
    pc = acc = 0
    while True:
        op, jt, jf, k = code[pc]
        pc += 1
        if op == 0x20: acc = struct.unpack_from("<I", data, k)[0]
        elif op == 0x06: return k
        elif op == 0x05: pc += k
        elif op == 0x54: acc &= k
        else: pc += jt if {0x15: acc == k, 0x25: acc > k, 0x35: acc >= k, 0x45: acc & k}[op] else jf


def build(cfg):
    default = value(cfg["DefaultAction"], cfg.get("DefaultErrnoRet"))
    col = L.seccomp_init(default)
    for a in cfg["Architectures"]:
        assert L.seccomp_arch_add(col, ARCHS[a][0]) in (0, -17)
    try:
        for r in cfg["Syscalls"]:
            act = value(r["Action"], r.get("ErrnoRet"))
            if act == default:
                continue
            args = r.get("Args", [])
            twice = len({a["Index"] for a in args}) != len(args)
            for name in r["Names"]:
                nr = L.seccomp_syscall_resolve_name(name.encode())
                for part in [[a] for a in args] if twice else [args]:
                    arr = (Cmp * max(1, len(part)))(*[Cmp(a["Index"], OPS[a["Op"]], a["Value"], a["ValueTwo"]) for a in part])
                    if L.seccomp_rule_add_array(col, act, nr, len(part), arr) != 0:
                        return None
        fd = os.memfd_create("bpf")
        assert L.seccomp_export_bpf(col, fd) == 0
        b = os.pread(fd, 1 << 20, 0)
        os.close(fd)
        return [struct.unpack_from("HBBI", b, i) for i in range(0, len(b), 8)]
    finally:
        L.seccomp_release(col)


def holds(arg, x, narrow):
    v, w = arg["Value"], arg["ValueTwo"]
    if narrow:
        v, w, x = v & 0xFFFFFFFF, w & 0xFFFFFFFF, x & 0xFFFFFFFF
    return {"NE": x != v, "LT": x < v, "LE": x <= v, "EQ": x == v, "GE": x >= v, "GT": x > v, "MASKED_EQ": x & v == w & v}[arg["Op"][9:]]


def wrong(cfg, arch, nr, args, verdict):
    """Tells whether no rule that holds gives this verdict, nor the default if none holds."""
    possible = set()
    for r in cfg["Syscalls"]:
        if nr not in [L.seccomp_syscall_resolve_name_arch(ARCHS[arch][0], n.encode()) for n in r["Names"]]:
            continue
        indices = [a["Index"] for a in r.get("Args", [])]
        how = any if len(set(indices)) != len(indices) else all
        act = value(r["Action"], r.get("ErrnoRet"))
        if act != value(cfg["DefaultAction"], None) and how(holds(a, args[a["Index"]], arch in NARROW) for a in r.get("Args", [])):
            possible.add(act)
    return verdict not in (possible or {value(cfg["DefaultAction"], None)})


def case(rnd):
    goarch = rnd.choice(["amd64", "amd64", "arm64"])
    archs = FAMILIES[goarch]
    mixed = rnd.random() < 0.5  # several actions on one call
    names = rnd.sample(NAMES, 2)
    values = rnd.sample(VALUES, 3)
    acts = [("SCMP_ACT_ALLOW", None), ("SCMP_ACT_ERRNO", 5), ("SCMP_ACT_ERRNO", 7), ("SCMP_ACT_TRAP", None), ("SCMP_ACT_LOG", None)]
    if not mixed:
        acts = [rnd.choice(acts)]
    rules = [{"Names": ["futex_waitv", "pwritev2"], "Action": "SCMP_ACT_KILL_PROCESS", "Args": []}]
    for _ in range(rnd.randint(1, 5)):
        act, errno = rnd.choice(acts)
        r = {"Names": rnd.sample(names, rnd.randint(1, 2)), "Action": act}
        if errno:
            r["ErrnoRet"] = errno
        n = rnd.choice([0, 1, 1, 1, 1]) if mixed else rnd.choice([0, 1, 1, 2, 3])
        index = rnd.randint(0, 3)
        r["Args"] = [{"Index": index if mixed else rnd.randint(0, 3), "Op": rnd.choice(list(OPS)), "Value": rnd.choice(values), "ValueTwo": rnd.choice(values)} for _ in range(n)]
        rules.append(r)
    cfg = {"DefaultAction": rnd.choice(["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"]), "Architectures": archs, "Syscalls": rules}
    code = build(cfg)
    if code is None and any(not r["Args"] for r in rules[1:]):
        return None  # two rules contradict each other, but another one may overrule both
    calls = []
    for _ in range(0 if code is None else 12):
        arch = rnd.choice(archs)
        nr = L.seccomp_syscall_resolve_name_arch(ARCHS[arch][0], rnd.choice(names).encode())
        if nr < 0:
            nr = rnd.choice(MUX)  # i386: the multiplexers and the direct calls
            if arch == "SCMP_ARCH_X32":
                nr |= 0x40000000
        args = [rnd.choice(values + [v + d for v in values for d in (-1, 1)] + list(range(25))) & (1 << 64) - 1 for _ in range(6)]
        if arch in ("SCMP_ARCH_X86", "SCMP_ARCH_ARM"):
            args = [a & 0xFFFFFFFF for a in args]
        verdict = run(code, ARCHS[arch][1], nr, args)
        multiplexed = arch == "SCMP_ARCH_X86" and nr in MUX
        if not multiplexed and wrong(cfg, arch, nr, args, verdict):
            return None
        calls.append({"Arch": ARCHS[arch][1], "Nr": nr, "Args": args, "Verdict": verdict})
    return {"GOARCH": goarch, "Config": cfg, "Calls": calls}


if __name__ == "__main__":
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    for n in range(int(sys.argv[1]) if len(sys.argv) > 1 else 150):
        sys.stdout.flush()
        # libseccomp 2.5.4 does not come back from some profiles: a child, with an alarm.
        if (pid := os.fork()) == 0:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            c = case(random.Random(seed * 1000003 + n))
            signal.setitimer(signal.ITIMER_REAL, 0)
            if c:
                print(json.dumps(c, separators=(",", ":")), flush=True)
            os._exit(0)
        if os.waitpid(pid, 0)[1] != 0:
            print("case", n, "ended libseccomp", file=sys.stderr)
