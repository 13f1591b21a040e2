package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"thinrun/libcontainer"
	"thinrun/libcontainer/bundle"

	"github.com/urfave/cli/v2"
)

func poolCommand() *cli.Command {
	return &cli.Command{
		Name:  "pool",
		Usage: "the thin pool that images and containers live in",
		Subcommands: []*cli.Command{
			{
				Name:  "create",
				Usage: "make the pool (the first image does it too)",
				Description: "Without devices the pool is two preallocated files below --storage.\n\n" +
					"Example: thinrun pool create --data-device /dev/vg/data --metadata-device /dev/vg/meta",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "data-device", Usage: "block `DEVICE` for data; all of it"},
					&cli.StringFlag{Name: "metadata-device", Usage: "block `DEVICE` for metadata; all of it"},
					&cli.StringFlag{Name: "data-size", Usage: "`SIZE` of the data file to begin with"},
					&cli.StringFlag{Name: "metadata-size", Usage: "`SIZE` of the metadata file"},
					&cli.StringFlag{Name: "max-size", Usage: "`SIZE` beyond which the data file does not grow"},
					&cli.StringFlag{Name: "low-water", Usage: "`SIZE`: with less free nothing new starts"},
					&cli.StringFlag{Name: "base-size", Usage: "`SIZE` of a container's disk: 1G, 10G or 100G"},
					&cli.StringFlag{Name: "block-size", Usage: "`SIZE` of a pool block; 64K"},
				},
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					opt, err := poolOptions(c)
					if err != nil {
						return err
					}
					return runtimeOf(c).CreatePool(opt)
				},
			},
			{
				Name:  "status",
				Usage: "show how full the pool is",
				Flags: []cli.Flag{&cli.StringFlag{Name: "format", Value: "table", Usage: "table or json"}},
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					st, err := runtimeOf(c).PoolStatus()
					if err != nil {
						return err
					}
					return printPool(c, &st)
				},
			},
			{
				Name:  "destroy",
				Usage: "remove the pool with all its images; refused while it is in use",
				Action: func(c *cli.Context) error {
					if err := noArgs(c); err != nil {
						return err
					}
					return runtimeOf(c).DestroyPool()
				},
			},
		},
	}
}

func poolOptions(c *cli.Context) (libcontainer.PoolOptions, error) {
	opt := libcontainer.PoolOptions{DataDevice: c.String("data-device"), MetadataDevice: c.String("metadata-device")}
	var block uint64
	for _, f := range []struct {
		flag string
		dst  *uint64
	}{
		{"data-size", &opt.DataBytes}, {"metadata-size", &opt.MetaBytes}, {"max-size", &opt.MaxBytes},
		{"low-water", &opt.LowWater}, {"base-size", &opt.BaseBytes}, {"block-size", &block},
	} {
		if word := c.String(f.flag); word != "" {
			n, err := bundle.ParseSize(word)
			if err != nil {
				return opt, fmt.Errorf("--%s: %w", f.flag, err)
			}
			*f.dst = n
		}
	}
	opt.BlockSectors = uint32(block / 512)
	return opt, nil
}

func printPool(c *cli.Context, st *libcontainer.PoolStatus) error {
	switch c.String("format") {
	case "json":
		out := json.NewEncoder(c.App.Writer)
		out.SetIndent("", "  ")
		return out.Encode(st)
	case "table":
	default:
		return fmt.Errorf("--format: %q is neither table nor json", c.String("format"))
	}
	w := c.App.Writer
	mode := st.Mode
	if st.NeedsCheck {
		mode += " needs_check"
	}
	fmt.Fprintf(w, "pool       %s (%s), %s\n", st.Name, st.Path, mode)
	fmt.Fprintf(w, "data       %s %s of %s\n", bar(st.Data.UsedBytes, st.Data.TotalBytes), size(int64(st.Data.UsedBytes)), size(int64(st.Data.TotalBytes)))
	fmt.Fprintf(w, "metadata   %s %s of %s\n", bar(st.Metadata.UsedBytes, st.Metadata.TotalBytes), size(int64(st.Metadata.UsedBytes)), size(int64(st.Metadata.TotalBytes)))
	fmt.Fprintf(w, "clock      %s %d of %d snapshots\n", bar(uint64(st.Clock), uint64(st.ClockLimit)), st.Clock, st.ClockLimit)
	fmt.Fprintf(w, "holds      %d layers, %d containers, disks of %s\n", st.Layers, st.Containers, size(int64(st.BaseBytes)))
	if st.Problem != "" {
		fmt.Fprintf(w, "problem    %s\n", st.Problem)
	}
	return nil
}

// bar is twenty characters of how full something is.
func bar(used, total uint64) string {
	const width = 20
	n := 0
	if total > 0 {
		n = int(min(used*width/total, width))
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat(".", width-n) + "]"
}
