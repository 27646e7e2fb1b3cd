// Package sample is the table of the sample programs and of the images they stand for.
//
// A command line ("bookinfo-reviews --version v2") and an Environment enter Run,
// which returns when the context ends; an image name with a container's command
// and args enters ByImage, and the command line to run instead leaves. Several
// programs may run in one process: nothing is shared between them.
package sample

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/sample/server"
)

// Environment is what a program knows of the place it runs in.
type Environment struct {
	Getenv func(string) string // BIND_ADDRESS, PORT and the variables in the README
	Host   string              // the pod's or machine's name
	Log    *slog.Logger
	Output io.Writer // help
	Result io.Writer // what a program is run for
}

// Program is one line of the table.
type Program struct {
	Name    string
	Summary string // one line
	Example string // arguments after the name
	Ports   []int  // where it listens unless told otherwise

	// start declares the program's own flags and returns what makes the service
	// after they are parsed.
	start func(*flag.FlagSet, Environment) func() (service, error)
}

// service runs on the listeners until ctx ends, and then for drain.
type service func(ctx context.Context, lns []net.Listener, drain time.Duration) error

// errUsage is reported with the program's help.
var errUsage = errors.New("wrong usage")

// Status is an exit status that a program was told to have.
type Status int

func (s Status) Error() string { return fmt.Sprintf("ended with status %d, as told", int(s)) }

// Run runs the program that argv names, with argv[1:] as its flags, until ctx
// ends. It returns nil after an orderly end or after showing help.
func Run(ctx context.Context, env Environment, argv []string) error {
	if len(argv) == 0 {
		Usage(env.Output)
		return fmt.Errorf("%w: name a sample", errUsage)
	}
	switch argv[0] {
	case "help", "-h", "-help", "--help":
		Usage(env.Output)
		return nil
	}
	for _, p := range Programs() {
		if p.Name == argv[0] {
			return p.run(ctx, env, argv[1:])
		}
	}
	return fmt.Errorf("%w: there is no sample %q; `%s help` lists them", errUsage, argv[0], Binary)
}

func (p Program) run(ctx context.Context, env Environment, args []string) error {
	fs := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	fs.SetOutput(env.Output)
	fs.Usage = func() {
		fmt.Fprintf(env.Output, "%s: %s\n\nUsage:\n  %s %s [flags]\n\nExample:\n  %s %s %s\n\nFlags:\n", p.Name, p.Summary, Binary, p.Name, Binary, p.Name, p.Example)
		fs.PrintDefaults()
	}
	ports, drain := p.Ports, time.Duration(0)
	if len(p.Ports) > 0 {
		fs.Func("port", fmt.Sprintf("`ports` to listen on, comma-separated; those in $PORT replace the first ones (default %s)", joinPorts(p.Ports)), func(s string) (err error) {
			ports, err = parsePorts(s)
			return err
		})
		fs.DurationVar(&drain, "drain", 0, "how `long` to go on accepting after SIGTERM")
	}
	build := p.start(fs, env)
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil: // the flag set has shown it, with the help
		return fmt.Errorf("%w: %w", errUsage, err)
	case fs.NArg() > 0:
		return fmt.Errorf("%w: %s takes no argument %q", errUsage, p.Name, fs.Arg(0))
	}
	ports, err := assign(ports, env.Getenv("PORT"))
	if err != nil {
		return fmt.Errorf("reading $PORT: %w", err)
	}
	serve, err := build()
	if err != nil {
		return fmt.Errorf("starting %s: %w", p.Name, err)
	}
	lns, err := listen(ctx, env, p.Name, ports)
	if err != nil {
		return err
	}
	return serve(ctx, lns, drain)
}

// listen opens the ports where the environment says, and logs them.
func listen(ctx context.Context, env Environment, name string, ports []int) ([]net.Listener, error) {
	lns, err := server.Listen(ctx, env.Getenv("BIND_ADDRESS"), ports...)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	for _, ln := range lns {
		env.Log.Info("listening", "sample", name, "address", ln.Addr().String())
	}
	return lns, nil
}

// web makes a service of a handler.
func web(h http.Handler, log *slog.Logger) service {
	return func(ctx context.Context, lns []net.Listener, drain time.Duration) error {
		return server.HTTP(ctx, lns, h, drain, log)
	}
}

// each makes a service of what serves one listener. It ends when all have ended,
// and one that fails ends the others.
func each(serve func(context.Context, net.Listener) error) service {
	return func(ctx context.Context, lns []net.Listener, drain time.Duration) error {
		ctx, cancel := after(ctx, drain)
		defer cancel(nil)
		var serving sync.WaitGroup
		for _, ln := range lns {
			serving.Go(func() {
				if err := serve(ctx, ln); err != nil {
					cancel(err)
				}
			})
		}
		serving.Wait()
		if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	}
}

// after returns a context that ends drain after ctx has.
func after(ctx context.Context, drain time.Duration) (context.Context, context.CancelCauseFunc) {
	later, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() {
		select {
		case <-time.After(drain):
			cancel(nil)
		case <-later.Done():
		}
	})
	return later, cancel
}

// Usage writes the table for people.
func Usage(w io.Writer) {
	fmt.Fprintf(w, "%s runs one of the sample programs of Weir.\n\nUsage:\n  %s SAMPLE [flags]\n  %s SAMPLE --help\n\nSamples:\n", Binary, Binary, Binary)
	for _, p := range Programs() {
		fmt.Fprintf(w, "  %-22s %s\n", p.Name, p.Summary)
	}
	fmt.Fprintf(w, "\nExamples:\n")
	for _, p := range Programs() {
		if p.Example != "" {
			fmt.Fprintf(w, "  %s %s %s\n", Binary, p.Name, p.Example)
		}
	}
	fmt.Fprintf(w, "\nEnvironment:\n  %-22s %s\n  %-22s %s\n", "BIND_ADDRESS", "address to listen on (default: every address)", "PORT", "port to listen on, wins over --port")
}

// assign puts the assigned ports, if any, in the place of the first ones.
func assign(ports []int, assigned string) ([]int, error) {
	if assigned == "" || len(ports) == 0 {
		return ports, nil
	}
	first, err := parsePorts(assigned)
	if err != nil {
		return nil, err
	}
	return append(first, ports[min(len(first), len(ports)):]...), nil
}

func parsePorts(s string) ([]int, error) {
	var out []int
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(strings.TrimSpace(field), 10, 16)
		if err != nil {
			return nil, fmt.Errorf("port %q is not a number from 0 to 65535", field)
		}
		out = append(out, int(n))
	}
	return out, nil
}

func joinPorts(ports []int) string {
	s := make([]string, len(ports))
	for i, p := range ports {
		s[i] = strconv.Itoa(p)
	}
	return strings.Join(s, ",")
}
