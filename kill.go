package main

import (
	"errors"

	"thinrun/libcontainer"

	"github.com/urfave/cli/v2"
)

func killCommand() *cli.Command {
	return &cli.Command{
		Name:      "kill",
		Usage:     "send a signal (SIGTERM, or the image's stop signal) to a container's init",
		ArgsUsage: "ID [SIGNAL]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "to every process of a container whose init is gone, too"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() < 1 || c.NArg() > 2 {
				return errors.New("wants the container's id and perhaps a signal")
			}
			rt, id, word := runtimeOf(c), c.Args().First(), c.Args().Get(1)
			if word == "" {
				word = rt.StopSignal(id)
			}
			sig, err := libcontainer.ParseSignal(word)
			if err != nil {
				return err
			}
			return rt.Kill(id, sig, c.Bool("all"))
		},
	}
}
