package devmapper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
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
