package devmapper

import (
	"errors"
	"fmt"
	"slices"

	"thinrun/rootfs/storage/devmapper/base"
)

// PoolOptions say how a pool is made. All zero values are chosen by what the storage's
// file system has free.
type PoolOptions struct {
	DataBytes, MetaBytes       uint64 // sizes of the files; devices have their own
	DataDevice, MetadataDevice string // block devices instead of files: both or none
	BlockSectors               uint32 // 128: 64 KiB
	BaseBytes                  uint64 // a container's disk unless --rootfs-size: one of base.Sizes; 10 GiB
	LowWater                   uint64 // bytes; with less free nothing new starts
	MaxBytes                   uint64 // the data file does not grow by itself beyond; 0: while the host keeps a fifth free
	Strict                     bool   // nothing starts unless all that runs fits, however much it writes
	ReturnSpace                bool   // data file sparse, and shrunk when containers go; else preallocated
}

const (
	mib = uint64(1) << 20
	gib = uint64(1) << 30
	// growStep is how much the data file starts with and grows by: large enough to be
	// rare, small enough that a host with one container does not miss it.
	growStep  = 2 * gib
	baseBytes = 10 * gib // a container's disk
)

// check refuses what cannot be.
func (o PoolOptions) check() error {
	if (o.DataDevice == "") != (o.MetadataDevice == "") {
		return errors.New("data and metadata: give a device for both or for none")
	}
	if o.BlockSectors%128 != 0 || o.BlockSectors > 2<<20 {
		return fmt.Errorf("block size of %s: dm-thin takes multiples of 64 KiB up to 1 GiB", size(uint64(o.BlockSectors)*512))
	}
	if o.BaseBytes != 0 && !slices.Contains(base.Sizes(), o.BaseBytes) {
		return fmt.Errorf("a base of %s: there are only those of 1, 10 and 100 GiB", size(o.BaseBytes))
	}
	if o.DataDevice != "" {
		if o.DataBytes+o.MetaBytes+o.MaxBytes != 0 {
			return errors.New("sizes are for pools on files; devices are used up to their ends")
		}
		return nil
	}
	if o.Strict && o.ReturnSpace {
		return errors.New("strict admission promises space, and a sparse data file (return-space) has none to promise: choose one of them")
	}
	if o.DataBytes != 0 && o.DataBytes < minData || o.MetaBytes != 0 && o.MetaBytes < minMeta {
		return fmt.Errorf("data of %s and metadata of %s: at least 64 MiB and 2 MiB are needed", size(o.DataBytes), size(o.MetaBytes))
	}
	if o.MetaBytes > maxMeta {
		return fmt.Errorf("metadata of %s: dm-thin uses at most %s", size(o.MetaBytes), size(maxMeta))
	}
	if o.MaxBytes != 0 && o.MaxBytes < max(o.DataBytes, minData) {
		return fmt.Errorf("a maximum of %s is below the %s to begin with", size(o.MaxBytes), size(max(o.DataBytes, minData)))
	}
	if o.MaxBytes != 0 {
		return o.holdsOne(o.MaxBytes)
	}
	return nil
}

const minData, minMeta = 64 * mib, 2 * mib

// holdsOne refuses a strict pool that has never more than so many bytes of data, if not even
// the first disk would fit: each import and each start is promised a whole one, besides what
// the empty file system takes.
func (o PoolOptions) holdsOne(most uint64) error {
	if o.BaseBytes == 0 {
		o.BaseBytes = baseBytes
	}
	if !o.Strict || most >= o.BaseBytes+minData {
		return nil
	}
	return fmt.Errorf("strict admission promises each container its whole disk, here of %s, and the pool cannot have more than %s of data (%s are needed): nothing would ever start; choose a smaller --base-size or more data", size(o.BaseBytes), size(most), size(o.BaseBytes+minData))
}

// fill decides what was left open, for a file system with free bytes.
func (o PoolOptions) fill(free uint64) (PoolOptions, error) {
	if err := o.check(); err != nil {
		return o, err
	}
	if o.BlockSectors == 0 {
		o.BlockSectors = 128 // 4 KiB written to a shared block costs 35 us; with 1 MiB blocks 322
	}
	if o.BaseBytes == 0 {
		o.BaseBytes = baseBytes
	}
	if o.DataDevice != "" {
		return o, nil
	}
	if o.DataBytes == 0 {
		o.DataBytes = min(growStep, max(free/2, 128*mib)) / (64 * mib) * (64 * mib)
		if o.MaxBytes != 0 {
			o.DataBytes = min(o.DataBytes, o.MaxBytes)
		}
	}
	if o.MetaBytes == 0 {
		o.MetaBytes = min(128*mib, max(8*mib, o.DataBytes/16))
	}
	unit := uint64(o.BlockSectors) * 512
	o.DataBytes = o.DataBytes / unit * unit
	o.MetaBytes = o.MetaBytes / 4096 * 4096
	if o.DataBytes < minData {
		return o, fmt.Errorf("data of %s in blocks of %s: too small", size(o.DataBytes), size(unit))
	}
	return o.low(o.DataBytes)
}

// low is fill for the low water mark of a pool with so much data.
func (o PoolOptions) low(data uint64) (PoolOptions, error) {
	if o.LowWater == 0 {
		o.LowWater = min(gib, data/10)
	}
	if o.LowWater > data/2 {
		return o, fmt.Errorf("a low water mark of %s is more than half of the data's %s: hardly anything would ever start", size(o.LowWater), size(data))
	}
	return o, nil
}
