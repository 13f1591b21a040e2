package main

import (
	"slices"
	"testing"

	"github.com/urfave/cli/v2"
)

// Each flag is one that remembers its names, and they are those that the library finds.
func TestFlagsRememberTheirNames(t *testing.T) {
	var look func(path string, flags []cli.Flag, commands []*cli.Command)
	look = func(path string, flags []cli.Flag, commands []*cli.Command) {
		for _, f := range flags {
			var want []string
			switch f := f.(type) {
			case *namedFlag:
				want = f.describedFlag.Names()
			case *namedStrings:
				want = f.StringSliceFlag.Names()
			case *namedNumbers:
				want = f.Int64SliceFlag.Names()
			default:
				t.Errorf("%s: --%s is a %T, whose names the library looks for time and again", path, f.Names()[0], f)
				continue
			}
			if got := f.Names(); !slices.Equal(got, want) {
				t.Errorf("%s: %q; the library says %q", path, got, want)
			}
		}
		for _, c := range commands {
			look(path+" "+c.Name, c.Flags, c.Subcommands)
		}
	}
	app := newApp()
	look(app.Name, app.Flags, app.Commands)
}

// A comma belongs to a value, also of a flag that remembers its names.
func TestSeparatorsReachTheFlags(t *testing.T) {
	app := newApp()
	var cgroup []string
	var gids []int64
	app.Command("exec").Action = func(c *cli.Context) error {
		cgroup, gids = c.StringSlice("cgroup"), c.Int64Slice("additional-gids")
		return nil
	}
	args := []string{"thinrun", "exec", "--cgroup", "cpu,cpuacct:a", "--cgroup", "b", "-g", "7", "-g", "8", "id", "true"}
	if err := app.Run(reorder(app, args)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cgroup, []string{"cpu,cpuacct:a", "b"}) || !slices.Equal(gids, []int64{7, 8}) {
		t.Errorf("--cgroup %q, --additional-gids %d", cgroup, gids)
	}
}
