package rootfs

import "thinrun/libcontainer/wire"

// Code carries the configuration to the init stage.
func (cfg *Config) Code(c *wire.Coder) {
	wire.String(c, &cfg.AttachAt)
	wire.String(c, &cfg.Source)
	wire.Bool(c, &cfg.UserNS)
	wire.Bool(c, &cfg.Readonly)
	wire.Int(c, &cfg.Propagation)
	wire.Strings(c, &cfg.Dirs)
	wire.Bool(c, &cfg.Localhost)
	wire.Bool(c, &cfg.NoPivot)
	wire.Slice(c, &cfg.Mounts, func(c *wire.Coder, m *Mount) { m.code(c) })
	wire.Bool(c, &cfg.SetupDev)
	wire.Slice(c, &cfg.Devices, func(c *wire.Coder, d *Device) { d.code(c) })
	wire.Bool(c, &cfg.BindDevices)
	wire.Bool(c, &cfg.Console)
	wire.Strings(c, &cfg.MaskedPaths)
	wire.Strings(c, &cfg.ReadonlyPaths)
	wire.String(c, &cfg.MountLabel)
	wire.Slice(c, &cfg.Sysctl, func(c *wire.Coder, kv *KeyValue) {
		wire.String(c, &kv.Key)
		wire.String(c, &kv.Value)
	})
}

func (m *Mount) code(c *wire.Coder) {
	wire.String(c, &m.Kind)
	wire.String(c, &m.Destination)
	wire.String(c, &m.Type)
	wire.String(c, &m.Source)
	wire.Int(c, &m.Attr)
	wire.Int(c, &m.AttrClear)
	wire.Int(c, &m.RecAttr)
	wire.Int(c, &m.RecAttrClear)
	wire.Slice(c, &m.Propagation, wire.Int[uint64])
	wire.Strings(c, &m.Options)
	wire.Int(c, &m.SuperFlags)
	wire.Bool(c, &m.Recursive)
	wire.Bool(c, &m.TmpCopyUp)
	wire.Ptr(c, &m.IDMap, func(c *wire.Coder, m *IDMap) {
		wire.Slice(c, &m.UIDMappings, codeMapping)
		wire.Slice(c, &m.GIDMappings, codeMapping)
		wire.Bool(c, &m.Recursive)
	})
	wire.Bool(c, &m.SrcIsDir)
	wire.Int(c, &m.File)
	wire.Slice(c, &m.Cgroup1, func(c *wire.Coder, h *Cgroup1) {
		wire.String(c, &h.Name)
		wire.String(c, &h.Options)
		wire.Strings(c, &h.Links)
		wire.Int(c, &h.File)
	})
	wire.Bool(c, &m.SrcNoFollow)
	wire.Bool(c, &m.DestNoFollow)
	wire.Bool(c, &m.CopySymlink)
}

func codeMapping(c *wire.Coder, m *Mapping) {
	wire.Int(c, &m.ContainerID)
	wire.Int(c, &m.HostID)
	wire.Int(c, &m.Size)
}

func (d *Device) code(c *wire.Coder) {
	wire.String(c, &d.Path)
	wire.String(c, &d.Type)
	wire.Int(c, &d.Major)
	wire.Int(c, &d.Minor)
	wire.Int(c, &d.Mode)
	wire.Int(c, &d.UID)
	wire.Int(c, &d.GID)
}
