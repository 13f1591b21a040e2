package main

import (
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
			poolCreateCommand(), poolStatusCommand(), poolGrowCommand(), poolTrimCommand(),
			poolCheckCommand(), poolRenewCommand(), poolDestroyCommand(),
		},
	}
}

func poolCreateCommand() *cli.Command {
	return &cli.Command{
		Name:  "create",
		Usage: "make the pool (the first image does it too)",
		Description: "Without devices the pool is two preallocated files below --storage, which grow by themselves.\n\n" +
			"Example: thinrun pool create --data-device /dev/vg/data --metadata-device /dev/vg/meta",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data-device", Usage: "block `DEVICE` for data; all of it"},
			&cli.StringFlag{Name: "metadata-device", Usage: "block `DEVICE` for metadata; all of it"},
			&cli.StringFlag{Name: "data-size", Usage: "`SIZE` of the data file to begin with"},
			&cli.StringFlag{Name: "metadata-size", Usage: "`SIZE` of the metadata file"},
			&cli.StringFlag{Name: "max-size", Usage: "`SIZE` beyond which the data file does not grow by itself"},
			&cli.StringFlag{Name: "low-water", Usage: "`SIZE`: with less free nothing new starts"},
			&cli.StringFlag{Name: "base-size", Usage: "`SIZE` of a container's disk: 1G, 10G or 100G"},
			&cli.StringFlag{Name: "block-size", Usage: "`SIZE` of a pool block; 64K"},
			&cli.StringFlag{Name: "admission", Value: "reserve", Usage: "reserve: nothing starts below the low water; strict: nor what could fill the pool"},
			&cli.BoolFlag{Name: "return-space", Usage: "a sparse data file, which gives back what containers free"},
		},
		Action: noArgs(func(c *cli.Context) error {
			opt, err := poolOptions(c)
			if err != nil {
				return err
			}
			return runtimeOf(c).CreatePool(opt)
		}),
	}
}

func poolStatusCommand() *cli.Command {
	return &cli.Command{
		Name:        "status",
		Usage:       "show how full and how old the pool is",
		Description: "Example: thinrun pool status --format json",
		Flags:       []cli.Flag{&cli.StringFlag{Name: "format", Value: "table", Usage: "table or json"}},
		Action: noArgs(func(c *cli.Context) error {
			st, err := runtimeOf(c).PoolStatus()
			if err != nil {
				return err
			}
			return printPool(c, &st)
		}),
	}
}

func poolGrowCommand() *cli.Command {
	return &cli.Command{
		Name:  "grow",
		Usage: "make the pool larger while containers run",
		Description: "A SIZE is what it shall have; with a plus what is added. Without any, files grow by one step and\n" +
			"devices are taken up to their ends.\n\nExample: thinrun pool grow --data-size +20G",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data-size", Usage: "`[+]SIZE` of the data file"},
			&cli.StringFlag{Name: "metadata-size", Usage: "`[+]SIZE` of the metadata file"},
			&cli.StringFlag{Name: "max-size", Usage: "`SIZE` beyond which the data file does not grow by itself from now on"},
		},
		Action: noArgs(func(c *cli.Context) error {
			opt, err := growOptions(c)
			if err != nil {
				return err
			}
			grown, err := runtimeOf(c).GrowPool(opt)
			if err != nil {
				return err
			}
			for _, half := range []struct {
				name     string
				from, to uint64
			}{{"data", grown.DataFrom, grown.DataTo}, {"metadata", grown.MetaFrom, grown.MetaTo}} {
				if half.to != half.from {
					fmt.Fprintf(c.App.Writer, "%-10s %s, before %s\n", half.name, size(int64(half.to)), size(int64(half.from)))
				}
			}
			return nil
		}),
	}
}

func poolTrimCommand() *cli.Command {
	return &cli.Command{
		Name:  "trim",
		Usage: "give the host back what nobody in the pool uses",
		Flags: []cli.Flag{&cli.StringFlag{Name: "format", Value: "table", Usage: "table or json"}},
		Action: noArgs(func(c *cli.Context) error {
			trimmed, err := runtimeOf(c).TrimPool()
			if err != nil {
				return err
			}
			if done, err := printJSON(c, trimmed); done {
				return err
			}
			kept := ""
			if trimmed.Reserve > 0 {
				kept = fmt.Sprintf("; %s stay, free, for what is written next", size(int64(trimmed.Reserve)))
			}
			fmt.Fprintf(c.App.Writer, "%s given back%s\n", size(int64(trimmed.Bytes)), kept)
			return nil
		}),
	}
}

func poolCheckCommand() *cli.Command {
	return &cli.Command{
		Name:  "check",
		Usage: "read all of the pool's metadata; exit code 1 if something is wrong",
		Description: "A pool whose metadata could not be written to takes nothing new until it was checked: when the\n" +
			"device is well again and its containers have ended, --repair does that.\n\nExample: thinrun pool check --repair",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Value: "table", Usage: "table or json"},
			&cli.BoolFlag{Name: "repair", Usage: "bring the pool back first, if its metadata is good; nothing may be in use"},
		},
		Action: noArgs(func(c *cli.Context) error {
			rt := runtimeOf(c)
			if c.Bool("repair") {
				if err := rt.RepairPool(); err != nil {
					return err
				}
			}
			report, err := rt.CheckPool()
			if err != nil {
				return err
			}
			return printReport(c, &report)
		}),
	}
}

