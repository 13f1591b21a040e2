package main

import (
	"thinrun/libcontainer"

	"github.com/urfave/cli/v2"
)

func createCommand() *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "make a container; its program waits for start",
		ArgsUsage: "ID",
		Flags:     append(createFlags(), &cli.BoolFlag{Name: "dry-run", Usage: "print the plan as JSON and touch nothing"}),
		Action: func(c *cli.Context) error {
			id, err := oneArg(c, "the container's id")
			if err != nil {
				return err
			}
			rt, opt := runtimeOf(c), createOptions(c)
			if c.Bool("dry-run") {
				p, err := rt.DryRun(id, opt)
				if err != nil {
					return err
				}
				return printIndented(c, p)
			}
			return rt.Create(id, opt)
		},
	}
}

// createFlags are common to create and run.
func createFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Usage: "`DIR` with config.json (default: the working directory)"},
		&cli.StringFlag{Name: "config", Aliases: []string{"f"}, Usage: "`FILE` in place of the bundle's config.json"},
		&cli.StringFlag{Name: "console-socket", Usage: "`SOCKET` that receives the terminal's master"},
		&cli.StringFlag{Name: "pidfd-socket", Usage: "`SOCKET` that receives a pidfd of init"},
		&cli.StringFlag{Name: "pid-file", Usage: "`FILE` for init's pid"},
		&cli.BoolFlag{Name: "no-pivot", Usage: "move the root instead of pivot_root, for an initramfs"},
		&cli.BoolFlag{Name: "no-new-keyring", Usage: "keep the caller's session keyring"},
		&cli.IntFlag{Name: "preserve-fds", Usage: "pass on `N` descriptors from 3 on"},
		&cli.StringFlag{Name: "image", Usage: "root the container on a snapshot of image `NAME`"},
		&cli.StringFlag{Name: "rootfs-size", Usage: "`SIZE` of the container's disk, such as 20G"},
	}
}

func createOptions(c *cli.Context) libcontainer.CreateOptions {
	return libcontainer.CreateOptions{
		Bundle: c.String("bundle"), Config: c.String("config"), Image: c.String("image"), RootfsSize: c.String("rootfs-size"),
		ConsoleSocket: c.String("console-socket"), PidfdSocket: c.String("pidfd-socket"), PidFile: c.String("pid-file"),
		NoPivot: c.Bool("no-pivot"), NoNewKeyring: c.Bool("no-new-keyring"), PreserveFDs: c.Int("preserve-fds"),
	}
}
