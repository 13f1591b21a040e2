package main

import "github.com/urfave/cli/v2"

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name:      "delete",
		Usage:     "give everything of a container back",
		ArgsUsage: "ID",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "kill it first; no error when it does not exist"},
		},
		Action: func(c *cli.Context) error {
			id, err := oneArg(c, "the container's id")
			if err != nil {
				return err
			}
			return runtimeOf(c).Delete(id, c.Bool("force"))
		},
	}
}
