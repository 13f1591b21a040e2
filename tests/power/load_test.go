package power

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"thinrun/image"
	"thinrun/rootfs/storage/devmapper/dm"

	"golang.org/x/sys/unix"
)

// load works on a host: a new one on a disk that is recorded, with the disk of the log
// as the second; or, to be killed, one that is there.
type load struct {
	*machine
	seq   atomic.Int64
	marks *os.File // nil: they go into the log
}

const logName = "power-log"

func runLoad() error {
	m, err := newMachine()
	if err != nil {
		return err
	}
	l := &load{machine: m}
	disk := m.disks[0]
	if m.Marks == "" {
		d, err := l.device(logName, dm.Target{Length: diskSize / 512, Type: "log-writes", Params: m.disks[0] + " " + m.disks[1]})
		if err != nil {
			return err
		}
		disk = d.Node()
	} else if l.marks, err = os.OpenFile(m.Marks, os.O_WRONLY|os.O_APPEND|os.O_SYNC, 0); err != nil {
		return err
	}
	host, err := l.slices(disk)
	if err != nil {
		return err
	}
	if !m.Used {
		if err := tool("mkfs.ext4", "-q", "-F", "-E", "nodiscard", host); err != nil {
			return err
		}
	}
	if err := unix.Mount(host, hostDir, "ext4", 0, ""); err != nil {
		return err
	}
	if !m.Used {
		if err := unix.Mkdir(storage, 0o700); err != nil {
			return err
		}
		unix.Sync()
	}
	if err := l.mark("mounted"); err != nil {
		return err
	}
	if err := l.work(); err != nil {
		return err
	}
	if l.marks != nil {
		return errors.New("the machine was to be killed before all work was done")
	}
	return l.dismantle()
}

// mark leaves a word in the log: all that was durable before it stands before it. In the
// file of a machine that is killed it is with the host when this returns.
func (l *load) mark(format string, args ...any) error {
	word := fmt.Sprintf(format, args...)
	if l.marks != nil {
		return second(l.marks.WriteString(word + "\n"))
	}
	return l.ctl.Message(logName, "mark "+word)
}

// command runs one and marks its begin and end.
func (l *load) command(what, name, content string, run func() error) (done bool, err error) {
	seq := l.seq.Add(1)
	if err := l.mark("begin/%d/%s/%s/%s", seq, what, name, content); err != nil {
		return false, err
	}
	word := "done"
	if err := run(); err != nil {
		// The refusal that the load provokes: a container is on the image, or on another of
		// the same layers.
		if !strings.Contains(err.Error(), image.ErrInUse.Error()) {
			return false, err
		}
		word = "refused"
	}
	fmt.Printf("%s %s %s %s\n", word, what, name, content)
	return word == "done", l.mark("%s/%d", word, seq)
}

func (l *load) work() error {
	create := []string{"pool", "create", "--base-size", "1G", "--low-water", "16M"}
	if l.Devices {
		create = append(create, "--data-device", "/dev/power-data", "--metadata-device", "/dev/power-meta")
	} else {
		create = append(create, "--data-size", fmt.Sprint(dataSize/8), "--max-size", fmt.Sprint(dataSize), "--metadata-size", fmt.Sprint(metaSize))
	}
	if !l.Used {
		if _, err := l.command("pool", "", "", func() error { return second(l.thinrun(create...)) }); err != nil {
			return err
		}
	}
	stop, err := startRegistry(l.Registry, true)
	if err != nil {
		return err
	}
	errs := make([]error, l.Workers)
	var all sync.WaitGroup
	for i := range l.Workers {
		w := &worker{load: l, n: i, rnd: rand.New(rand.NewPCG(l.Seed, uint64(i))), images: map[string]string{}, stay: map[string]string{}}
		for name, content := range l.State {
			if strings.HasPrefix(name, fmt.Sprintf("w%d-", i)) {
				w.images[name] = content
			}
		}
		all.Go(func() { errs[i] = w.run() })
	}
	all.Wait()
	return errors.Join(errors.Join(errs...), stop())
}

