package process

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"thinrun/libcontainer/wire"

	"golang.org/x/sys/unix"
)

// What Become and its neighbours do cannot be undone, so the tests do it in a child:
// the test binary again, with the steps in one variable and the config in another.
const (
	stepsEnv  = "THINRUN_TEST_STEPS"
	configEnv = "THINRUN_TEST_CONFIG"
)

func TestMain(m *testing.M) {
	if steps := os.Getenv(stepsEnv); steps != "" {
		runtime.LockOSThread()
		if err := child(strings.Split(steps, ",")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(steps []string) error {
	data, err := base64.StdEncoding.DecodeString(os.Getenv(configEnv))
	if err != nil {
		return err
	}
	var c Config
	if err := wire.Decode(data, c.Code); err != nil {
		return err
	}
	// What a caller with other rights would have left us.
	unix.Umask(0o077)
	path := ""
	for _, step := range steps {
		switch name, arg, _ := strings.Cut(step, "="); name {
		case "session":
			err = c.NewSession()
		case "keyring":
			err = c.Keyring()
		case "describe": // the session keyring
			var text string
			text, err = unix.KeyctlString(unix.KEYCTL_DESCRIBE, unix.KEY_SPEC_SESSION_KEYRING)
			fmt.Println(text)
		case "terminal":
			err = c.TakeTerminal(os.NewFile(3, "slave"))
		case "scheduling":
			err = c.Scheduling()
		case "labels":
			err = c.Labels()
		case "become":
			err = c.Become()
		case "more": // than Become left
			c.Capabilities.Permitted |= 1 << unix.CAP_CHOWN
			err = c.Become()
		case "chdir":
			err = c.Chdir()
		case "chroot":
			err = unix.Chroot(arg)
		case "open": // a descriptor that somebody forgot
			_, err = unix.Open(arg, unix.O_RDONLY, 0)
		case "look":
			path, err = c.LookPath()
		case "grow": // beyond what one argument may be
			c.Args = append(c.Args, strings.Repeat("x", 1<<18))
		case "closefds":
			err = c.CloseFDs()
		case "exec":
			err = c.Execve(path)
		case "status":
			err = printStatus()
		case "pause": // until SIGUSR1
			caught := make(chan os.Signal, 1)
			signal.Notify(caught, syscall.SIGUSR1)
			fmt.Println("ready")
			<-caught
			os.Exit(7)
		case "hold": // until the other end of stdin goes
			fmt.Println("ready")
			_, err = io.Copy(io.Discard, os.Stdin)
		default:
			err = fmt.Errorf("no step %q", step)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// printStatus prints this thread's, and what it does not say.
func printStatus() error {
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	fmt.Printf("Dumpable:\t%d\nCwd:\t%s\n", dumpable, dir)
	status, err := os.ReadFile("/proc/thread-self/status")
	os.Stdout.Write(status)
	return err
}

// command is the child, not yet started.
func command(t *testing.T, c Config, steps string) *exec.Cmd {
	t.Helper()
	if c.Args == nil {
		c.Args = []string{"/bin/true"}
	}
	if c.Cwd == "" {
		c.Cwd = "/"
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{stepsEnv + "=" + steps, configEnv + "=" + base64.StdEncoding.EncodeToString(wire.Encode(c.Code))}
	return cmd
}

// run returns what the child, or the program it became, printed.
func run(t *testing.T, c Config, steps string) (stdout, stderr string) {
	t.Helper()
	return runCommand(command(t, c, steps))
}

func runCommand(cmd *exec.Cmd) (stdout, stderr string) {
	var out, errOut strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil && errOut.Len() == 0 {
		fmt.Fprint(&errOut, err)
	}
	return out.String(), strings.TrimSpace(errOut.String())
}

// succeed is run for children that must not complain.
func succeed(t *testing.T, c Config, steps string) string {
	t.Helper()
	out, errText := run(t, c, steps)
	if errText != "" {
		t.Fatalf("%s: %s\n%s", steps, errText, out)
	}
	return out
}

// field is the value of one line of a status file.
func field(t *testing.T, status, name string) string {
	t.Helper()
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	t.Fatalf("no %s in:\n%s", name, status)
	return ""
}

func wantFields(t *testing.T, status string, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got := field(t, status, name); got != value {
			t.Errorf("%s: got %q, want %q", name, got, value)
		}
	}
}

// hasCap tells whether this process has a capability.
func hasCap(t *testing.T, n int) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		t.Fatal(err)
	}
	return data[n/32].Effective&(1<<(n%32)) != 0
}

func wantError(t *testing.T, got string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(got, part) {
			t.Errorf("the error %q does not say %q", got, part)
		}
	}
}
