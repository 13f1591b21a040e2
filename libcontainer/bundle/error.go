package bundle

import (
	"strconv"
	"strings"
)

// Error is a refusal of config.json: where, and what is wrong there. Its text is one
// line, whatever the file holds.
type Error struct {
	File string // name of the file; "" is config.json
	Path string // process.args[0]; "" is the file itself
	What string
	Err  error // below it, if any
}

func (e *Error) Error() string {
	file := e.File
	if file == "" {
		file = "config.json"
	}
	text := file + ": "
	if e.Path != "" {
		text += e.Path + ": "
	}
	text += e.What
	if e.Err != nil {
		if e.What != "" {
			text += ": "
		}
		text += e.Err.Error()
	}
	return oneLine(text)
}

func (e *Error) Unwrap() error { return e.Err }

// Refuse is an Error at a path of config.json.
func Refuse(path, what string) error { return &Error{Path: path, What: what} }

// Quote shows a value from the file in an error: escaped, so that it cannot break the
// line, and cut, so that it cannot flood the log.
func Quote[T ~string](s T) string {
	const most = 80
	if len(s) > most {
		return strconv.Quote(string(s[:most])) + "..."
	}
	return strconv.Quote(string(s))
}

// Index is path[i].
func Index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// Key is path.name, or path["name"] when name would not read well behind a dot.
func Key[T ~string](path string, name T) string {
	for i := 0; i < len(name); i++ {
		c := name[i] | 0x20
		if !('a' <= c && c <= 'z' || '0' <= name[i] && name[i] <= '9' || name[i] == '_' || name[i] == '-') {
			return path + "[" + Quote(name) + "]"
		}
	}
	if len(name) == 0 || len(name) > 80 {
		return path + "[" + Quote(name) + "]"
	}
	if path == "" {
		return string(name)
	}
	return path + "." + string(name)
}

// oneLine holds the promise for text that comes from elsewhere (an errno's, a file
// name's).
func oneLine(s string) string {
	const most = 2048
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}
