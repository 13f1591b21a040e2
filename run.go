package main

import (
	"errors"

	"thinrun/libcontainer"
	"thinrun/libcontainer/bundle"

	"github.com/urfave/cli/v2"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "create, start, wait and delete",
		ArgsUsage: "ID [COMMAND...]",
		Description: "With --image and no --bundle the config is made from the options below, and COMMAND is the program.\n\n" +
			"Example: thinrun run --image debian --memory 256M job1 make test",
		Flags: append(append(createFlags(),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "return once the program runs"},
			&cli.BoolFlag{Name: "keep", Usage: "leave the container's state and cgroup when its program has ended"},
			&cli.BoolFlag{Name: "no-subreaper", Usage: "do not adopt the container's orphans"},
		), imageFlags()...),
		Action: func(c *cli.Context) error {
			if c.NArg() < 1 {
				return errors.New("wants the container's id")
			}
			opt := libcontainer.RunOptions{
				CreateOptions: createOptions(c),
				Detach:        c.Bool("detach"), Keep: c.Bool("keep"), NoSubreaper: c.Bool("no-subreaper"),
			}
			args := c.Args().Tail()
			if opt.Image != "" && opt.Bundle == "" {
				opt.ImageOptions = imageOptions(c, args)
			} else if len(args) > 0 {
				return errors.New("a command on the command line needs --image and no --bundle: the bundle's config.json names the program")
			}
			code, err := runtimeOf(c).Run(c.Args().First(), opt)
			if err != nil {
				return err
			}
			if code != 0 {
				return exitStatus(code)
			}
			return nil
		},
	}
}

// imageFlags are the options of run --image, in Docker's and Podman's words.
func imageFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`NAME=VALUE`, or NAME to pass it on"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`UID[:GID]`"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "`DIR` to run in"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the program a terminal"},
		&cli.StringFlag{Name: "hostname", Usage: "`NAME`; the id by default"},
		&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Usage: "limit, such as 512M"},
		&cli.Float64Flag{Name: "cpus", Usage: "limit, such as 1.5"},
		&cli.Int64Flag{Name: "pids-limit", Usage: "at most `N` processes"},
		&cli.BoolFlag{Name: "read-only", Usage: "the root is read-only"},
		&cli.StringSliceFlag{Name: "cap-add", Usage: "add capability `NAME`, or ALL"},
		&cli.StringSliceFlag{Name: "cap-drop", Usage: "drop capability `NAME`, or ALL"},
		&cli.StringFlag{Name: "net", Value: "none", Usage: "none (lo only), host, or the `PATH` of a network namespace"},
		&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Usage: "bind `SOURCE:TARGET[:OPTIONS]`"},
	}
}

func imageOptions(c *cli.Context, args []string) *bundle.ImageOptions {
	return &bundle.ImageOptions{
		Args: args, Env: c.StringSlice("env"), User: c.String("user"), Cwd: c.String("workdir"), Terminal: c.Bool("tty"),
		Hostname: c.String("hostname"), Memory: c.String("memory"), CPUs: c.Float64("cpus"), PidsLimit: c.Int64("pids-limit"),
		ReadOnly: c.Bool("read-only"), CapAdd: c.StringSlice("cap-add"), CapDrop: c.StringSlice("cap-drop"),
		Net: c.String("net"), Volumes: c.StringSlice("volume"),
	}
}
