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
		Description: "With --image and no --bundle the config is made from the options below, and COMMAND is the program; what\n" +
			"of it begins with a dash comes after --, as in: run --image app job1 -- --verbose\n\n" +
			"The exit code is the program's, or 128 and the signal that ended it. It is 1, with a line on standard error, where\n" +
			"the program could not be run.\n\n" +
			"Example: thinrun run --image debian --memory 256M job1 make test",
		Flags: append(append(createFlags(),
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "return once the program runs"},
			&cli.BoolFlag{Name: "keep", Usage: "leave the container's state and cgroup when its program has ended"},
			&cli.BoolFlag{Name: "rm", Usage: "nothing: without --detach and --keep a container is always deleted at its end"},
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
			if c.Bool("rm") && (opt.Detach || opt.Keep) {
				return errors.New("--rm: a container that is left to itself or kept is there until delete; leave --rm out")
			}
			args := c.Args().Tail()
			if opt.Image != "" && opt.Bundle == "" {
				var err error
				if opt.ImageOptions, err = imageOptions(c, args); err != nil {
					return err
				}
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
		&cli.StringFlag{Name: "entrypoint", Usage: "`PROGRAM` instead of the image's entrypoint and command; \"\" for none"},
		&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`NAME=VALUE`, or NAME to pass it on"},
		&cli.StringSliceFlag{Name: "env-file", Usage: "`FILE` with a NAME=VALUE per line"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`USER[:GROUP]`, numbers, or names of the image"},
		&cli.StringFlag{Name: "workdir", Aliases: []string{"w"}, Usage: "`DIR` to run in"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the program a terminal"},
		&cli.BoolFlag{Name: "interactive", Aliases: []string{"i"}, Usage: "nothing: standard input is always passed on"},
		&cli.StringFlag{Name: "hostname", Usage: "`NAME`; the id by default"},
		&cli.StringFlag{Name: "memory", Aliases: []string{"m"}, Usage: "limit, such as 512M; swap is not limited by it"},
		&cli.StringFlag{Name: "memory-swap", Usage: "limit of memory and swap together; -1 for none"},
		&cli.Float64Flag{Name: "cpus", Usage: "limit, such as 1.5"},
		&cli.Int64Flag{Name: "pids-limit", Usage: "at most `N` processes"},
		&cli.StringSliceFlag{Name: "ulimit", Usage: "`NAME=SOFT[:HARD]`, such as nofile=1024"},
		&cli.StringFlag{Name: "shm-size", Usage: "`SIZE` of /dev/shm; 64M"},
		&cli.BoolFlag{Name: "read-only", Usage: "the root is read-only"},
		&cli.StringSliceFlag{Name: "cap-add", Usage: "add capability `NAME`, or ALL"},
		&cli.StringSliceFlag{Name: "cap-drop", Usage: "drop capability `NAME`, or ALL"},
		&cli.StringSliceFlag{Name: "security-opt", Usage: "no-new-privileges=false, seccomp=unconfined, apparmor=`PROFILE`, systempaths=unconfined"},
		&cli.StringFlag{Name: "net", Aliases: []string{"network"}, Value: "none", Usage: "none (lo only), host, or the `PATH` of a network namespace"},
		&cli.StringSliceFlag{Name: "volume", Aliases: []string{"v"}, Usage: "bind `SOURCE:TARGET[:OPTIONS]`"},
		&cli.StringSliceFlag{Name: "mount", Usage: "`type=bind,source=DIR,target=DIR[,readonly]`, or type=tmpfs"},
		&cli.StringSliceFlag{Name: "tmpfs", Usage: "a tmpfs on `TARGET[:OPTIONS]`"},
		&cli.StringFlag{Name: "stop-signal", Usage: "what kill sends when it is told no `SIGNAL`"},
		&cli.StringSliceFlag{Name: "annotation", Usage: "`KEY=VALUE`, shown by state"},
		&cli.StringSliceFlag{Name: "label", Aliases: []string{"l"}, Usage: "`KEY=VALUE`, the same as --annotation"},
		&cli.BoolFlag{Name: "privileged", Hidden: true},
	}
}

func imageOptions(c *cli.Context, args []string) (*bundle.ImageOptions, error) {
	if c.Bool("privileged") {
		return nil, errors.New("--privileged: there is no such thing here; name what is needed (--cap-add, --mount, --security-opt)")
	}
	var entrypoint *string
	if c.IsSet("entrypoint") {
		word := c.String("entrypoint")
		entrypoint = &word
	}
	return &bundle.ImageOptions{
		Args: args, Entrypoint: entrypoint, Env: c.StringSlice("env"), EnvFiles: c.StringSlice("env-file"),
		User: c.String("user"), Cwd: c.String("workdir"), Terminal: c.Bool("tty"), Hostname: c.String("hostname"),
		Memory: c.String("memory"), MemorySwap: c.String("memory-swap"), CPUs: c.Float64("cpus"), PidsLimit: c.Int64("pids-limit"),
		Ulimits: c.StringSlice("ulimit"), ShmSize: c.String("shm-size"), ReadOnly: c.Bool("read-only"),
		CapAdd: c.StringSlice("cap-add"), CapDrop: c.StringSlice("cap-drop"), Security: c.StringSlice("security-opt"),
		Net: c.String("net"), Volumes: c.StringSlice("volume"), Mounts: c.StringSlice("mount"), Tmpfs: c.StringSlice("tmpfs"),
		StopSignal: c.String("stop-signal"), Annotations: append(c.StringSlice("annotation"), c.StringSlice("label")...),
	}, nil
}
