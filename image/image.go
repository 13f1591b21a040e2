// Package image keeps images: names, and the chain of sealed layers that each stands
// for. A record below --storage/images is an image; a layer that no record names is
// garbage. How a layer is stored is the driver's business: the package talks to
// storage.LayerStore and to nothing else.
//
// It does not run containers and does not know which there are: who removes or
// replaces an image brings a function that tells who uses a layer.
package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
	"thinrun/rootfs/storage/durable"
	"thinrun/rootfs/storage/flock"
)

// Version of the record's format. A newer one than ours is refused, never guessed at; of
// version 1 everything was one object.
const Version = 2

var (
	ErrNotFound = errors.New("no such image")
	ErrInUse    = errors.New("image is in use")
	ErrBusy     = errors.New("an image is being made or exported")
)

// Image is a record.
type Image struct {
	Version int       `json:"version"`
	Name    string    `json:"name"`
	Driver  string    `json:"driver"`
	Layers  []string  `json:"layers"`          // the driver's ids, base first
	Size    int64     `json:"size"`            // of all layers
	Sizes   []int64   `json:"sizes,omitempty"` // of each: bytes in the regular files that it brought, each hard link once
	Created time.Time `json:"created"`
	Source  string    `json:"source,omitempty"`  // what it was imported from
	Digest  string    `json:"digest,omitempty"`  // of the manifest it came with
	ID      string    `json:"id,omitempty"`      // of OCI, which is the image's id elsewhere
	DiffIDs []string  `json:"diffIds,omitempty"` // of each layer's tar; "": it never was one
	Chains  []string  `json:"chains,omitempty"`  // the OCI's chain id of each layer, or ""
	Config  Config    `json:"config"`
	// Platform is what the OCI config says of it; nil for a plain tree, and in the records of
	// older thinruns. See Image.For.
	Platform *Platform `json:"platform,omitempty"`

	// OCI is the image config as its bytes, whose digest is ID; nil for a plain tree.
	OCI json.RawMessage `json:"-"`
}

// Config is what of an OCI image's config says how to run it, under its names there.
type Config struct {
	Env        []string `json:"Env,omitempty"`
	Cmd        []string `json:"Cmd,omitempty"`
	Entrypoint []string `json:"Entrypoint,omitempty"`
	WorkingDir string   `json:"WorkingDir,omitempty"`
	User       string   `json:"User,omitempty"`
	StopSignal string   `json:"StopSignal,omitempty"`
	Volumes    []string `json:"Volumes,omitempty"` // sorted
}

