package main

import (
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

// transferCommands bring images in and out. What they do is in image_transfer.go, or, in
// the program that leaves the libraries for it out, in image_face.go.
func transferCommands() []*cli.Command {
	platform := &cli.StringFlag{Name: "platform", Usage: "take the image for `OS/ARCH[/VARIANT]`, not for this machine"}
	quiet := &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print the image's name only"}
	return []*cli.Command{
		{
			Name:        "pull",
			Usage:       "make an image out of one in a registry",
			ArgsUsage:   "REF [NAME]",
			Description: "REF is [HOST[:PORT]/]NAME[:TAG][@DIGEST], as docker pull takes it. The image is called NAME,\nor REF without its digest. Credentials come from --creds, from $REGISTRY_AUTH_FILE, or from\nwhat podman login and docker login keep; CAs and client certificates from --cert-dir, or from the\nfirst directory named HOST[:PORT] in ~/.config/containers/certs.d, /etc/containers/certs.d and\n/etc/docker/certs.d. This machine's own registries may speak plain http.\n\nExample: thinrun image pull docker.io/library/debian:12 debian",
			Flags: []cli.Flag{
				&cli.BoolFlag{Name: "tls-verify", Value: true, Usage: "want https, and a certificate that is known"},
				&cli.StringFlag{Name: "creds", Usage: "log in as `USER:PASSWORD`"},
				&cli.StringFlag{Name: "cert-dir", Usage: "take CAs (*.crt) and our certificates (*.cert, *.key) from `DIR`, not from certs.d"},
				platform, quiet,
			},
			Action: pullImage,
		},
		{
			Name:        "import",
			Usage:       "make an image out of a directory, a tar, an OCI layout or an archive",
			ArgsUsage:   "NAME SOURCE",
			Description: "SOURCE is a directory or a tar file (plain, gzip or zstd), of a root file system or of an image,\n- for a tar on standard input, oci:DIR[:REF], oci-archive:FILE[:REF] or docker-archive:FILE[:REF].\n\nExample: thinrun image import debian debian.tar.zst",
			Flags:       []cli.Flag{platform, quiet},
			Action:      importImage,
		},
		{
			Name:        "export",
			Usage:       "write an image as an OCI archive",
			ArgsUsage:   "NAME [FILE]",
			Description: "The archive goes to FILE, or to standard output. skopeo and podman take it as oci-archive:FILE.\nEach layer is written anew, the same each time: what is imported from the archive shares its layers with\nother imports of exports of the image, and not with the image as it was pulled.\n\nExample: thinrun image export debian debian.oci.tar",
			Action:      exportImage,
		},
	}
}

// nameOf is what a pulled image is called if nobody says.
func nameOf(ref string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(ref, "docker://"), "@")
	return name
}

// spoolDir is where layers lie while they come, on the same disk as the images.
func spoolDir(c *cli.Context) string { return filepath.Join(c.String("storage"), "images") }
