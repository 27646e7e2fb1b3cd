package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/local/upsock"
)

// upSocket is the local API of the running mesh.
func (a *app) upSocket() (string, error) {
	path := client.UpSocket(a.state)
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", client.ErrNoMesh
	}
	return path, err
}

// program are the flags of a command that runs one.
type program struct {
	stdin, tty bool
	env        []string
}

func (p *program) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&p.tty, "tty", "t", false, "give the program a terminal, for shells and editors")
	cmd.Flags().StringArrayVarP(&p.env, "env", "e", nil, "`NAME=VALUE` for the program's environment, whatever the Deployment says (repeatable)")
	_ = cmd.RegisterFlagCompletionFunc("env", cobra.NoFileCompletions)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		failed := flagFailure(cmd, err)
		f, ok := errors.AsType[*failure](failed)
		if _, unknown := errors.AsType[*pflag.NotExistError](err); ok && unknown && !strings.HasPrefix(f.hint, "did you mean") {
			f.hint = "options of the program come after --"
		}
		return failed
	})
}

// check looks at the environment given by flags.
func (p *program) check() error {
	for _, e := range p.env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return usage("for example --env DEBUG=1", "--env %q is not NAME=VALUE", e)
		}
	}
	return nil
}

// command splits the arguments at "--"; what names those that must stand before it.
func command(cmd *cobra.Command, args []string, example string, what ...string) (front, argv []string, err error) {
	dash := cmd.ArgsLenAtDash()
	front = args
	if dash >= 0 {
		front, argv = args[:dash], args[dash:]
	}
	switch {
	case len(front) < len(what):
		return nil, nil, usage(example, "%s needs %s, and a command after --", cmd.CommandPath(), what[len(front)])
	case len(front) > len(what) && dash < 0:
		return nil, nil, usage(example, "%s needs -- before the command", cmd.CommandPath())
	case len(front) > len(what):
		return nil, nil, usage(example, "%s does not know what to do with %q before --", cmd.CommandPath(), front[len(what)])
	case len(argv) == 0:
		return nil, nil, usage(example, "%s needs a command after --", cmd.CommandPath())
	}
	return front, argv, nil
}

// start runs a program through do, with this process's standard streams and signals,
// and makes its exit status ours.
func (a *app) start(ctx context.Context, p program, argv []string, do func(context.Context, upsock.Program) (int, error)) error {
	prog := upsock.Program{Argv: argv, Env: p.env, Stdio: [3]*os.File{a.Stdin, a.Stdout, a.Stderr}}
	if !p.stdin && !p.tty {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return err
		}
		defer null.Close()
		prog.Stdio[0] = null
	}
	relayed := []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2}
	var terminal *upsock.Terminal
	if p.tty {
		if !term.IsTerminal(int(a.Stdin.Fd())) {
			return hinted("leave out -t", "standard input is not a terminal")
		}
		var err error
		if terminal, err = upsock.NewTerminal(a.Stdin, a.Stdout); err != nil {
			return err
		}
		prog.TTY, prog.Stdio = true, terminal.Stdio()
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, syscall.SIGWINCH)
		defer close(resized)
		defer signal.Stop(resized) // first
		go func() {
			for range resized {
				terminal.Resize()
			}
		}()
		if i := slices.IndexFunc(a.Environ, func(e string) bool { return strings.HasPrefix(e, "TERM=") }); i >= 0 {
			prog.Env = append([]string{a.Environ[i]}, prog.Env...)
		}
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, relayed...)
	defer signal.Stop(signals)
	prog.Signals = signals
	exit, err := do(ctx, prog)
	if terminal != nil {
		err = errors.Join(err, terminal.Close())
	}
	switch {
	case err != nil:
		return err
	case exit != 0:
		return silent(exit)
	}
	return nil
}
