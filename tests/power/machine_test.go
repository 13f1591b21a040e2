package power

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"thinrun/rootfs/storage/devmapper/devnode"
	"thinrun/rootfs/storage/devmapper/dm"

	"golang.org/x/sys/unix"
)

// The test binary runs in machines, too: as the load, as the one that looks after the
// power cut, and as the program in a container. The environment says as which.
const (
	roleVar = "POWER_ROLE"
	jobVar  = "POWER_JOB" // JSON
)

// job is what the test tells its machines.
type job struct {
	Seed    uint64
	Devices bool   // the pool is on block devices, not on files
	Workers int    // in the load
	Rounds  int    // commands of each
	Marks   string // host file that takes the marks; "": the disk is recorded, and its log does
	Used    bool   // the disk is that of an earlier machine, and State the images there
	State   map[string]string
	First   string // the first command after the cut
	// Host directories: tars and layouts of the contents, and the same in a registry.
	Images, Registry string
}

// Where things are in a machine.
const (
	hostDir  = "/mnt/host" // the file system on the disk that loses its power
	storage  = hostDir + "/thinrun"
	stateDir = "/run/thinrun"
	hostSize = 256 << 20 // of it, when the pool is on devices of its own
	dataSize = 512 << 20 // files begin with less, and grow under the load
	metaSize = 16 << 20
	diskSize = 1 << 30
)

// machine is what both the load and the look after the cut stand on.
type machine struct {
	job
	disks []string
	nodes devnode.Nodes
	ctl   *dm.Control
}

func newMachine() (*machine, error) {
	m := &machine{disks: strings.Fields(os.Getenv("LAB_DISKS"))}
	if err := json.Unmarshal([]byte(os.Getenv(jobVar)), &m.job); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(hostDir, 0o755); err != nil {
		return nil, err
	}
	var err error
	m.ctl, err = dm.Open(&m.nodes)
	return m, err
}

// device makes a dm device and answers with its number and node.
func (m *machine) device(name string, targets ...dm.Target) (dm.Device, error) {
	if _, err := m.ctl.Create(name, ""); err != nil {
		return dm.Device{}, err
	}
	if _, err := m.ctl.Load(name, targets...); err != nil {
		return dm.Device{}, err
	}
	return m.ctl.Resume(name)
}

// slices cuts the disk into the host's file system and the pool's devices, which have
// the same names after every boot.
func (m *machine) slices(disk string) (host string, err error) {
	if !m.Devices {
		return disk, nil
	}
	at := uint64(0)
	for _, s := range []struct {
		name  string
		bytes uint64
	}{{"host", hostSize}, {"data", dataSize}, {"meta", metaSize}} {
		d, err := m.device("power-"+s.name, dm.Target{Length: s.bytes / 512, Type: "linear", Params: fmt.Sprintf("%s %d", disk, at/512)})
		if err != nil {
			return "", err
		}
		if err := unix.Mknod("/dev/power-"+s.name, unix.S_IFBLK|0o600, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
			return "", err
		}
		at += s.bytes
	}
	return "/dev/power-host", nil
}

func command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Getenv("THINRUN"), append([]string{"--root", stateDir, "--storage", storage, "--storage-driver", "devmapper"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	return cmd
}

// thinrun runs one command; said is what it printed. What it warned of is in the error if
// there is one.
func (m *machine) thinrun(args ...string) (said string, err error) {
	var out, errw bytes.Buffer
	cmd := command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errw
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("thinrun %s: %w: %.1000s", strings.Join(args, " "), err, bytes.TrimSpace(errw.Bytes()))
	}
	return strings.TrimSpace(out.String()), nil
}

// runFlags run us in a new container of an image.
func runFlags(image, id, role string) ([]string, error) {
	self, err := os.Executable()
	return []string{"run", "--image", image, "-v", self + ":/power:ro", "-e", roleVar + "=" + role, "-e", jobVar + "=" + id}, err
}

func (m *machine) inContainer(image, id, role string) (string, error) {
	args, err := runFlags(image, id, role)
	if err != nil {
		return "", err
	}
	return m.thinrun(append(args, id, "/power")...)
}

// stays starts a container that has written its file when this returns, and stays.
func (m *machine) stays(image, id string) error {
	args, err := runFlags(image, id, "stay")
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := command(append(args, "--detach", id, "/power")...)
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Run()
	w.Close()
	line, _ := bufio.NewReader(r).ReadString('\n')
	if err != nil || line != "written\n" {
		return fmt.Errorf("thinrun run --detach --image %s %s: %w: %q", image, id, err, line)
	}
	return nil
}

// tool runs one of Debian's.
func tool(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %.2000s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// program is what runs in the containers.
func program(role, id string) error {
	switch role {
	case "hash":
		list, err := readTree()
		if err != nil {
			return err
		}
		fmt.Println(sum(list))
		return nil
	case "write", "stay":
		// Synced as a program does that has something to lose, so that the pool is busy.
		f, err := os.Create(filepath.Join("/data", id))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Chmod(0o600), second(f.Write(written(id))), f.Sync(), f.Close()); err != nil {
			return err
		}
		if role == "stay" {
			// Now it may be committed.
			fmt.Println("written")
			return unix.Pause()
		}
		return nil
	}
	return fmt.Errorf("role %q: %w", role, fs.ErrInvalid)
}

func second[T any](_ T, err error) error { return err }
