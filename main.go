// The runtime would open the host's cgroup files in every invocation, the init stage
// included, to follow CPU limits: start-up time, and descriptors of the host inside.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// thinrun is a container runtime: OCI bundles and images, on device-mapper thin
// snapshots, without a daemon and without cgo.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

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
	var signal interface{ Die() }
	if errors.As(err, &signal) { // see interruptible
		signal.Die()
	}
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

// noArgs is the action of a command about everything there is: a word that would be
// ignored is a mistake.
func noArgs(act cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() != 0 {
			return errors.New("wants no argument")
		}
		return act(c)
	}
}

// oneArg is the only argument of most commands.
func oneArg(c *cli.Context, what string) (string, error) {
	if c.NArg() != 1 {
		return "", fmt.Errorf("wants one argument: %s", what)
	}
	return c.Args().First(), nil
}

// printVersion prints what go-runc parses: the first line, and "commit:" and "spec:".
func printVersion(c *cli.Context) {
	fmt.Fprintf(c.App.Writer, "thinrun version %s\n", version)
	if commit != "" {
		fmt.Fprintf(c.App.Writer, "commit: %s\n", commit)
	}
	fmt.Fprintf(c.App.Writer, "spec: %s\ngo: %s\n", specs.Version, runtime.Version())
}
