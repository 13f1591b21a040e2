package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"thinrun/image"

	"github.com/urfave/cli/v2"
)

func imageCommand() *cli.Command {
	return &cli.Command{
		Name:  "image",
		Usage: "keep root file systems to run containers from",
		Subcommands: append(transferCommands(), []*cli.Command{
			{
				Name:    "list",
				Aliases: []string{"ls"},
				Usage:   "list images",
				Flags:   []cli.Flag{&cli.StringFlag{Name: "format", Value: "table", Usage: "table or json"}},
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					list, bad := runtimeOf(c).Images() // what there is, and then the error
					return errors.Join(printImages(c, list), bad)
				},
			},
			{
				Name:      "rm",
				Usage:     "remove an image that no container uses",
				ArgsUsage: "NAME",
				Action: func(c *cli.Context) error {
					name, err := oneArg(c, "the image's name")
					if err != nil {
						return err
					}
					return runtimeOf(c).RemoveImage(name)
				},
			},
		}...),
	}
}

func printImages(c *cli.Context, list []image.Image) error {
	switch c.String("format") {
	case "json":
		if list == nil {
			list = []image.Image{}
		}
		return json.NewEncoder(c.App.Writer).Encode(list)
	case "table":
		w := tabwriter.NewWriter(c.App.Writer, 12, 1, 3, ' ', 0)
		fmt.Fprint(w, "NAME\tSIZE\tLAYERS\tDRIVER\tCREATED\n")
		for _, img := range list {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", img.Name, size(img.Size), len(img.Layers), img.Driver, img.Created.Format(time.RFC3339))
		}
		return w.Flush()
	}
	return fmt.Errorf("--format: %q is neither table nor json", c.String("format"))
}

// size is a number of bytes for people.
func size(n int64) string {
	const units = "KMGTP"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
