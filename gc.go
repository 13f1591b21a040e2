package main

import (
	"fmt"

	"github.com/urfave/cli/v2"
)

func gcCommand() *cli.Command {
	return &cli.Command{
		Name:  "gc",
		Usage: "give back what dead invocations left",
		Description: "Containers whose create or run was killed, half-made images, layers that no image names. Each\n" +
			"that is taken gets a line. It may run at any time, from cron too: what others make or use stays.",
		Action: noArgs(func(c *cli.Context) error {
			freed, err := runtimeOf(c).GC()
			for _, line := range freed {
				fmt.Fprintln(c.App.Writer, line)
			}
			return err
		}),
	}
}
