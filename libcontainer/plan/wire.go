package plan

import (
	"thinrun/libcontainer/hooks"
	"thinrun/libcontainer/seccomp"
	"thinrun/libcontainer/wire"
)

// Code carries everything that the init stage needs, in either direction.
func (i *Init) Code(c *wire.Coder) {
	wire.String(c, &i.Hostname)
	wire.String(c, &i.Domainname)
	wire.Bool(c, &i.LoopbackUp)
	i.Rootfs.Code(c)
	i.Process.Code(c)
	wire.Ptr(c, &i.Seccomp, func(c *wire.Coder, p *seccomp.Program) { p.Code(c) })
	wire.Slice(c, &i.CreateContainer, codeHook)
	wire.Slice(c, &i.StartContainer, codeHook)
	wire.Bool(c, &i.AskHooks)
	wire.Bytes(c, &i.HookState)
}

func codeHook(c *wire.Coder, h *hooks.Hook) { h.Code(c) }
