package libcontainer

import (
	"fmt"
	"path/filepath"
	"runtime"

	"thinrun/image"
	"thinrun/libcontainer/bundle"
	"thinrun/libcontainer/plan"
	"thinrun/libcontainer/seccomp"
)

// heldImage cannot be removed or replaced until release, which may be called again.
type heldImage struct {
	*image.Image
	release func()
}

// imageBundle makes the config of run --image out of what the image says and the options.
// The image is held until release: what is read here must be what the root is made of.
func (rt *Runtime) imageBundle(id string, opt *RunOptions) (_ func(), err error) {
	root, err := filepath.Abs(rt.Root)
	if err != nil {
		return nil, err
	}
	storageDir, err := rt.storageDir()
	if err != nil {
		return nil, err
	}
	img, release, err := image.Open(storageDir).Start(opt.Image)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	if err := runsHere(img, runtime.GOARCH); err != nil {
		return nil, err
	}
	o := *opt.ImageOptions
	if o.Hostname == "" {
		o.Hostname = id
	}
	o.Image = bundle.ImageConfig{
		Env: img.Config.Env, Entrypoint: img.Config.Entrypoint, Cmd: img.Config.Cmd,
		User: img.Config.User, WorkingDir: img.Config.WorkingDir, StopSignal: img.Config.StopSignal,
	}
	if o.StopSignal != "" {
		if _, err := ParseSignal(o.StopSignal); err != nil {
			return nil, fmt.Errorf("stop-signal: %w", err)
		}
	}
	if opt.Spec, err = bundle.ForImage(o); err != nil {
		return nil, err
	}
	opt.image, opt.Spec.Dir = &heldImage{img, release}, filepath.Join(root, id)
	opt.localhost = o.Net != "host" // whose own file is there then
	spec := opt.Spec.Spec
	if !o.Unfiltered() {
		var caps uint64
		for _, name := range spec.Process.Capabilities.Bounding {
			caps |= 1 << bundle.Capability(name)
		}
		spec.Linux.Seccomp = plan.SeccompSection(seccomp.Default(caps))
	}
	opt.Spec.Raw = bundle.Encode(spec) // what exec will read
	return release, nil
}

// runsHere refuses an image of another architecture by name: its programs would only say
// "exec format error". The kernel runs the 32-bit programs of its own family.
func runsHere(img *image.Image, arch string) error {
	of, err := img.For()
	if err != nil {
		return err
	}
	smaller := map[string]string{"amd64": "386", "arm64": "arm"}[arch]
	if of.OS != "" && of.OS != "linux" || of.Architecture != "" && of.Architecture != arch && of.Architecture != smaller {
		return fmt.Errorf("image %s is for %s and this machine is linux/%s: pull or import it for that platform", img.Name, of, arch)
	}
	return nil
}

// volumes are the image's: made in the root where they are missing, and no more than
// that. They need no place of their own, for the whole disk goes with the container.
func (opt *CreateOptions) volumes() []string {
	if opt.image == nil {
		return nil
	}
	return opt.image.Config.Volumes
}
