//go:build split

package main

import (
	_ "embed"

	"thinrun/libcontainer"

	"github.com/urfave/cli/v2"
)

// This program starts several times in the life of each container, and the libraries
// that know registries and compression would double what a start costs, used or not. So
// they are linked into a second program, which this one carries and becomes when it is
// about to transfer an image. make build makes both; CGO_ENABLED=0 go build makes the whole one.
//
//go:embed .build/thinrun-full
var whole string

func pullImage(*cli.Context) error   { return libcontainer.Become(whole) }
func importImage(*cli.Context) error { return libcontainer.Become(whole) }
func exportImage(*cli.Context) error { return libcontainer.Become(whole) }
