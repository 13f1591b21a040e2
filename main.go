// The runtime would open the host's cgroup files in every invocation, the init stage
// included, to follow CPU limits: start-up time, and descriptors of the host inside.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// thinrun is a container runtime: OCI bundles and images, on device-mapper thin
// snapshots, without a daemon and without cgo.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"thinrun/libcontainer"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
)

// version and commit are set by the linker; see the Makefile.
var version, commit = "0.1.0-dev", ""

func main() {
	// The init stage is this binary again, in the container's namespaces. It is looked
	// for before anything else: every container waits for it.
	if len(os.Args) == 3 && os.Getenv(libcontainer.InitMark) != "" && libcontainer.IsStage(os.Args[1]) {
		runtime.LockOSThread() // what follows changes this thread only: ids, capabilities, filter
		os.Exit(libcontainer.Init(os.Args[1], os.Args[2]))
	}
	if os.Getenv(libcontainer.InitMark) != "" && libcontainer.IsGuardian(os.Args) {
		os.Exit(libcontainer.Guardian(os.Args))
	}
	os.Exit(run(os.Args))
}

// run is everything else, and the one place that prints an error and picks the exit code.
func run(args []string) int {
	app, out := newApp(), &output{Writer: os.Stdout}
	app.Writer = out
	err := app.Run(reorder(app, args))
	if err == nil {
		err = out.err
	}
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	report(app.Metadata, err)
	if app.Metadata["command"] == "exec" { // runc's code for "exec itself failed"
		return 255
	}
	return 1
}

// output remembers the first write that failed, so that no command has to look: a script
// takes half a list for all there is if the exit code says so.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(b []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.Writer.Write(b)
	o.err = err
	return n, err
}

// exitStatus is the exit code of the container's process, passed on.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

func newApp() *cli.App {
	app := cli.NewApp()
	app.Name = "thinrun"
	app.Usage = "run containers on thin snapshots, and leave nothing behind"
	app.UsageText = "thinrun [global options] command [options] [arguments]\n\nExample:\n   thinrun image import debian ./debian-rootfs\n   thinrun run --image debian job1 sh -c 'echo hello from $(hostname)'"
	app.HideVersion = true               // our -v prints what shims parse
	app.DisableSliceFlagSeparator = true // commas belong to the value: exec --cgroup cpu,cpuacct:sub
	app.Metadata = map[string]any{}
	app.Flags = globalFlags()
	app.Commands = []*cli.Command{
		createCommand(), startCommand(), stateCommand(), killCommand(), deleteCommand(),
		runCommand(), execCommand(), listCommand(), specCommand(), featuresCommand(),
		imageCommand(), poolCommand(), gcCommand(),
	}
	app.CommandNotFound = func(c *cli.Context, name string) {
		of := "thinrun"
		if c.Command != nil && c.Command.Name != of && c.Command.Name != "" { // image, pool
			of += " " + c.Command.Name
		}
		report(app.Metadata, fmt.Errorf("no command %q (see %s --help)", name, of))
		os.Exit(1)
	}
	app.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return err }
	app.ExitErrHandler = func(*cli.Context, error) {}
	app.Before = before
	app.Action = func(c *cli.Context) error {
		if c.Bool("version") {
			printVersion(c)
			return nil
		}
		if name := c.Args().First(); name != "" {
			return fmt.Errorf("no command %q (see thinrun --help)", name)
		}
		return cli.ShowAppHelp(c)
	}
	rememberNames(app.Flags)
	for _, cmd := range app.Commands {
		prepare(app, cmd, cmd.Name)
	}
	return app
}

// prepare gives every command the manners they share.
func prepare(app *cli.App, cmd *cli.Command, path string) {
	cmd.OnUsageError = func(_ *cli.Context, err error, _ bool) error {
		app.Metadata["command"] = path
		return fmt.Errorf("%s: %w (see thinrun %s --help)", path, err, path)
	}
	if act := cmd.Action; act != nil {
		cmd.Action = func(c *cli.Context) error {
			app.Metadata["command"] = path
			err := act(c)
			var status exitStatus
			if err == nil || errors.As(err, &status) {
				return err
			}
			return fmt.Errorf("%s: %w", subject(path, c), err)
		}
	}
	// The library gives every command the verbs help and h. Where there are no other
	// verbs, that is a container's id or an image's name.
	cmd.HideHelpCommand = len(cmd.Subcommands) == 0
	rememberNames(cmd.Flags)
	for _, sub := range cmd.Subcommands {
		prepare(app, sub, path+" "+sub.Name)
	}
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

// subject is what an error is about: the command and its first argument.
func subject(path string, c *cli.Context) string {
	first := c.Args().First()
	if first == "" {
		return path
	}
	if len(first) > 64 {
		first = first[:64] + "..."
	}
	return fmt.Sprintf("%s %q", path, first)
}

func globalFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "root", Value: defaultRoot(), Usage: "state `DIR`"},
		&cli.StringFlag{Name: "storage", Value: "/var/lib/thinrun", EnvVars: []string{"THINRUN_STORAGE"}, Usage: "`DIR` of images and the pool"},
		&cli.StringFlag{Name: "storage-driver", Value: "auto", EnvVars: []string{"THINRUN_STORAGE_DRIVER"}, Usage: "auto, devmapper or overlay: where --image gets its root from"},
		&cli.StringFlag{Name: "log", Usage: "append errors to `FILE`, besides standard error"},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "text or json"},
		&cli.StringFlag{Name: "log-level", Value: "error", Usage: "error, warning or debug"},
		&cli.BoolFlag{Name: "debug", Usage: "the same as --log-level debug"},
		&cli.BoolFlag{Name: "systemd-cgroup", Usage: "cgroupsPath is slice:prefix:name"},
		&cli.StringFlag{Name: "cgroup-manager", Usage: "cgroupfs, systemd or disabled"},
		&cli.StringFlag{Name: "rootless", Value: "auto", Usage: "true, false or auto: ignore cgroup permission errors"},
		&cli.BoolFlag{Name: "version", Aliases: []string{"v"}, Usage: "print the version"},
	}
}

