package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modules is what modules.dep says: by name, the files to load, the last being its own.
type modules struct {
	dir   string
	files map[string][]string
}

func readModules(dir string) (modules, error) {
	m := modules{dir: dir, files: make(map[string][]string)}
	b, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	for line := range strings.Lines(string(b)) {
		file, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		files := []string{file}
		for _, dep := range strings.Fields(deps) {
			files = append([]string{dep}, files...)
		}
		m.files[strings.ReplaceAll(name, "-", "_")] = files
	}
	return m, err
}

// load inserts a module and those it needs. A name that has no file is built in.
func (m modules) load(name string) error {
	for _, file := range m.files[name] {
		f, err := os.Open(filepath.Join(m.dir, file))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("finit_module %s: %w", file, err)
		}
	}
	return nil
}

func (m modules) loadAll(names string) error {
	for name := range strings.FieldsSeq(names) {
		if err := m.load(name); err != nil {
			return err
		}
	}
	return nil
}

// openTTY opens a console that passes every byte as it is: no CRLF, no echo, no signals.
func openTTY(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// linkUp is "ip link set NAME up".
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}
