package power

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"thinrun/rootfs/storage/devmapper"
	"thinrun/rootfs/storage/devmapper/dm"

	"golang.org/x/sys/unix"
)

// found is what the machine after the cut has to say.
type found struct {
	Images map[string]string // name -> hash of what a container of it sees, or why there is none
	Wrong  []string          // what may never be, whatever was promised
}

// runCheck boots as a host does after its power came back: mount, and then the first
// command that somebody types.
func runCheck() error {
	m, err := newMachine()
	if err != nil {
		return err
	}
	f := &found{Images: map[string]string{}}
	host, err := m.slices(m.disks[0])
	if err != nil {
		return err
	}
	if err := unix.Mount(host, hostDir, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount the host's file system: %w", err)
	}
	m.look(f)
	if err := unix.Unmount(hostDir, 0); err != nil {
		return err
	}
	f.must(tool("e2fsck", "-fn", host))
	return json.NewEncoder(os.Stdout).Encode(f)
}

func (f *found) must(err error) {
	if err != nil {
		f.Wrong = append(f.Wrong, err.Error())
	}
}

func (m *machine) look(f *found) {
	// There may be no pool yet, or only half of one: the commands that need one say so.
	_, err := m.thinrun(strings.Fields(m.First)...)
	if err != nil && !strings.Contains(err.Error(), devmapper.ErrNoPool.Error()) {
		f.must(fmt.Errorf("the first command: %w", err))
	}
	names := m.imageNames(f)
	for _, name := range names {
		hash, err := m.inContainer(name, "look", "hash")
		if err != nil {
			hash = err.Error()
		}
		f.Images[name] = hash
	}
	// What a killed pull has sealed is taken by the next one, before a gc or after.
	again := func() {
		f.must(second(m.thinrun("image", "import", "again", "oci:"+m.Images+"/c1:latest")))
		m.holds(f, "again", "c1")
		f.must(second(m.thinrun("image", "rm", "again")))
	}
	if m.Seed%2 == 0 {
		again()
	}
	f.must(second(m.thinrun("gc")))
	if m.Seed%2 != 0 {
		again()
	}
	if said, err := m.thinrun("list", "--quiet"); err != nil || said != "" {
		f.must(fmt.Errorf("containers of before the boot: %q, %w", said, err))
	}
	m.leaks(f)
	m.fsck(f)
}

// holds: a container of the image sees the content.
func (m *machine) holds(f *found, image, content string) {
	hash, err := m.inContainer(image, "look", "hash")
	if want := sum(tree(content)); err != nil || hash != want {
		f.must(fmt.Errorf("image %s: its hash is %.300s, want %s of %s (%v)", image, hash, want, content, err))
	}
}

func (m *machine) imageNames(f *found) (names []string) {
	said, err := m.thinrun("image", "list", "--format", "json")
	f.must(err)
	var list []struct {
		Name   string   `json:"name"`
		Layers []string `json:"layers"`
	}
	if err == nil {
		f.must(json.Unmarshal([]byte(said), &list))
	}
	for _, img := range list {
		names = append(names, strings.TrimSuffix(img.Name, ":latest"))
	}
	return names
}

// leaks: after a gc every id in the pool has a record, and every record its id.
func (m *machine) leaks(f *found) {
	d, err := devmapper.Open(storage, devmapper.Options{StateRoot: stateDir})
	if err != nil {
		f.must(err)
		return
	}
	defer d.Close()
	gone, err := d.GC()
	f.must(err)
	if len(gone.Removed)+len(gone.Busy)+len(gone.Missing) > 0 {
		f.must(fmt.Errorf("after gc another gc finds %+v", gone))
	}
	r, err := d.Check()
	f.must(err)
	if err == nil && !r.OK {
		f.must(fmt.Errorf("the pool's check: %q", r.Problems))
	}
	st, err := d.Status()
	if err == nil && (st.Unfinished > 0 || st.Containers > 0) {
		f.must(fmt.Errorf("after gc there are %d containers and %d unfinished claims", st.Containers, st.Unfinished))
	}
}

// fsck looks at the pool's metadata and at the file system of each layer.
func (m *machine) fsck(f *found) {
	d, err := devmapper.Open(storage, devmapper.Options{StateRoot: stateDir})
	if err != nil {
		f.must(err)
		return
	}
	defer d.Close()
	st, err := d.Status()
	if err != nil {
		f.must(err)
		return
	}
	if st.Problem != "" {
		f.must(errors.New(st.Problem))
	}
	pool, err := m.ctl.Info(st.Name)
	if err != nil {
		f.must(err)
		return
	}
	layers, err := d.Layers()
	f.must(err)
	for _, l := range layers {
		var thin uint32
		if _, err := fmt.Sscanf(l.ID, "%x-", &thin); err != nil {
			f.must(err)
			continue
		}
		dev, err := m.device("power-layer", dm.Target{Length: st.BaseBytes / 512, Type: "thin", Params: fmt.Sprintf("%s %d", pool.Number(), thin)})
		f.must(err)
		if err == nil {
			f.must(tool("e2fsck", "-fn", dev.Node()))
		}
		f.must(second(m.ctl.Remove("power-layer", false)))
	}
	f.must(second(m.ctl.Remove(st.Name, false)))
	f.must(tool("thin_check", st.Metadata.Path))
	left, err := os.ReadDir(storage + "/pool")
	f.must(err)
	for _, e := range left {
		if !slices.Contains([]string{"claims", "data", "layers", "lock", "meta", "pool"}, e.Name()) {
			f.must(fmt.Errorf("left in the pool's directory: %s", e.Name()))
		}
	}
}
