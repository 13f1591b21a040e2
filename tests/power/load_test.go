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

	"thinrun/rootfs/storage/devmapper/dm"

	"golang.org/x/sys/unix"
)

// load makes a host whose disk is recorded, and works on it. Its disks are the one that
// is recorded and the one that takes the log.
type load struct {
	*machine
	seq atomic.Int64
}

const logName = "power-log"

func runLoad() error {
	m, err := newMachine()
	if err != nil {
		return err
	}
	l := &load{machine: m}
	d, err := l.device(logName, dm.Target{Length: diskSize / 512, Type: "log-writes", Params: m.disks[0] + " " + m.disks[1]})
	if err != nil {
		return err
	}
	host, err := l.slices(d.Node())
	if err != nil {
		return err
	}
	if err := tool("mkfs.ext4", "-q", "-F", "-E", "nodiscard", host); err != nil {
		return err
	}
	if err := unix.Mount(host, hostDir, "ext4", 0, ""); err != nil {
		return err
	}
	if err := unix.Mkdir(storage, 0o700); err != nil {
		return err
	}
	unix.Sync()
	if err := l.mark("mounted"); err != nil {
		return err
	}
	if err := l.work(); err != nil {
		return err
	}
	if err := l.mark("end"); err != nil {
		return err
	}
	return l.dismantle()
}

// mark leaves a word in the log: all that was durable before it stands before it.
func (l *load) mark(format string, args ...any) error {
	return l.ctl.Message(logName, "mark "+fmt.Sprintf(format, args...))
}

// command runs one and marks its begin and end.
func (l *load) command(what, name, content string, run func() error) (done bool, err error) {
	seq := l.seq.Add(1)
	if err := l.mark("begin/%d/%s/%s/%s", seq, what, name, content); err != nil {
		return false, err
	}
	word := "done"
	if err := run(); err != nil {
		// The one refusal that the load provokes: somebody else is on the same layer, or at
		// an import while this is gc.
		if !strings.Contains(err.Error(), "in use") && !strings.Contains(err.Error(), "being imported") {
			return false, err
		}
		word = "refused"
	}
	fmt.Printf("%s %s %s %s\n", word, what, name, content)
	return word == "done", l.mark("%s/%d", word, seq)
}

func (l *load) work() error {
	create := []string{"pool", "create", "--base-size", "1G", "--low-water", "32M"}
	if l.Devices {
		create = append(create, "--data-device", "/dev/power-data", "--metadata-device", "/dev/power-meta")
	} else {
		create = append(create, "--data-size", fmt.Sprint(dataSize), "--metadata-size", fmt.Sprint(metaSize))
	}
	if _, err := l.command("pool", "", "", func() error { return second(l.thinrun(create...)) }); err != nil {
		return err
	}
	errs := make([]error, l.Workers)
	var all sync.WaitGroup
	for i := range l.Workers {
		w := &worker{load: l, n: i, rnd: rand.New(rand.NewPCG(l.Seed, uint64(i))), images: map[string]string{}, stay: map[string]string{}}
		all.Go(func() { errs[i] = w.run() })
	}
	all.Wait()
	return errors.Join(errs...)
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
	some, have := w.some(w.images)
	id, runs := w.some(w.stay)
	switch n := w.rnd.IntN(100); {
	case n < 30 || !have:
		content := fmt.Sprintf("c%d", w.rnd.IntN(8)) // the workers', too
		return w.put("import", name, content, "image", "import", name, w.Images+"/"+content+".tar")
	case n < 50:
		done, err := w.command("rm", some, "", func() error { return second(w.thinrun("image", "rm", some)) })
		if done {
			delete(w.images, some)
		}
		return err
	case n < 65:
		_, err := w.command("run", "", "", func() error { return second(w.inContainer(some, w.id(), "write")) })
		return err
	case n < 75 && !runs:
		id := w.id()
		_, err := w.command("start", "", "", func() error { return second(w.inContainer(some, id, "stay", "--detach")) })
		w.stay[id] = w.images[some]
		return err
	case n < 80 && runs:
		_, err := w.command("delete", "", "", func() error { return second(w.thinrun("delete", "--force", id)) })
		delete(w.stay, id)
		return err
	case n < 83:
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
	return fmt.Sprintf("c%d-%d", w.n, w.made)
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
