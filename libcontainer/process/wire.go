package process

import "thinrun/libcontainer/wire"

// Code carries the config to the init stage, in either direction.
func (c *Config) Code(w *wire.Coder) {
	wire.Strings(w, &c.Args)
	wire.Strings(w, &c.Env)
	wire.String(w, &c.Cwd)
	wire.Bool(w, &c.Terminal)
	wire.Ptr(w, &c.Console, func(w *wire.Coder, s *Size) {
		wire.Int(w, &s.Height)
		wire.Int(w, &s.Width)
	})
	c.User.code(w)
	wire.Int(w, &c.Capabilities.Bounding)
	wire.Int(w, &c.Capabilities.Effective)
	wire.Int(w, &c.Capabilities.Inheritable)
	wire.Int(w, &c.Capabilities.Permitted)
	wire.Int(w, &c.Capabilities.Ambient)
	wire.Slice(w, &c.Rlimits, func(w *wire.Coder, r *Rlimit) {
		wire.Int(w, &r.Resource)
		wire.Int(w, &r.Soft)
		wire.Int(w, &r.Hard)
	})
	wire.Bool(w, &c.NoNewPrivileges)
	wire.Ptr(w, &c.OOMScoreAdj, wire.Int[int])
	wire.String(w, &c.AppArmorProfile)
	wire.String(w, &c.SELinuxLabel)
	wire.Ptr(w, &c.Scheduler, func(w *wire.Coder, s *Scheduler) {
		wire.Int(w, &s.Policy)
		wire.Int(w, &s.Flags)
		wire.Int(w, &s.Nice)
		wire.Int(w, &s.Priority)
		wire.Int(w, &s.Runtime)
		wire.Int(w, &s.Deadline)
		wire.Int(w, &s.Period)
	})
	wire.Ptr(w, &c.IOPriority, func(w *wire.Coder, p *IOPriority) {
		wire.Int(w, &p.Class)
		wire.Int(w, &p.Priority)
	})
	wire.Ptr(w, &c.Personality, wire.Int[uint64])
	wire.Ptr(w, &c.MemoryPolicy, func(w *wire.Coder, m *MemoryPolicy) {
		wire.Int(w, &m.Mode)
		wire.Int(w, &m.Flags)
		wire.Slice(w, &m.Nodes, wire.Int[int])
	})
	wire.Slice(w, &c.CPUAffinityInitial, wire.Int[int])
	wire.Slice(w, &c.CPUAffinityFinal, wire.Int[int])
	wire.Int(w, &c.PreserveFDs)
	wire.String(w, &c.KeyringName)
}

func (u *User) code(w *wire.Coder) {
	wire.Int(w, &u.UID)
	wire.Int(w, &u.GID)
	wire.Slice(w, &u.AdditionalGIDs, wire.Int[uint32])
	wire.String(w, &u.Name)
	wire.Ptr(w, &u.Umask, wire.Int[uint32])
	wire.Bool(w, &u.KeepGroups)
}
