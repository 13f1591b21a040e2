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
		Action: noArgs(func(c *cli.Context) error {
			out := json.NewEncoder(c.App.Writer)
			out.SetIndent("", "    ")
			return out.Encode(libcontainer.Features())
		}),
	}
}