// worker makes and removes images of its own names; layers it shares with the others.
type worker struct {
	*load
	n, made int
	rnd     *rand.Rand
	images  map[string]string // name -> content
	stay    map[string]string // container that runs -> content of its image
}

func (w *worker) run() error {
	for range w.Rounds {
		if err := w.step(); err != nil {
			return fmt.Errorf("worker %d: %w", w.n, err)
		}
	}
	for id := range w.stay {
		if err := second(w.thinrun("delete", "--force", id)); err != nil {
			return err
		}
	}
	return nil
}

// step is one command, and what it changes.
func (w *worker) step() error {
	name := fmt.Sprintf("w%d-%d", w.n, w.rnd.IntN(5))
	content := fmt.Sprintf("c%d", w.rnd.IntN(contents)) // the workers', too
	some, have := w.some(w.images)
	id, runs := w.some(w.stay)
	switch n := w.rnd.IntN(100); {
	case n < 12 || !have:
		return w.put("pull", name, content, "image", "pull", "--tls-verify=false", registryAddress+"/"+content, name)
	case n < 22:
		return w.put("import", name, content, "image", "import", name, w.Images+"/"+content+".tar")
	case n < 30:
		return w.put("import", name, content, "image", "import", name, "oci:"+w.Images+"/"+content+":latest")
	case n < 36:
		return w.put("tag", name, w.images[some], "image", "tag", some, name)
	case n < 52:
		done, err := w.command("rm", some, "", func() error { return second(w.thinrun("image", "rm", some)) })
		if done {
			delete(w.images, some)
		}
		return err
	case n < 65 && !runs:
		id := w.id()
		_, err := w.command("start", "", "", func() error { return w.stays(some, id) })
		w.stay[id] = w.images[some]
		return err
	case n < 78 && runs:
		return w.put("commit", name, w.stay[id]+"+"+id, "image", "commit", id, name)
	case n < 83 && runs:
		_, err := w.command("delete", "", "", func() error { return second(w.thinrun("delete", "--force", id)) })
		delete(w.stay, id)
		return err
	case n < 86:
		_, err := w.command("gc", "", "", func() error { return second(w.thinrun("gc")) })
		return err
	}
	_, err := w.command("run", "", "", func() error { return second(w.inContainer(some, w.id(), "write")) })
	return err
}

// put is a command that makes an image.
func (w *worker) put(what, name, content string, args ...string) error {
	done, err := w.command(what, name, content, func() error { return second(w.thinrun(args...)) })
	if done {
		w.images[name] = content
	}
	return err
}

// id is that of a new container.
func (w *worker) id() string {
	w.made++
	return fmt.Sprintf("s%d-%d-%d", w.Seed, w.n, w.made)
}

// some is one key of a map, the same in every run.
func (w *worker) some(m map[string]string) (key string, ok bool) {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return "", false
	}
	slices.Sort(keys)
	return keys[w.rnd.IntN(len(keys))], true
}

// dismantle ends the recording: with the device goes the last that was not yet logged.
func (l *load) dismantle() error {
	devices, err := l.ctl.List()
	if err != nil {
		return err
	}
	for _, d := range devices {
		if strings.HasPrefix(d.Name, "thinrun-") {
			if _, err := l.ctl.Remove(d.Name, false); err != nil {
				return err
			}
		}
	}
	if err := unix.Unmount(hostDir, 0); err != nil {
		return err
	}
	if l.Devices {
		for _, name := range []string{"host", "data", "meta"} {
			if _, err := l.ctl.Remove("power-"+name, false); err != nil {
				return err
			}
		}
	}
	if _, err := l.ctl.Remove(logName, false); err != nil {
		return err
	}
	for _, disk := range l.disks {
		f, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
