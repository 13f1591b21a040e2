package main

import (
	"errors"

	"thinrun/libcontainer"

	"github.com/urfave/cli/v2"
)

func killCommand() *cli.Command {
	return &cli.Command{
		Name:      "kill",
		Usage:     "send a signal (SIGTERM) to a container's init",
		ArgsUsage: "ID [SIGNAL]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "to every process of a container whose init is gone, too"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() < 1 || c.NArg() > 2 {
				return errors.New("wants the container's id and perhaps a signal")
			}
			word := c.Args().Get(1)
			if word == "" {
				word = "SIGTERM"
			}
			sig, err := libcontainer.ParseSignal(word)
			if err != nil {
				return err
			}
			return runtimeOf(c).Kill(c.Args().First(), sig, c.Bool("all"))
		},
	}
}
