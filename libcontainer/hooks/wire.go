package hooks

import "thinrun/libcontainer/wire"

// Code carries a hook to the init stage.
func (h *Hook) Code(c *wire.Coder) {
	wire.String(c, &h.Path)
	wire.Strings(c, &h.Args)
	wire.Strings(c, &h.Env)
	wire.Int(c, &h.Timeout)
}
