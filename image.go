package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"thinrun/libcontainer"

	"github.com/urfave/cli/v2"
)

func imageCommand() *cli.Command {
	return &cli.Command{
		Name:  "image",
		Usage: "keep root file systems to run containers from",
		Subcommands: append(transferCommands(),
			imageListCommand(), imageInspectCommand(), imageTagCommand(), imageRmCommand(), imageCommitCommand()),
	}
}

func imageListCommand() *cli.Command {
	return &cli.Command{
		Name:        "list",
		Aliases:     []string{"ls"},
		Usage:       "list images",
		Description: "SIZE is what the files take, layers that others share included. EXCLUSIVE is what image rm would\ngive back.\n\nExample: thinrun image list --format json",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "table", Usage: "table or json"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "names only"},
		},
		Action: noArgs(func(c *cli.Context) error {
			list, bad := runtimeOf(c).Images(c.Bool("quiet")) // what there is, and then the error
			if list == nil {
				return bad
			}
			return errors.Join(printImages(c, list), bad)
		}),
	}
}

func imageInspectCommand() *cli.Command {
	return &cli.Command{
		Name:        "inspect",
		Usage:       "print all about an image as JSON",
		ArgsUsage:   "NAME",
		Description: "The record, the layers with their chain ids, the containers on it, and the OCI config that it came with.",
		Action: func(c *cli.Context) error {
			name, err := oneArg(c, "the image's name")
			if err != nil {
				return err
			}
			img, err := runtimeOf(c).InspectImage(name)
			if err != nil {
				return err
			}
			return printIndented(c, img)
		},
	}
}

func imageTagCommand() *cli.Command {
	return &cli.Command{
		Name:        "tag",
		Usage:       "give an image a second name",
		ArgsUsage:   "NAME NEW",
		Description: "Both names are of the same layers; each can be removed on its own.\n\nExample: thinrun image tag debian:12 debian:latest",
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return errors.New("wants the image's name and a new one")
			}
			return runtimeOf(c).TagImage(c.Args().Get(0), c.Args().Get(1))
		},
	}
}

func imageRmCommand() *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Usage:     "remove images that no container uses",
		ArgsUsage: "NAME...",
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return errors.New("wants an image's name")
			}
			rt := runtimeOf(c)
			var errs []error
			for _, name := range c.Args().Slice() { // those that can go do
				errs = append(errs, rt.RemoveImage(name))
			}
			return errors.Join(errs...)
		},
	}
}

func imageCommitCommand() *cli.Command {
	return &cli.Command{
		Name:      "commit",
		Usage:     "make an image of what a container's root holds now",
		ArgsUsage: "CONTAINER NAME",
		Description: "The container may run: its file system is frozen for the moment of a snapshot.\n\n" +
			"Example: thinrun image commit --change 'CMD [\"nginx\"]' web1 web",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "message", Aliases: []string{"m"}, Usage: "`TEXT` for the image's history"},
			&cli.StringFlag{Name: "author", Aliases: []string{"a"}, Usage: "`NAME` for the image's config"},
			&cli.StringSliceFlag{Name: "change", Aliases: []string{"c"}, Usage: "`INSTRUCTION` of a Dockerfile: CMD ENTRYPOINT ENV EXPOSE LABEL STOPSIGNAL USER VOLUME WORKDIR"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 2 {
				return errors.New("wants the container's id and a name for the image")
			}
			img, err := runtimeOf(c).CommitContainer(c.Context, c.Args().Get(0), c.Args().Get(1), libcontainer.CommitOptions{
				Message: c.String("message"), Author: c.String("author"), Changes: c.StringSlice("change"),
			})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "%s %s (%s)\n", img.Name, size(img.Size), img.Driver)
			return nil
		},
	}
}

func printImages(c *cli.Context, list []libcontainer.ListedImage) error {
	if c.Bool("quiet") {
		for _, img := range list {
			fmt.Fprintln(c.App.Writer, img.Name)
		}
		return nil
	}
	if done, err := printJSON(c, list); done {
		return err
	}
	now := time.Now()
	w := tabwriter.NewWriter(c.App.Writer, 12, 1, 3, ' ', 0)
	fmt.Fprint(w, "NAME\tSIZE\tEXCLUSIVE\tLAYERS\tAGE\n")
	for _, img := range list {
		own := "-"
		if img.Exclusive != nil {
			own = size(int64(*img.Exclusive))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", img.Name, size(img.Size), own, len(img.Layers), age(now.Sub(img.Created)))
	}
	return w.Flush()
}

// printIndented is JSON for people who look at one thing.
func printIndented(c *cli.Context, v any) error {
	out := json.NewEncoder(c.App.Writer)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// printJSON answers --format: done unless a table is wanted.
func printJSON(c *cli.Context, v any) (done bool, err error) {
	switch format := c.String("format"); format {
	case "table":
		return false, nil
	case "json":
		return true, json.NewEncoder(c.App.Writer).Encode(v)
	default:
		return true, fmt.Errorf("--format: %q is neither table nor json", format)
	}
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

// age is how long ago something was, for people.
func age(d time.Duration) string {
	for _, u := range []struct {
		name string
		one  time.Duration
	}{{"year", 365 * 24 * time.Hour}, {"month", 30 * 24 * time.Hour}, {"week", 7 * 24 * time.Hour}, {"day", 24 * time.Hour}, {"hour", time.Hour}, {"minute", time.Minute}} {
		if n := int(d / u.one); n == 1 {
			return "1 " + u.name + " ago"
		} else if n > 1 {
			return fmt.Sprintf("%d %ss ago", n, u.name)
		}
	}
	return "just now" // or in the future, by a clock that was set
}
