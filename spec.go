package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"thinrun/libcontainer/bundle"

	"github.com/urfave/cli/v2"
)

func specCommand() *cli.Command {
	return &cli.Command{
		Name:  "spec",
		Usage: "write a config.json to start from",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bundle", Aliases: []string{"b"}, Value: ".", Usage: "`DIR` to write it in"},
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Value: "config.json", Usage: "`NAME` of the file"},
			&cli.BoolFlag{Name: "rootless", Usage: "for a user without root"},
		},
		Action: noArgs(func(c *cli.Context) error {
			data, err := json.MarshalIndent(bundle.Default(c.Bool("rootless")), "", "\t")
			if err != nil {
				return err
			}
			name := c.String("file")
			if !filepath.IsAbs(name) {
				name = filepath.Join(c.String("bundle"), name)
			}
			f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists; remove it first", name)
			}
			if err != nil {
				return err
			}
			_, err = f.Write(append(data, '\n'))
			return errors.Join(err, f.Close())
		}),
	}
}