func poolRenewCommand() *cli.Command {
	return &cli.Command{
		Name:        "renew",
		Usage:       "give a worn pool its time back; nothing may be in use",
		Description: "A pool counts its snapshots with 24 bits. pool status shows how many are left.",
		Action: noArgs(func(c *cli.Context) error {
			return runtimeOf(c).RenewPool()
		}),
	}
}

func poolDestroyCommand() *cli.Command {
	return &cli.Command{
		Name:  "destroy",
		Usage: "remove the pool; refused while containers or images are in it",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "with all its images"}},
		Action: noArgs(func(c *cli.Context) error {
			return runtimeOf(c).DestroyPool(c.Bool("force"))
		}),
	}
}

func poolOptions(c *cli.Context) (libcontainer.PoolOptions, error) {
	opt := libcontainer.PoolOptions{
		DataDevice: c.String("data-device"), MetadataDevice: c.String("metadata-device"), ReturnSpace: c.Bool("return-space"),
	}
	switch word := c.String("admission"); word {
	case "reserve":
	case "strict":
		opt.Strict = true
	default:
		return opt, fmt.Errorf("--admission: %q is neither reserve nor strict", word)
	}
	var block uint64
	for _, f := range []struct {
		flag string
		dst  *uint64
	}{
		{"data-size", &opt.DataBytes}, {"metadata-size", &opt.MetaBytes}, {"max-size", &opt.MaxBytes},
		{"low-water", &opt.LowWater}, {"base-size", &opt.BaseBytes}, {"block-size", &block},
	} {
		if err := sizeFlag(f.flag, c.String(f.flag), f.dst); err != nil {
			return opt, err
		}
		if c.String(f.flag) != "" && *f.dst == 0 { // which would be no flag
			return opt, fmt.Errorf("--%s: %s is no size", f.flag, c.String(f.flag))
		}
	}
	if block%512 != 0 || block > 1<<30 {
		return opt, fmt.Errorf("--block-size: %s is not a multiple of 64K up to 1G", c.String("block-size"))
	}
	opt.BlockSectors = uint32(block / 512)
	return opt, nil
}

func growOptions(c *cli.Context) (opt libcontainer.GrowOptions, err error) {
	for _, f := range []struct {
		flag     string
		dst, add *uint64
	}{{"data-size", &opt.DataBytes, &opt.AddData}, {"metadata-size", &opt.MetaBytes, &opt.AddMeta}, {"max-size", &opt.MaxBytes, nil}} {
		word, dst := c.String(f.flag), f.dst
		if more, plus := strings.CutPrefix(word, "+"); plus && f.add != nil {
			word, dst = more, f.add
		}
		if err := sizeFlag(f.flag, word, dst); err != nil {
			return opt, err
		}
		if word != "" && *dst == 0 { // which would be no flag
			return opt, fmt.Errorf("--%s: %s is no size to grow to", f.flag, word)
		}
	}
	return opt, nil
}

// sizeFlag reads a size, if it is given.
func sizeFlag(flag, word string, dst *uint64) (err error) {
	if word == "" {
		return nil
	}
	if *dst, err = bundle.ParseSize(word); err != nil {
		return fmt.Errorf("--%s: %w", flag, err)
	}
	return nil
}

func printPool(c *cli.Context, st *libcontainer.PoolStatus) error {
	if done, err := printJSON(c, st); done {
		return err
	}
	w := c.App.Writer
	mode := st.Mode
	if st.NeedsCheck {
		mode += " needs_check"
	}
	fmt.Fprintf(w, "pool       %s (%s), %s\n", st.Name, st.Path, mode)
	line := func(name string, used, total uint64, text string) {
		fmt.Fprintf(w, "%-10s %s %3d%%  %s\n", name, bar(used, total), percent(used, total), text)
	}
	half := func(name string, s libcontainer.PoolSpace) {
		text := size(int64(s.UsedBytes)) + " of " + size(int64(s.TotalBytes))
		if s.RoomBytes > 0 {
			text += ", grows by itself up to " + size(int64(s.TotalBytes+s.RoomBytes))
		}
		line(name, s.UsedBytes, s.TotalBytes, text)
	}
	half("data", st.Data)
	half("metadata", st.Metadata)
	line("clock", uint64(st.Clock), uint64(st.ClockLimit), fmt.Sprintf("%d of %d snapshots", st.Clock, st.ClockLimit))
	fmt.Fprintf(w, "admission  %s; %s are promised to %d writers\n", st.Admission, size(int64(st.PromisedBytes)), st.Writers)
	fmt.Fprintf(w, "holds      %d layers, %d containers, disks of %s\n", st.Layers, st.Containers, size(int64(st.BaseBytes)))
	if st.Problem != "" {
		fmt.Fprintf(w, "problem    %s\n", st.Problem)
	}
	return nil
}

func printReport(c *cli.Context, r *libcontainer.PoolReport) error {
	done, err := printJSON(c, r)
	if err != nil {
		return err
	}
	if !done {
		for _, problem := range r.Problems {
			fmt.Fprintln(c.App.Writer, problem)
		}
		if r.Cure != "" {
			fmt.Fprintln(c.App.Writer, r.Cure)
		}
		if r.OK {
			fmt.Fprintf(c.App.Writer, "good: %d layers, %d containers, %d thin devices, %d blocks\n", r.Layers, r.Containers, r.Thins, r.Blocks)
		}
		if r.Leaked > 0 {
			fmt.Fprintf(c.App.Writer, "%d blocks are counted as used and nobody has them\n", r.Leaked)
		}
	}
	if !r.OK {
		return exitStatus(1)
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

func percent(used, total uint64) uint64 {
	if total == 0 {
		return 0
	}
	return used * 100 / total
}