// defaultRoot is runc's rule: a user without root keeps its state in its own runtime
// directory.
func defaultRoot() string {
	if os.Geteuid() != 0 {
		if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
			return dir + "/thinrun"
		}
	}
	return "/run/thinrun"
}

// before checks the global flags and keeps what report needs.
func before(c *cli.Context) error {
	c.App.Metadata["log"], c.App.Metadata["log-format"] = c.String("log"), c.String("log-format")
	for flag, words := range map[string]string{
		"log-format": "text json", "log-level": "error warning debug", "storage-driver": "auto devmapper overlay",
		"rootless": "true false auto", "cgroup-manager": "cgroupfs systemd disabled",
	} {
		if v := c.String(flag); v != "" && !strings.Contains(" "+words+" ", " "+v+" ") {
			return fmt.Errorf("--%s: %q is none of: %s", flag, v, strings.ReplaceAll(words, " ", ", "))
		}
	}
	for flag, word := range map[string]string{"root": "--root", "storage": "--storage (or $THINRUN_STORAGE)"} {
		if c.String(flag) == "" { // "$DIR" of a script that never set it, and not the working directory
			return fmt.Errorf("%s: empty; name a directory", word)
		}
	}
	return nil
}

// runtimeOf is the runtime that the global flags describe.
func runtimeOf(c *cli.Context) *libcontainer.Runtime {
	return &libcontainer.Runtime{
		Root: c.String("root"), Storage: c.String("storage"), StorageDriver: c.String("storage-driver"),
		SystemdCgroup: c.Bool("systemd-cgroup"), CgroupManager: c.String("cgroup-manager"),
		Rootless: c.String("rootless"),
		Warn: func(line string) {
			if c.Bool("debug") || c.String("log-level") != "error" || !c.IsSet("log") {
				fmt.Fprintln(os.Stderr, "thinrun:", line)
			}
		},
	}
}

// noArgs is for commands about everything there is: a word that would be ignored is a
// mistake.
func noArgs(c *cli.Context) error {
	if c.NArg() != 0 {
		return errors.New("wants no argument")
	}
	return nil
}

// oneArg is the only argument of most commands.
func oneArg(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", fmt.Errorf("wants one argument: %s", what)
	}
	return c.Args().First(), nil
}

// shorten bounds an error that quotes what somebody wrote into a config: what happened
// is at both ends.
func shorten(text string) string {
	const end = 1024
	if len(text) <= 2*end {
		return text
	}
	return strings.ToValidUTF8(text[:end], "") + " ... " + strings.ToValidUTF8(text[len(text)-end:], "")
}

// report writes the one line about an error: to standard error for whoever looks, and
// to --log in the shape that containerd and Podman parse (the last record with
// level "error").
func report(meta map[string]any, err error) {
	text := shorten(strings.ReplaceAll(err.Error(), "\n", "; "))
	fmt.Fprintln(os.Stderr, "thinrun:", text)
	file, _ := meta["log"].(string)
	if file == "" {
		return
	}
	f, e := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0o644)
	if e != nil {
		fmt.Fprintln(os.Stderr, "thinrun: --log:", e)
		return
	}
	defer f.Close()
	now := time.Now().Format(time.RFC3339)
	if meta["log-format"] == "json" {
		json.NewEncoder(f).Encode(struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{"error", text, now})
		return
	}
	fmt.Fprintf(f, "time=%q level=error msg=%q\n", now, text)
}

// printVersion prints what go-runc parses: the first line, and "commit:" and "spec:".
func printVersion(c *cli.Context) {
	fmt.Fprintf(c.App.Writer, "thinrun version %s\n", version)
	if commit != "" {
		fmt.Fprintf(c.App.Writer, "commit: %s\n", commit)
	}
	fmt.Fprintf(c.App.Writer, "spec: %s\ngo: %s\n", specs.Version, runtime.Version())
}

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
