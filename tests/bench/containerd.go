package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"thinrun/libcontainer/bundle"
)

// containerd is a daemon of our own, with the devmapper snapshotter on a pool of its own.
type containerd struct {
	dir    string // its root, its pool's files
	socket string
	cmd    *exec.Cmd
	rpc    *grpc
	next   int
}

const (
	ctdPool     = "containerd-pool"
	snapshotter = "devmapper"
)

// As Debian ships it; what would not start here or has nothing to do is left out, and the
// snapshotter gets thinrun's block size (the pool's) and disk size.
const ctdConfig = `version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "%[1]s/sock"
[debug]
  level = "warn"
[plugins."io.containerd.snapshotter.v1.devmapper"]
  root_path = "%[1]s/snapshotter"
  pool_name = "` + ctdPool + `"
  base_image_size = "10GB"
`

// startContainerd makes the pool and waits until the daemon answers.
func startContainerd(dir string, poolBytes, metaBytes int64) (*containerd, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	c := &containerd{dir: dir, socket: filepath.Join(dir, "sock")}
	if err := makePool(dir, ctdPool, poolBytes, metaBytes); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, ctdConfig, dir), 0o644); err != nil {
		return nil, err
	}
	said, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer said.Close()
	c.cmd = exec.Command("containerd", "--config", config)
	c.cmd.Stdout, c.cmd.Stderr = said, said
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w (Debian's containerd has it)", err)
	}
	c.rpc = dialGRPC(c.socket)
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) { // it tells nobody when it is ready
		if _, err = c.rpc.call("version.v1.Version/Version"); err == nil {
			return c, nil
		}
		if time.Since(began) > time.Minute {
			text, _ := os.ReadFile(said.Name())
			return nil, fmt.Errorf("containerd does not answer: %w: %s", err, text)
		}
	}
}

func (c *containerd) stop() {
	c.cmd.Process.Signal(unix.SIGTERM)
	c.cmd.Wait()
}

// makePool is what containerd's documentation does with dmsetup, on preallocated files
// and with the loop device's direct I/O, as thinrun's own pool is made.
func makePool(dir, name string, poolBytes, metaBytes int64) error {
	var loops [2]string
	for i, size := range []int64{metaBytes, poolBytes} {
		path := filepath.Join(dir, fmt.Sprintf("pool-%d", i))
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
		f.Close()
		if err != nil {
			return fmt.Errorf("fallocate %s: %w", path, err)
		}
		out, err := command("losetup", "--find", "--show", "--direct-io=on", path)
		if err != nil {
			return err
		}
		loops[i] = strings.TrimSpace(out)
	}
	_, err := command("dmsetup", "create", name, "--table",
		fmt.Sprintf("0 %d thin-pool %s %s 128 1024", poolBytes/512, loops[0], loops[1]))
	return err
}

// poolBlocks is how many data blocks a pool has given out; dmsetup's status commits first.
func poolBlocks(name string) (int, error) {
	out, err := command("dmsetup", "status", name)
	if err != nil {
		return 0, err
	}
	words := strings.Fields(out) // start length thin-pool transaction meta data ...
	if len(words) < 6 {
		return 0, fmt.Errorf("dmsetup status %s: %q", name, out)
	}
	used, _, _ := strings.Cut(words[5], "/")
	return strconv.Atoi(used)
}

func command(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return string(out), nil
}

func (c *containerd) ctr(args ...string) (string, error) {
	return command("ctr", append([]string{"--address", c.socket}, args...)...)
}

func (c *containerd) id() string {
	c.next++
	return fmt.Sprintf("bench-%d", c.next)
}

// held runs act under a lease, which keeps containerd's collector away from what act makes, and
// drops it at the end as a client does.
func (c *containerd) held(act func(id string) error) error {
	id := c.id()
	if _, err := c.rpc.call("leases.v1.Leases/Create", text(1, id)); err != nil {
		return err
	}
	c.rpc.lease = id
	err := act(id)
	c.rpc.lease = ""
	_, e := c.rpc.call("leases.v1.Leases/Delete", text(1, id))
	return errors.Join(err, e)
}

