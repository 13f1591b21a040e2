package main

import (
	"errors"

	"thinrun/libcontainer"

	"github.com/urfave/cli/v2"
)

func execCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run one more program in a container",
		ArgsUsage: "ID COMMAND...",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "process", Aliases: []string{"p"}, Usage: "`FILE` with the whole process as JSON"},
			&cli.StringFlag{Name: "cwd", Usage: "`DIR` to run in"},
			&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}, Usage: "`NAME=VALUE`"},
			&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the program a terminal"},
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "`UID[:GID]`"},
			&cli.Int64SliceFlag{Name: "additional-gids", Aliases: []string{"g"}, Usage: "`GID` to add"},
			&cli.BoolFlag{Name: "detach", Aliases: []string{"d"}, Usage: "return once the program runs"},
			&cli.StringFlag{Name: "pid-file", Usage: "`FILE` for the program's pid"},
			&cli.StringFlag{Name: "pidfd-socket", Usage: "`SOCKET` that receives a pidfd of the program"},
			&cli.StringFlag{Name: "console-socket", Usage: "`SOCKET` that receives the terminal's master"},
			&cli.StringFlag{Name: "process-label", Usage: "SELinux `LABEL`"},
			&cli.StringFlag{Name: "apparmor", Usage: "AppArmor `PROFILE`"},
			&cli.BoolFlag{Name: "no-new-privs", Usage: "set no_new_privs"},
			&cli.StringSliceFlag{Name: "cap", Aliases: []string{"c"}, Usage: "add capability `NAME`"},
			&cli.IntFlag{Name: "preserve-fds", Usage: "pass on `N` descriptors from 3 on"},
			&cli.StringSliceFlag{Name: "cgroup", Usage: "`[CONTROLLER,...:]PATH` below the container's cgroup"},
			&cli.BoolFlag{Name: "ignore-paused", Usage: "also in a paused container"},
			&cli.BoolFlag{Name: "no-subreaper", Hidden: true},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() < 1 {
				return errors.New("wants the container's id and a command")
			}
			opt := libcontainer.ExecOptions{
				ProcessFile: c.String("process"), Args: c.Args().Tail(), Cwd: c.String("cwd"), Env: c.StringSlice("env"),
				Terminal: c.Bool("tty"), User: c.String("user"), AdditionalGIDs: c.Int64Slice("additional-gids"),
				Detach: c.Bool("detach"), PidFile: c.String("pid-file"), PidfdSocket: c.String("pidfd-socket"),
				ConsoleSocket: c.String("console-socket"), SELinuxLabel: c.String("process-label"), AppArmor: c.String("apparmor"),
				NoNewPrivileges: c.Bool("no-new-privs"), Caps: c.StringSlice("cap"), PreserveFDs: c.Int("preserve-fds"),
				Cgroup: c.StringSlice("cgroup"), IgnorePaused: c.Bool("ignore-paused"),
			}
			if opt.ProcessFile == "" && len(opt.Args) == 0 {
				return errors.New("wants a command, or --process FILE")
			}
			code, err := runtimeOf(c).Exec(c.Args().First(), opt)
			if err != nil {
				return err
			}
			if code != 0 {
				return exitStatus(code)
			}
			return nil
		},
	}
}
