//go:build !split

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"thinrun/image"
	"thinrun/image/transfer"

	"github.com/urfave/cli/v2"
)

func pullImage(c *cli.Context) error {
	ref, name := c.Args().Get(0), c.Args().Get(1)
	if n := c.NArg(); n != 1 && n != 2 {
		return errors.New("wants an image's reference, and perhaps a name for it here")
	}
	if err := transfer.CheckReference(ref); err != nil {
		return err
	}
	if c.NArg() == 1 {
		name = nameOf(ref)
		if _, err := image.ParseName(name); err != nil { // [::1]:5000/debian is a reference
			return fmt.Errorf("%w, as the second argument", err)
		}
	}
	return interruptible(c, func(ctx context.Context) error {
		return bring(ctx, c, name, "docker://"+strings.TrimPrefix(ref, "docker://"), transfer.Options{
			Insecure:    !c.Bool("tls-verify"),
			Credentials: c.String("creds"),
			CertDir:     c.String("cert-dir"),
		})
	})
}

func importImage(c *cli.Context) error {
	if c.NArg() != 2 {
		return errors.New("wants a name and a directory, a tar, oci:DIR, oci-archive:FILE or docker-archive:FILE (- for standard input)")
	}
	return interruptible(c, func(ctx context.Context) error {
		return bring(ctx, c, c.Args().Get(0), c.Args().Get(1), transfer.Options{Stdin: os.Stdin})
	})
}

// bring makes an image of what lies elsewhere.
func bring(ctx context.Context, c *cli.Context, name, what string, opt transfer.Options) error {
	if _, err := image.ParseName(name); err != nil { // before anybody is asked for it
		return err
	}
	opt.Platform, opt.Spool = c.String("platform"), spoolDir(c)
	show := newProgress(os.Stderr, c.Bool("quiet"))
	opt.Progress = show.transferred
	src, err := transfer.Open(ctx, what, opt)
	if err != nil {
		return err
	}
	show.begin(src)
	img, err := runtimeOf(c).ImportImage(ctx, name, src, show.unpacked)
	show.end()
	if err := errors.Join(err, src.Close()); err != nil {
		return err
	}
	if c.Bool("quiet") {
		fmt.Fprintln(c.App.Writer, img.Name)
		return nil
	}
	fmt.Fprintf(c.App.Writer, "%s %s (%s)\n", img.Name, size(img.Size), img.Driver)
	return nil
}

func exportImage(c *cli.Context) error {
	if n := c.NArg(); n != 1 && n != 2 {
		return errors.New("wants an image's name, and perhaps a file")
	}
	if c.NArg() == 2 && c.Args().Get(1) == "" { // "$FILE" of a script that never set it
		return errors.New("the file's name is empty; - is standard output")
	}
	return interruptible(c, func(ctx context.Context) error { return export(ctx, c, c.Args().Get(0), c.Args().Get(1)) })
}

func export(ctx context.Context, c *cli.Context, name, file string) error {
	write := func(w io.Writer) error {
		return runtimeOf(c).ExportImage(ctx, name, func(e *image.Export) error {
			_, err := transfer.WriteArchive(ctx, w, e, transfer.Options{Spool: spoolDir(c)})
			return err
		})
	}
	if file == "" || file == "-" {
		if transfer.IsTerminal(os.Stdout) {
			return errors.New("an archive is nothing for a terminal: name a file, or redirect standard output")
		}
		return write(os.Stdout)
	}
	return transfer.WriteFile(ctx, file, write)
}

// interruptible lets work give back what it has when a signal comes. The error is the signal
// then, of which run dies.
func interruptible(c *cli.Context, work func(context.Context) error) error {
	ctx, stop := transfer.Interruptible(c.Context)
	defer stop()
	err := work(ctx)
	var came *transfer.Interrupted
	if err != nil && errors.As(context.Cause(ctx), &came) {
		return came
	}
	return err
}
