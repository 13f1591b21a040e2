package main

import (
	"encoding/json"

	"thinrun/libcontainer"

	"github.com/urfave/cli/v2"
)

func featuresCommand() *cli.Command {
	return &cli.Command{
		Name:  "features",
		Usage: "print what this runtime can do, as JSON",
		Action: func(c *cli.Context) error {
			if err := noArgs(c); err != nil {
				return err
			}
			out := json.NewEncoder(c.App.Writer)
			out.SetIndent("", "    ")
			return out.Encode(libcontainer.Features())
		},
	}
}
