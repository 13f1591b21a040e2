package state

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary is also the processes that the tests kill and race: its first
// argument says what to do.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		if play, ok := map[string]func(args []string){
			"claim": playClaim, "churn": playChurn, "hold": playHold, "gate": playGate, "reuse": playReuse,
		}[os.Args[1]]; ok {
			play(os.Args[2:])
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

func actor(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func store(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func claimed(t *testing.T, s *Store, id string) *Container {
	t.Helper()
	c, err := s.Claim(id)
	if err != nil {
		t.Fatalf("claim %q: %v", id, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRecordSurvivesSaveAndLoad(t *testing.T) {
	s := store(t)
	c := claimed(t, s, "web")
	want := full(t)
	if err := c.Save(want); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func() (*Record, error){
		"locked":   c.Load,
		"unlocked": func() (*Record, error) { return s.Read("web") },
	} {
		got, err := read()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !got.Created.Equal(want.Created) {
			t.Errorf("%s: created %v, want %v", name, got.Created, want.Created)
		}
		got.Created = want.Created // same instant, maybe another *time.Location
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v\nwant\n%+v", name, got, want)
		}
	}
}

// full fills every field of a record, so that one which is added and forgotten shows.
func full(t *testing.T) *Record {
	t.Helper()
	rec := new(Record)
	n := 0
	var fill func(v reflect.Value)
	fill = func(v reflect.Value) {
		n++
		switch v.Kind() {
		case reflect.Struct:
			if v.Type() == reflect.TypeFor[time.Time]() {
				v.Set(reflect.ValueOf(time.Date(2026, 8, 22, 10, 0, n%60, 123456789, time.UTC)))
				return
			}
			for i := range v.NumField() {
				fill(v.Field(i))
			}
		case reflect.String:
			v.SetString(fmt.Sprintf("text %d \"quoted\" \\ \n ü \x01 <&>\u2028 𝄞", n))
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int, reflect.Int64:
			v.SetInt(int64(n))
		case reflect.Uint64:
			v.SetUint(1<<63 + uint64(n))
		case reflect.Uint32:
			v.SetUint(1<<31 + uint64(n))
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 2, 2))
			fill(v.Index(0))
			fill(v.Index(1))
		case reflect.Map:
			v.Set(reflect.MakeMap(v.Type()))
			for _, key := range []string{"", "b\"c"} {
				e := reflect.New(v.Type().Elem()).Elem()
				fill(e)
				v.SetMapIndex(reflect.ValueOf(key), e)
			}
		default:
			t.Fatalf("a record holds a %v; teach this test", v.Type())
		}
	}
	fill(reflect.ValueOf(rec).Elem())
	rec.Version = Version
	return rec
}

func TestNewerRecordIsRefused(t *testing.T) {
	s := store(t)
	c := claimed(t, s, "web")
	if err := c.WriteFile(recordFile, []byte(`{"version": 2, "id": "web", "zone": [{}, "x"]}`)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read("web")
	want := `state of container "web": its record has version 2, this thinrun knows 1; use the newer one`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// A power cut can leave any prefix of the record, nothing at all, or zeros.
func TestCutRecordIsAnUnknownContainer(t *testing.T) {
	s := store(t)
	c := claimed(t, s, "web")
	if err := c.Save(full(t)); err != nil {
		t.Fatal(err)
	}
	whole, err := c.ReadFile(recordFile)
	if err != nil {
		t.Fatal(err)
	}
	body := len(strings.TrimRight(string(whole), "\n"))
	cuts := [][]byte{make([]byte, len(whole)), []byte("null"), []byte("[]"), []byte("{}"), []byte("7")}
	for n := range body {
		cuts = append(cuts, whole[:n])
	}
	for _, cut := range cuts {
		if err := c.WriteFile(recordFile, cut); err != nil {
			t.Fatal(err)
		}
		if rec, err := s.Read("web"); rec != nil || !errors.Is(err, ErrNoRecord) {
			t.Fatalf("%d bytes: got %v, %v; want ErrNoRecord", len(cut), rec, err)
		}
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Read("web"); !errors.Is(err, ErrNotExist) {
		t.Errorf("after remove: %v", err)
	}
}

func TestUnclaimedContainer(t *testing.T) {
	s := store(t)
	for name, err := range map[string]error{
		"read": second(s.Read("web")), "lock": second(s.Lock("web")), "list": second(s.List()),
	} {
		if name == "list" {
			if err != nil {
				t.Errorf("list: %v", err)
			}
		} else if !errors.Is(err, ErrNotExist) || err.Error() != "container does not exist" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if held, err := s.GateHeld("web"); held || err != nil {
		t.Errorf("gate: %v, %v", held, err)
	}
	if _, err := os.Lstat(s.Path); !os.IsNotExist(err) {
		t.Errorf("reading made the state directory: %v", err)
	}
	claimed(t, s, "web")
	if _, err := s.Read("web"); !errors.Is(err, ErrNoRecord) {
		t.Errorf("claimed, not saved: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// run gives the store back long before it may have to remove its container.
func TestContainerOutlivesItsStore(t *testing.T) {
	s := store(t)
	c := claimed(t, s, "web")
	if err := c.Save(full(t)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := c.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(c.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", c.Path, err)
	}
}

func TestStateDirectoryIsPrivate(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	s, err := Open(filepath.Join(t.TempDir(), "a/b/"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := claimed(t, s, "web")
	if err := c.Save(full(t)); err != nil {
		t.Fatal(err)
	}
	gate, err := c.Gate()
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close()
	sock, err := c.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	for name, want := range map[string]os.FileMode{
		"": 0o700, "web": 0o700, "web/record.json": 0o600, "web/gate": 0o600, "web/start.sock": 0o600,
	} {
		fi, err := os.Lstat(filepath.Join(s.Path, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.Mode().Perm(); got != want {
			t.Errorf("%q: mode %o, want %o", name, got, want)
		}
	}
}

func TestStateDirectoryOfOthersIsRefused(t *testing.T) {
	base := t.TempDir()
	mk := func(name string, mode os.FileMode, uid int) string {
		p := filepath.Join(base, name)
		if err := os.Mkdir(p, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		if uid >= 0 {
			if err := os.Chown(p, uid, -1); err != nil {
				t.Skipf("chown needs CAP_CHOWN: %v", err)
			}
		}
		return p
	}
	good := mk("good", 0o755, -1)
	link := filepath.Join(base, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]string{
		mk("world", 0o777, -1): "others could change it",
		mk("group", 0o770, -1): "others could change it",
		link:                   "is no directory",
		link + "/":             "is no directory",
		file:                   "is no directory",
	}
	if os.Geteuid() == 0 {
		cases[mk("foreign", 0o700, 12345)] = "belongs to uid 12345"
	}
	for path, want := range cases {
		if s, err := Open(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v; want %q", path, s, err, want)
		}
	}
	s, err := Open(good)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// Each id is tried with every method, over a canary that must not change.
func TestHostileIDsTouchNothing(t *testing.T) {
	base := t.TempDir()
	s, err := Open(filepath.Join(base, "root/state"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := claimed(t, s, "victim")
	if err := c.Save(full(t)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := os.WriteFile(filepath.Join(base, "root/sentinel"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, base)
	for _, id := range []string{
		"", ".", "..", "/", "//", "../sentinel", "../..", "victim/", "victim/..", "./victim", "/etc", "a/b", ".hidden", "...",
		"a\n", "\x00", "a\x00b", "a b", "ü", "a*", "$(id)", "~", "a:b", "a,b", "a@b", "%s", "\xff", strings.Repeat("a", 256), strings.Repeat("a", 2048), strings.Repeat("../", 700),
	} {
		got := map[string]error{
			"check": CheckID(id), "claim": second(s.Claim(id)), "lock": second(s.Lock(id)),
			"read": second(s.Read(id)), "gate": second(s.GateHeld(id)),
		}
		for name, err := range got {
			if err == nil || errors.Is(err, ErrNotExist) || errors.Is(err, ErrExists) {
				t.Errorf("%s %.40q: %v; want a refusal of the id", name, id, err)
			} else if text := err.Error(); len(text) > 2000 || strings.ContainsAny(text, "\n\x00") {
				t.Errorf("%s %.40q: message of %d bytes is not one clean line", name, id, len(text))
			}
		}
	}
	if after := tree(t, base); after != before {
		t.Errorf("changed: before\n%s\nafter\n%s", before, after)
	}
	for _, id := range []string{"a", "-", "_", "+", "0", "a.b", "a..", "A-Z_+.", strings.Repeat("a", 255)} {
		c, err := s.Claim(id)
		if err != nil {
			t.Errorf("%q: %v", id, err)
			continue
		}
		if err := c.Remove(); err != nil {
			t.Errorf("%q: %v", id, err)
		}
		c.Close()
	}
}

func tree(t *testing.T, base string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(base, func(path string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, fi.Mode(), fi.ModTime(), fi.Sys().(*syscall.Stat_t).Ino)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestListIsSortedAndOnlyContainers(t *testing.T) {
	s := store(t)
	for _, id := range []string{"c", "a", "b.x"} {
		claimed(t, s, id)
	}
	for _, name := range []string{".hidden", "with space"} {
		if err := os.Mkdir(filepath.Join(s.Path, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(s.Path, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ids, err := s.List()
		if err != nil || !reflect.DeepEqual(ids, []string{"a", "b.x", "c"}) {
			t.Errorf("got %q, %v", ids, err)
		}
	}
}

func playClaim(args []string) {
	s, err := Open(args[0])
	if err == nil {
		fmt.Println("ready")
		_, _ = io.ReadAll(os.Stdin) // until the parent lets all go at once
		_, err = s.Claim("web")
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("won")
}

func TestOneOfEightClaimsWins(t *testing.T) {
	t.Run("processes", func(t *testing.T) {
		for range 5 {
			s := store(t)
			var outs []*bufio.Reader
			var cmds []*exec.Cmd
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			for range 8 {
				cmd := actor(t, "claim", s.Path)
				cmd.Stdin = r
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				b := bufio.NewReader(out)
				if line, err := b.ReadString('\n'); line != "ready\n" {
					t.Fatalf("%q, %v", line, err)
				}
				outs, cmds = append(outs, b), append(cmds, cmd)
			}
			r.Close()
			w.Close()
			var lines []string
			for i, b := range outs {
				line, _ := b.ReadString('\n')
				lines = append(lines, strings.TrimSpace(line))
				if err := cmds[i].Wait(); err != nil {
					t.Error(err)
				}
			}
			oneWinner(t, lines)
		}
	})
	t.Run("goroutines", func(t *testing.T) {
		for range 50 {
			path := filepath.Join(t.TempDir(), "state")
			lines := make([]string, 8)
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range lines {
				wg.Go(func() {
					s, err := Open(path)
					if err != nil {
						t.Error(err)
						return
					}
					defer s.Close()
					<-start
					c, err := s.Claim("web")
					if err != nil {
						lines[i] = err.Error()
						return
					}
					lines[i] = "won"
					c.Close()
				})
			}
			close(start)
			wg.Wait()
			oneWinner(t, lines)
		}
	})
}

func oneWinner(t *testing.T, lines []string) {
	t.Helper()
	won := 0
	for _, line := range lines {
		switch line {
		case "won":
			won++
		case ErrExists.Error():
		default:
			t.Errorf("%q", line)
		}
	}
	if won != 1 {
		t.Errorf("%d winners in %q", won, lines)
	}
}

func playHold(args []string) {
	s, err := Open(args[0])
	if err != nil {
		panic(err)
	}
	if _, err := s.Lock("web"); err != nil {
		panic(err)
	}
	fmt.Println("held")
	_, _ = io.ReadAll(os.Stdin)
}

// hold lets another process take the lock of "web".
func hold(t *testing.T, s *Store) *exec.Cmd {
	t.Helper()
	cmd := actor(t, "hold", s.Path)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}

func TestLockWaitsForItsHolderToDie(t *testing.T) {
	s := store(t)
	claimed(t, s, "web").Close()
	holder := hold(t, s)

	s.LockWait = 20 * time.Millisecond
	if _, err := s.Lock("web"); !errors.Is(err, ErrBusy) {
		t.Fatalf("held by another process: %v", err)
	}
	if _, err := s.Read("web"); !errors.Is(err, ErrNoRecord) {
		t.Errorf("a reader must not wait for the lock: %v", err)
	}

	s.LockWait = 5 * time.Minute
	got := make(chan error)
	go func() {
		c, err := s.Lock("web")
		if err == nil {
			c.Close()
		}
		got <- err
	}()
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("holder killed: %v", err)
	}
}

func TestLockOfADeletedContainer(t *testing.T) {
	s := store(t)
	c := claimed(t, s, "web")
	got := make(chan error)
	go func() {
		_, err := s.Lock("web")
		got <- err
	}()
	waitForFlock(t, c.dir)
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-got; !errors.Is(err, ErrNotExist) {
		t.Errorf("got %v, want ErrNotExist", err)
	}
}

// waitForFlock returns when /proc/locks shows someone waiting for dir's lock.
func waitForFlock(t *testing.T, dir *os.File) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", st.Ino)
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); {
		locks, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(locks)) {
			if strings.Contains(line, "->") && strings.Contains(line, inode) {
				return
			}
		}
	}
	t.Fatal("nobody waits for the lock")
}

// playChurn makes and deletes containers until it is killed.
func playChurn(args []string) {
	s, err := Open(args[0])
	if err != nil {
		panic(err)
	}
	fmt.Println("go")
	rec := &Record{ID: "web", Phase: PhaseCreating}
	for {
		c, err := s.Claim("web")
		if errors.Is(err, ErrExists) || errors.Is(err, ErrNotExist) {
			if c, err = s.Lock("web"); errors.Is(err, ErrNotExist) {
				continue
			}
		}
		if err != nil {
			panic(err)
		}
		for range 3 {
			if err := c.Save(rec); err != nil {
				panic(err)
			}
		}
		if err := c.WriteFile("process.json", []byte("{}")); err != nil {
			panic(err)
		}
		if _, err := c.Gate(); err != nil {
			panic(err)
		}
		sock, err := c.Listen()
		if err != nil {
			panic(err)
		}
		sock.Close()
		if err := os.Mkdir(filepath.Join(c.Path, "rootfs"), 0o700); err != nil && !os.IsExist(err) {
			panic(err)
		}
		if err := c.Remove(); err != nil {
			panic(err)
		}
		c.Close()
	}
}

// A claim, its saves and its removal are killed at points all over; a repeated delete
// always clears what is there, and readers never see half a record.
func TestKilledAnywhereDeleteFinishes(t *testing.T) {
	s := store(t)
	claimed(t, s, "other").Close()
	left := map[string]int{}
	rounds := 150
	if os.Getenv("LAB") == "1" {
		rounds = 40 // a process start takes 25 ms there
	}
	for round := range rounds {
		cmd := actor(t, "churn", s.Path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		for range round % 7 * 3 { // readers pass time in place of a sleep
			if _, err := s.Read("web"); err != nil && !errors.Is(err, ErrNotExist) && !errors.Is(err, ErrNoRecord) {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		entries, _ := os.ReadDir(filepath.Join(s.Path, "web"))
		left[fmt.Sprint(entries)]++
		c, err := s.Lock("web")
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Remove(); err != nil {
			t.Fatalf("left %v: %v", entries, err)
		}
		c.Close()
	}
	ids, err := s.List()
	if err != nil || !reflect.DeepEqual(ids, []string{"other"}) {
		t.Errorf("left: %q, %v", ids, err)
	}
	t.Logf("%d different places were hit: %v", len(left), left)
}

// Claims and deletes of one id at once: each claim that won is there for its winner.
func TestClaimAgainstDelete(t *testing.T) {
	s := store(t)
	claimed(t, s, "web").Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	claims, removes := 1, 0
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				var c *Container
				var err error
				if i%2 == 0 {
					c, err = s.Claim("web")
				} else {
					c, err = s.Lock("web")
				}
				if errors.Is(err, ErrExists) || errors.Is(err, ErrNotExist) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if i%2 == 0 {
					err = c.Save(&Record{ID: "web"})
				} else if err = c.Remove(); err == nil {
					mu.Lock()
					removes++
					mu.Unlock()
				}
				if err != nil {
					t.Errorf("with the lock held: %v", err)
				}
				c.Close()
				if i%2 == 0 {
					mu.Lock()
					claims++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if c, err := s.Lock("web"); err == nil {
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
		c.Close()
		removes++
	}
	if claims < removes { // a remove may come between mkdir and lock of a claim, which then claims again
		t.Logf("%d claims, %d removes", claims, removes)
	}
	if ids, err := s.List(); err != nil || len(ids) != 0 {
		t.Errorf("left: %q, %v", ids, err)
	}
}

func TestRemoveLeavesWhatIsNotOurs(t *testing.T) {
	s := store(t)
	c := claimed(t, s, "web")
	if err := c.Save(full(t)); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(c.Path, "bundle/rootfs/etc")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	canary := t.TempDir()
	if err := os.WriteFile(filepath.Join(canary, "sentinel"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(canary, filepath.Join(c.Path, "link")); err != nil {
		t.Fatal(err)
	}
	err := c.Remove()
	if err == nil || !strings.Contains(err.Error(), `remove bundle: "rootfs": directory not empty`) {
		t.Fatalf("got %v", err)
	}
	if _, err := c.Load(); err != nil {
		t.Errorf("the record must outlive what could not be removed: %v", err)
	}
	if err := os.Remove(deep); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if _, err := os.Stat(filepath.Join(canary, "sentinel")); err != nil {
		t.Error(err)
	}
}

func TestRemoveStopsAtAMountPoint(t *testing.T) {
	if err := unix.Access("/proc/self/ns/mnt", unix.R_OK); err != nil || os.Geteuid() != 0 {
		need(t, "root, for a private mount namespace")
	}
	done := make(chan struct{})
	go func() { // this thread keeps the namespace: it is never unlocked, so it ends
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			need(t, fmt.Sprint("unshare: ", err))
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		s := store(t)
		c := claimed(t, s, "web")
		rootfs := filepath.Join(c.Path, "rootfs")
		if err := os.Mkdir(rootfs, 0o700); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("canary", rootfs, "tmpfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		if err := os.WriteFile(filepath.Join(rootfs, "sentinel"), nil, 0o600); err != nil {
			t.Error(err)
		}
		err := c.Remove()
		if !errors.Is(err, unix.EXDEV) {
			t.Errorf("got %v, want EXDEV", err)
		}
		if _, err := os.Stat(filepath.Join(rootfs, "sentinel")); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(rootfs, 0); err != nil {
			t.Error(err)
		}
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	}()
	<-done
}

// need skips, but not inside the lab kernels, which have everything.
func need(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("LAB") == "1" {
		t.Errorf("the lab lacks: %s", what)
		return
	}
	t.Skipf("needs %s", what)
}
