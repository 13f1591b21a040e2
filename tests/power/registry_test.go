package power

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// registryAddress is on a loopback of our own, in the box as in the machine.
const registryAddress = "127.0.0.1:5000"

// startRegistry serves the images below dir with Debian's docker-registry; readOnly for
// a machine, where dir cannot be written. It has printed that it listens when this
// returns.
func startRegistry(dir string, readOnly bool) (stop func() error, err error) {
	config := filepath.Join(os.TempDir(), "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: info}\nhttp: {addr: %s}\nstorage:\n  filesystem: {rootdirectory: %s}\n  maintenance:\n    uploadpurging: {enabled: false}\n    readonly: {enabled: %v}\n",
		registryAddress, dir, readOnly)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it says that it was killed
		return err
	}
	var said strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), "listening on") {
			go func() { // what it says later must not fill the pipe; ends with it
				for lines.Scan() {
				}
			}()
			return stop, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("docker-registry: %s", said.String()), stop())
}

// push puts the layouts of all contents into a registry on dir.
func push(dir, layouts string) error {
	stop, err := startRegistry(dir, false)
	if err != nil {
		return err
	}
	for i := range contents {
		content := fmt.Sprintf("c%d", i)
		err := tool("skopeo", "copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "oci:"+filepath.Join(layouts, content)+":latest", "docker://"+registryAddress+"/"+content)
		if err != nil {
			return errors.Join(err, stop())
		}
	}
	return stop()
}
