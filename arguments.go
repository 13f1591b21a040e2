package main

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// reorder moves a command's flags before its arguments. runc takes them anywhere up to
// the command line of the container; this parser stops at the first argument, and it
// does not take -e beside --env, so that all flags get their long name too.
func reorder(app *cli.App, args []string) []string {
	i := 1
	for i < len(args) && strings.HasPrefix(args[i], "-") {
		_, values := longName(app.Flags, args[i])
		i += 1 + values
	}
	if i >= len(args) {
		return args
	}
	cmd := app.Command(args[i])
	for i++; cmd != nil && len(cmd.Subcommands) > 0 && i < len(args); i++ {
		sub := (*cli.Command)(nil)
		for _, s := range cmd.Subcommands {
			if s.HasName(args[i]) {
				sub = s
			}
		}
		if sub == nil {
			return args
		}
		cmd = sub
	}
	if cmd == nil {
		return args
	}
	// After so many arguments comes the container's command line, or a signal.
	last := len(args)
	switch cmd.Name {
	case "exec", "kill":
		last = 1
	case "run":
		last = 2
	}
	head := args[:i]
	var flags, rest []string
	dashes := false
	for ; i < len(args) && len(rest) < last; i++ {
		switch a := args[i]; {
		case a == "--":
			rest, dashes = append(rest, args[i+1:]...), true
			i = len(args)
		case a == "-h", a == "--help", a == "-help": // not help on an argument before it
			return append(slices.Clone(head), "--help")
		case bundled(cmd.Flags, a):
			for _, letter := range a[1:] {
				long, _ := longName(cmd.Flags, "-"+string(letter))
				flags = append(flags, long)
			}
		case strings.HasPrefix(a, "-") && a != "-":
			long, values := longName(cmd.Flags, a)
			values = min(values, len(args)-i-1)
			flags = append(append(flags, long), args[i+1:i+1+values]...)
			i += values
		default:
			rest = append(rest, a)
		}
	}
	if dashes {
		flags = append(flags, "--") // an id may begin with a dash
	}
	return slices.Concat(head, flags, rest, args[min(i, len(args)):])
}

// bundled tells whether arg is several flags of one letter without a value, as in -it.
func bundled(flags []cli.Flag, arg string) bool {
	letters, ok := strings.CutPrefix(arg, "-")
	if !ok || len(letters) < 2 || letters[0] == '-' {
		return false
	}
	known := func(name string) (cli.Flag, bool) {
		i := slices.IndexFunc(flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
		if i < 0 {
			return nil, false
		}
		return flags[i], true
	}
	if name, _, _ := strings.Cut(letters, "="); name != letters {
		return false
	}
	if _, whole := known(letters); whole { // -quiet, as Go's flags have it
		return false
	}
	for _, letter := range letters {
		f, ok := known(string(letter))
		if d, is := f.(cli.DocGenerationFlag); !ok || !is || d.TakesValue() {
			return false
		}
	}
	return true
}

// longName is the flag in its first spelling, and 1 when the next argument is its value.
func longName(flags []cli.Flag, arg string) (string, int) {
	name, value, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	for _, f := range flags {
		names := f.Names()
		if !slices.Contains(names, name) {
			continue
		}
		long := "--" + names[0]
		if given {
			return long + "=" + value, 0
		}
		if d, ok := f.(cli.DocGenerationFlag); ok && d.TakesValue() {
			return long, 1
		}
		return long, 0
	}
	return arg, 0
}

// namedFlag is a flag that knows its names. The library finds them with a regular
// expression each time that it looks, and it looks at all flags for each flag: 0.7 ms of
// every run.
type namedFlag struct {
	describedFlag
	names []string
}

// describedFlag is all that the library asks of a flag with one value.
type describedFlag interface {
	cli.DocGenerationFlag
	cli.CategorizableFlag
}

func (f *namedFlag) Names() []string { return f.names }

// namedStrings and namedNumbers have several values. The library tells such flags about
// separators by a method that only it can name the argument of: they are embedded whole.
type namedStrings struct {
	*cli.StringSliceFlag
	names []string
}

func (f *namedStrings) Names() []string { return f.names }

type namedNumbers struct {
	*cli.Int64SliceFlag
	names []string
}

func (f *namedNumbers) Names() []string { return f.names }

func rememberNames(flags []cli.Flag) {
	names := func(name string, aliases []string) []string { return append([]string{name}, aliases...) }
	for i, f := range flags {
		switch f := f.(type) {
		case *cli.StringFlag:
			flags[i] = &namedFlag{f, names(f.Name, f.Aliases)}
		case *cli.BoolFlag:
			flags[i] = &namedFlag{f, names(f.Name, f.Aliases)}
		case *cli.IntFlag:
			flags[i] = &namedFlag{f, names(f.Name, f.Aliases)}
		case *cli.Int64Flag:
			flags[i] = &namedFlag{f, names(f.Name, f.Aliases)}
		case *cli.Float64Flag:
			flags[i] = &namedFlag{f, names(f.Name, f.Aliases)}
		case *cli.StringSliceFlag:
			flags[i] = &namedStrings{f, names(f.Name, f.Aliases)}
		case *cli.Int64SliceFlag:
			flags[i] = &namedNumbers{f, names(f.Name, f.Aliases)}
		}
	}
}
