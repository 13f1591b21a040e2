package main

import "github.com/urfave/cli/v2"

func startCommand() *cli.Command {
	return &cli.Command{
		Name:      "start",
		Usage:     "run the program of a created container",
		ArgsUsage: "ID",
		Action: func(c *cli.Context) error {
			id, err := oneArg(c, "the container's id")
			if err != nil {
				return err
			}
			return runtimeOf(c).Start(id)
		},
	}
}
