package devmapper

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage/devmapper/dm"
	"thinrun/rootfs/storage/devmapper/loop"
	"thinrun/rootfs/storage/devmapper/thinmeta"
)

// Status is what "pool status" shows.
type Status struct {
	Path        string `json:"path"`
	Name        string `json:"name"` // of the dm device
	Fingerprint string `json:"fingerprint"`
	Active      bool   `json:"active"`
	Mode        string `json:"mode"` // rw, ro, out_of_data_space, Fail; inactive
	NeedsCheck  bool   `json:"needsCheck"`
	// Problem is why nothing new would start; empty when it would.
	Problem    string `json:"problem,omitempty"`
	BlockBytes uint64 `json:"blockBytes"`
	BaseBytes  uint64 `json:"baseBytes"` // virtual size of a container's disk
	LowBytes   uint64 `json:"lowBytes"`  // with less free nothing new starts
	// Admission is "reserve" (nothing starts with less than LowBytes free) or "strict"
	// (nothing starts that could fill the pool).
	Admission string `json:"admission"`
	// PromisedBytes is what Writers, the containers and layers that can write now, may still
	// take. More than is free: the pool is overcommitted.
	PromisedBytes uint64 `json:"promisedBytes"`
	Writers       int    `json:"writers"`
	ReturnSpace   bool   `json:"returnSpace"`
	Data          Space  `json:"data"`
	Metadata      Space  `json:"metadata"`
	// Clock counts the snapshots ever made; from ClockWarn on starts warn of it, and at
	// ClockLimit the pool is worn out.
	Clock      uint32 `json:"clock"`
	ClockWarn  uint32 `json:"clockWarn"`
	ClockLimit uint32 `json:"clockLimit"`
	Layers     int    `json:"layers"` // but for the empty base
	Containers int    `json:"containers"`
	Unfinished int    `json:"unfinished"` // claims of commands at work, or killed
}

// Space is one half of a pool.
type Space struct {
	Path       string `json:"path"`
	File       bool   `json:"file"` // a file that we made, else a device
	Device     string `json:"device,omitempty"`
	DirectIO   bool   `json:"directIO"`
	UsedBytes  uint64 `json:"usedBytes"`
	TotalBytes uint64 `json:"totalBytes"`
	MaxBytes   uint64 `json:"maxBytes"`  // beyond which it does not grow by itself; 0: none
	RoomBytes  uint64 `json:"roomBytes"` // how much it would grow by itself as the host is now
}

// Status looks and changes nothing: an inactive pool is read from its file.
func (d *Driver) Status() (Status, error) {
	p, err := d.open(unix.LOCK_SH)
	if err != nil {
		return Status{}, err
	}
	defer p.leave()
	s := Status{
		Path: p.dir, Name: p.name(), Fingerprint: strconv.FormatUint(p.fingerprint, 16), Mode: "inactive",
		BlockBytes: p.blockBytes(), BaseBytes: p.baseBytes, LowBytes: p.lowBytes,
		Admission: "reserve", ReturnSpace: p.returnSpace, ClockWarn: clockWarn, ClockLimit: clockLimit,
		Data:     Space{Path: p.data.path, File: p.data.ours, TotalBytes: p.data.bytes, MaxBytes: p.maxBytes, RoomBytes: p.room(1<<60, p.data)},
		Metadata: Space{Path: p.meta.path, File: p.meta.ours, TotalBytes: p.meta.bytes, MaxBytes: maxMeta, RoomBytes: p.room(1<<60, p.meta)},
	}
	if p.strict {
		s.Admission = "strict"
	}
	layers, err := p.layers()
	if err != nil {
		return s, err
	}
	for _, l := range layers {
		if !l.base {
			s.Layers++
		}
	}
	s.Containers, s.Unfinished = count(p.claimsDir()), count(p.openDir())
	sb, sbErr := p.superblock()
	if sbErr == nil {
		s.Clock, s.NeedsCheck = sb.Clock, sb.NeedsCheck
	}
	switch err := p.look(dm.NoFlush); {
	case errors.Is(err, errInactive):
		s.Problem = text(errors.Join(sbErr, p.checkFiles(), inactiveProblem(p, sb)))
		if sb != nil {
			s.Data.UsedBytes, s.Metadata.UsedBytes = sb.Data.Used*p.blockBytes(), sb.Metadata.Used*4096
		}
	case err != nil:
		s.Problem = text(err)
	default:
		k := p.kernel
		s.Active, s.Mode, s.NeedsCheck = true, k.mode, k.needsCheck
		s.Data.UsedBytes, s.Data.TotalBytes = k.dataUsed*p.blockBytes(), k.dataTotal*p.blockBytes()
		s.Metadata.UsedBytes, s.Metadata.TotalBytes = k.metaUsed*4096, k.metaTotal*4096
		p.devices(&s)
		if s.PromisedBytes, s.Writers, err = p.promised(); err != nil {
			return s, err
		}
		s.Problem = text(p.refusal())
	}
	return s, nil
}

func inactiveProblem(p *pool, sb *thinmeta.Superblock) error {
	switch {
	case sb == nil:
		return nil
	case sb.Transaction != p.fingerprint:
		return p.foreign(sb.Transaction)
	case sb.NeedsCheck:
		return p.fail("%w", ErrNeedsCheck)
	case sb.Clock >= clockLimit:
		return p.fail("%w", ErrWornOut)
	}
	return nil
}

// devices finds what the two halves are on, by the pool's table.
func (p *pool) devices(s *Status) {
	_, targets, err := p.ctl.Table(p.name())
	if err != nil || len(targets) != 1 {
		return
	}
	numbers := strings.Fields(targets[0].Params)
	for i, half := range []*Space{&s.Metadata, &s.Data} {
		if i >= len(numbers) {
			return
		}
		half.Device = half.Path
		if !half.File {
			half.DirectIO = true
			continue
		}
		_, minor, _ := strings.Cut(numbers[i], ":")
		if n, err := strconv.ParseUint(minor, 10, 32); err == nil {
			half.Device, half.DirectIO = "/dev/loop"+minor, loop.DirectIO(uint32(n))
		}
	}
}

// count counts the claims in a directory.
func count(dir string) int {
	ids, _ := claimIDs(dir)
	return len(ids)
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