// collect makes containerd give back what was removed: removing only marks it.
func (c *containerd) collect() error {
	id := c.id()
	if _, err := c.rpc.call("leases.v1.Leases/Create", text(1, id)); err != nil {
		return err
	}
	_, err := c.rpc.call("leases.v1.Leases/Delete", text(1, id), flagged(2)) // sync
	return err
}

// mount is where a snapshot is and how.
type mount struct {
	raw                []byte // the message, as a task takes it
	kind, source, data string
}

func (c *containerd) prepare(key, parent string) (m mount, err error) {
	answer, err := c.rpc.call("snapshots.v1.Snapshots/Prepare", text(1, snapshotter), text(2, key), text(3, parent))
	if err != nil {
		return m, err
	}
	if len(answer[1]) != 1 {
		return m, fmt.Errorf("snapshot %s has %d mounts, want one", key, len(answer[1]))
	}
	m.raw = answer[1][0].bytes
	one, err := decode(m.raw)
	if err != nil {
		return m, err
	}
	var options []string
	for _, o := range one[4] {
		if word := string(o.bytes); word != "rw" {
			options = append(options, word)
		}
	}
	m.kind, m.source, m.data = one.text(1), one.text(2), strings.Join(options, ",")
	return m, nil
}

// seal makes an empty layer on top of another, as unpacking does, and keeps it from the
// collector.
func (c *containerd) seal(parent, name string) error {
	return c.held(func(id string) error {
		if _, err := c.prepare(id, parent); err != nil {
			return err
		}
		_, err := c.rpc.call("snapshots.v1.Snapshots/Commit", text(1, snapshotter), text(2, name), text(3, id),
			message(4, text(1, "containerd.io/gc.root"), text(2, "bench")))
		return err
	})
}

func (c *containerd) remove(key string) error {
	_, err := c.rpc.call("snapshots.v1.Snapshots/Remove", text(1, snapshotter), text(2, key))
	return err
}

// life is what containerd's client does for a container, from the image's top layer to
// nothing: without ctr's own start, with a connection that is open already.
func (c *containerd) life(chain string) error {
	return c.held(func(id string) error {
		m, err := c.prepare(id, chain)
		if err != nil {
			return err
		}
		spec := bundle.Default(false)
		spec.Version = "1.0.2"
		spec.Process.Terminal = false
		spec.Process.Args = []string{"true"}
		spec.Linux.CgroupsPath = "/bench/" + id
		config, err := json.Marshal(spec)
		if err != nil {
			return err
		}
		named := text(1, id)
		var exit fields
		for _, step := range []struct {
			method string
			fields [][]byte
		}{
			{"containers.v1.Containers/Create", [][]byte{message(1, named,
				message(4, text(1, "io.containerd.runc.v2")),
				message(5, text(1, "types.containerd.io/opencontainers/runtime-spec/1/Spec"), text(2, string(config))),
				text(6, snapshotter), text(7, id))}},
			{"tasks.v1.Tasks/Create", [][]byte{named, message(3, m.raw)}},
			{"tasks.v1.Tasks/Start", [][]byte{named}},
			{"tasks.v1.Tasks/Wait", [][]byte{named}},
			{"tasks.v1.Tasks/Delete", [][]byte{named}},
			{"containers.v1.Containers/Delete", [][]byte{named}},
		} {
			answer, err := c.rpc.call(step.method, step.fields...)
			if err != nil {
				return err
			}
			if step.method == "tasks.v1.Tasks/Wait" {
				exit = answer
			}
		}
		if len(exit[1]) > 0 && exit[1][0].number != 0 {
			return fmt.Errorf("true ended with %d", exit[1][0].number)
		}
		return c.remove(id)
	})
}

// snapshot is the storage's part of it: a root that can be used, and back.
func (c *containerd) snapshot(chain, at string, use func(root string) error) error {
	return c.held(func(id string) error {
		m, err := c.prepare(id, chain)
		if err != nil {
			return err
		}
		if err := unix.Mount(m.source, at, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.source, err)
		}
		err = use(at)
		if e := unix.Unmount(at, 0); err == nil {
			err = e
		}
		if err != nil {
			return err
		}
		return c.remove(id)
	})
}
