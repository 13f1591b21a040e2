package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"thinrun/rootfs/storage"
)

// Sweep takes away the sealed layers that no record names and that nobody is about to name,
// and tells which. It waits for no import, commit or export, and takes nothing that one of
// them has made or counts on: each of those holds its layers by name (locks).
func (s *Store) Sweep(layers storage.LayerStore) (gone []string, err error) {
	if _, err := os.Stat(s.dir); errors.Is(err, os.ErrNotExist) {
		if all, err := layers.Layers(); err != nil || len(all) == 0 {
			return nil, err // an unused storage stays one
		}
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return nil, err
		}
	}
	l, err := s.locks()
	if err != nil {
		return nil, err
	}
	defer l.close()
	dead, err := s.garbage(layers, l)
	for _, id := range dead {
		if err := layers.RemoveLayer(id); err != nil {
			return gone, err
		}
		l.drop(using(id))
		gone = append(gone, id)
	}
	return gone, err
}

// garbage holds each layer that it names, alone. No record can come to name one any more,
// so the records need no lock while they are taken away.
func (s *Store) garbage(layers storage.LayerStore, l locks) (dead []string, err error) {
	unlock, err := s.lock(lockRecords, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := os.Remove(filepath.Join(s.dir, newRecord)); err != nil && !errors.Is(err, os.ErrNotExist) { // of a killed put
		return nil, err
	}
	known, err := s.layers()
	if err != nil {
		return nil, fmt.Errorf("no layer is taken for garbage: %w", err)
	}
	all, err := layers.Layers()
	if err != nil {
		return nil, err
	}
	for _, layer := range all {
		if known[layer.ID] {
			continue
		}
		free, err := l.abandoned(layer)
		if err != nil {
			return dead, err
		}
		if free {
			dead = append(dead, layer.ID)
		}
	}
	return dead, nil
}
