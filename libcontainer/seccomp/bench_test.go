package seccomp

import "testing"

// defaultCaps is what Docker leaves to a container: chown, dac_override, fowner, fsetid,
// kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod,
// audit_write, setfcap.
const defaultCaps = 0xa80425fb

func BenchmarkCompileDefault(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		p, err := Compile(Default(defaultCaps))
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(len(p.Filter)/8), "instructions")
	}
}

func BenchmarkCompile(b *testing.B) {
	cfg := Default(defaultCaps)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(cfg); err != nil {
			b.Fatal(err)
		}
	}
}
