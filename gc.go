package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func gcCommand() *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "give back what dead invocations left",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			freed, err := runtimeOf(c).GC()
			for _, line := range freed {
				fmt.Fprintln(c.App.Writer, line)
			}
			return err
		},
	}
}