// Platform is what an image's programs were built for, in the OCI's words.
type Platform struct {
	OS           string `json:"os,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	Variant      string `json:"variant,omitempty"`
}

// String is for people, whatever a stranger has written there.
func (p Platform) String() string {
	text := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		text += "/" + p.Variant
	}
	return shorten(strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f {
			return r
		}
		return '?'
	}, text))
}

// For is the image's platform; of a plain tree nobody has said any. The whole config, which
// may be long, is only read where the record does not tell.
func (i *Image) For() (p Platform, err error) {
	if i.Platform != nil {
		return *i.Platform, nil
	}
	if len(i.OCI) > 0 {
		if err = json.Unmarshal(i.OCI, &p); err != nil {
			err = fmt.Errorf("image %s: its config: %w", i.Name, err)
		}
	}
	return p, err
}

// Layer is the top layer, what storage.Request takes.
func (i *Image) Layer() string { return i.Layers[len(i.Layers)-1] }

// Store is the directory of records.
type Store struct{ dir, storage string }

// Open looks at nothing: an unused storage is a store without images.
func Open(storage string) *Store {
	return &Store{dir: filepath.Join(storage, "images"), storage: storage}
}

// Get reads an image's record. Who goes on to use the layers wants Use.
func (s *Store) Get(name string) (*Image, error) { return s.get(name, whole) }

// get reads a record, or the part of it that a start wants.
func (s *Store) get(name string, decode func(data []byte, name string) (*Image, error)) (*Image, error) {
	full, err := ParseName(name)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(s.dir, fileName(full)))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("image %s below %s: %w; see: thinrun image list", full, s.storage, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	img, err := decode(data, full)
	if errors.Is(err, errDamaged) {
		err = fmt.Errorf("%w (delete its containers, remove this file, and gc takes its layers)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(s.dir, fileName(full)), err)
	}
	return img, nil
}

// Use reads an image's record and holds the image: until release it is neither removed
// nor replaced.
func (s *Store) Use(name string) (img *Image, release func(), err error) { return s.use(name, whole) }

// Start is Use for a container's start, which costs the same for an image of a thousand
// layers: of the layers only the top one is read. A container's create holds the image
// until its own record names that layer.
func (s *Store) Start(name string) (img *Image, release func(), err error) {
	return s.use(name, first)
}

func (s *Store) use(name string, decode func([]byte, string) (*Image, error)) (img *Image, release func(), err error) {
	unlock, err := s.lock(lockRecords, unix.LOCK_SH)
	if errors.Is(err, os.ErrNotExist) { // no images yet
		img, err = s.get(name, decode)
		return img, func() {}, err
	}
	if err != nil {
		return nil, nil, err
	}
	if img, err = s.get(name, decode); err != nil {
		unlock()
		return nil, nil, err
	}
	return img, unlock, nil
}

// List reads all records, by name. Damaged ones are in the error; the others still come.
func (s *Store) List() (list []Image, err error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var bad []error
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		img, err := s.Get(strings.ReplaceAll(base, "+", "/"))
		switch {
		case err == nil:
			list = append(list, *img)
		case !errors.Is(err, ErrNotFound): // removed since
			bad = append(bad, err)
		}
	}
	return list, errors.Join(bad...)
}

// Remove removes the name, and the layers that no other image has. inUse tells which
// containers are on a layer.
func (s *Store) Remove(name string, layers storage.LayerStore, inUse func(layer string) []string) error {
	if _, err := s.Get(name); err != nil { // before anything is made in an unused storage
		return err
	}
	unlock, err := s.lock(lockRecords, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	img, err := s.Get(name)
	if err != nil {
		return err
	}
	if err := s.refuseUsed(img, inUse); err != nil {
		return err
	}
	// The record goes first, durably: a record without its layer is a broken image, a
	// layer without its record is garbage that gc takes.
	if err := durable.Remove(filepath.Join(s.dir, fileName(img.Name))); err != nil {
		return err
	}
	if err := s.drop(img, layers); err != nil {
		return fmt.Errorf("image %s is removed, but not all of it: %w", img.Name, err)
	}
	return nil
}

// layers are all layers that a record names. A damaged record is an error: what it
// named is unknown, and nothing may be taken for garbage.
func (s *Store) layers() (map[string]bool, error) {
	list, err := s.List()
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool)
	for _, img := range list {
		for _, id := range img.Layers {
			known[id] = true
		}
	}
	return known, nil
}

// The two locks: files that stay, and that the kernel unlocks when a holder dies. Starts may
// be many at any time, so who changes a record comes before those that come later.
const (
	lockRecords = ".lock"    // shared: an image is being taken into use; alone: a record changes
	lockImports = ".imports" // shared: an image is being made or exported; alone: all are forgotten
)

func (s *Store) lock(name string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock.Gated(f, how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// newRecord is a record's name until it is whole.
const newRecord = ".new"

// put writes a record so that after a power cut there is the old one or the new one.
// The caller holds the lock alone, so the temporary name is ours.
func (s *Store) put(img *Image) error {
	data, err := encode(img)
	if err != nil {
		return err
	}
	return durable.WriteVia(filepath.Join(s.dir, newRecord), filepath.Join(s.dir, fileName(img.Name)), data)
}
