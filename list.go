package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"thinrun/libcontainer"

	"github.com/urfave/cli/v2"
)

func listCommand() *cli.Command {
	return &cli.Command{
		Name:  "list",
		Usage: "list containers",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Value: "table", Usage: "table or json"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "ids only"},
		},
		Action: noArgs(func(c *cli.Context) error {
			list, bad := runtimeOf(c).List(c.Bool("quiet")) // what there is, and then the error
			out := bufio.NewWriter(c.App.Writer)            // a table comes in pieces of a few bytes
			switch {
			case c.Bool("quiet"):
				for _, st := range list {
					fmt.Fprintln(out, st.ID)
				}
			case c.String("format") == "json":
				return errors.Join(json.NewEncoder(c.App.Writer).Encode(list), bad)
			case c.String("format") == "table":
				w := tabwriter.NewWriter(out, 12, 1, 3, ' ', 0)
				fmt.Fprint(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER\tDISK\n")
				for _, st := range list {
					fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", st.ID, st.PID, st.Status, st.Bundle, st.Created.Format(time.RFC3339Nano), st.Owner, disk(st.Disk))
				}
				w.Flush()
			default:
				return fmt.Errorf("--format: %q is neither table nor json", c.String("format"))
			}
			return errors.Join(out.Flush(), bad)
		}),
	}
}

// disk is used/size for people; an overlay has no size of its own.
func disk(d *libcontainer.Disk) string {
	switch {
	case d == nil:
		return "-"
	case d.Size == 0:
		return size(int64(d.Used))
	}
	return size(int64(d.Used)) + "/" + size(int64(d.Size))
}
