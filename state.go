package main

import (
	"github.com/urfave/cli/v2"
)

func stateCommand() *cli.Command {
	return &cli.Command{
		Name:      "state",
		Usage:     "print a container's state as JSON",
		ArgsUsage: "ID",
		Action: func(c *cli.Context) error {
			id, err := oneArg(c, "the container's id")
			if err != nil {
				return err
			}
			st, err := runtimeOf(c).State(id)
			if err != nil {
				return err
			}
			return printIndented(c, st)
		},
	}
}
