package devmapper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// record is a small file of "key value" lines: a stranger can read it, and reading it
// costs a container's start nothing (encoding/json learns a type in 0.2 ms per process).
type record map[string]string

func (r record) str(key string) string { return r[key] }

func (r record) num(key string) uint64 {
	n, _ := strconv.ParseUint(r[key], 10, 64)
	return n
}

func (r record) yes(key string) bool { return r[key] == "yes" }

// lines makes a record's text out of pairs; empty values are left out.
func lines(pairs ...any) []byte {
	var b []byte
	for i := 0; i+1 < len(pairs); i += 2 {
		key := pairs[i].(string)
		switch v := pairs[i+1].(type) {
		case string:
			if v != "" {
				b = fmt.Appendf(b, "%s %q\n", key, v)
			}
		case bool:
			if v {
				b = fmt.Appendf(b, "%s yes\n", key)
			}
		default:
			b = fmt.Appendf(b, "%s %d\n", key, v)
		}
	}
	return append(b, "end\n"...)
}

// errCut: a record without its last line, which a crash cut short before it was durable.
var errCut = errors.New("the record is cut short")

// readRecord reads a record.
func readRecord(path string) (record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseRecord(path, b)
}

func parseRecord(path string, b []byte) (record, error) {
	text, whole := strings.CutSuffix(string(b), "end\n")
	if !whole {
		return nil, fmt.Errorf("%s: %w", path, errCut)
	}
	r := record{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if ok && strings.HasPrefix(value, `"`) {
			unquoted, err := strconv.Unquote(value)
			ok, value = err == nil, unquoted
		}
		if !ok {
			return nil, fmt.Errorf("%s: line %q is neither number, word nor quoted text", path, line)
		}
		r[key] = value
	}
	return r, nil
}

// writeDurable replaces a file so that after a power cut it is the old one or the new
// one: the file's content before its name, the name before the return.
func writeDurable(path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

// removeDurable removes a file; it is gone for good when this returns.
func removeDurable(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some file systems cannot
		return err
	}
	return nil
}
