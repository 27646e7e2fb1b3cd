package upsock

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"

	"github.com/weirmesh/weir/local/pod"
)

// Error is a refusal, with its remedy if there is one.
type Error struct{ Message, Hint string }

func (e *Error) Error() string { return e.Message }

// Program is a command to run in the mesh.
type Program struct {
	Argv []string
	Env  []string // beside what the workload has, and instead of it
	Dir  string
	// Stdio is inherited. With TTY it is a terminal the caller made, see Terminal.
	Stdio [3]*os.File
	TTY   bool
	// Signals are sent on to it; nil: none.
	Signals <-chan os.Signal
}

// ExecOptions name a workload.
type ExecOptions struct {
	Namespace, Workload, Container string
	Program
}

// Exec runs a program beside a workload and returns its exit status. The program ends
// with ctx.
func Exec(ctx context.Context, socket string, o ExecOptions) (status int, err error) {
	return o.Program.run(ctx, socket, request{Do: "exec", Namespace: o.Namespace, Workload: o.Workload, Container: o.Container}, nil)
}

// RunOptions describe a workload.
type RunOptions struct {
	As             string // namespace/name
	Ports          map[string]uint16
	Labels         map[string]string
	ServiceAccount string
	Environ        []string // what it has beside the Deployment's variables, which win
	Program
	// Ready is told the workload's name when it is in service, Message what it waits for.
	Ready, Message func(string)
}

// Run runs a program as a workload of the mesh and returns its exit status. It leaves the
// mesh when it ends, or with ctx.
func Run(ctx context.Context, socket string, o RunOptions) (status int, err error) {
	r := request{Do: "run", As: o.As, Ports: o.Ports, Labels: o.Labels, ServiceAccount: o.ServiceAccount, Environ: o.Environ}
	return o.Program.run(ctx, socket, r, func(a reply) {
		if a.Workload != "" && o.Ready != nil {
			o.Ready(a.Workload)
		}
		if a.Message != "" && o.Message != nil {
			o.Message(a.Message)
		}
	})
}

func (p Program) run(ctx context.Context, socket string, r request, progress func(reply)) (int, error) {
	r.Argv, r.Env, r.Dir, r.TTY = p.Argv, p.Env, p.Dir, p.TTY
	c, answers, err := call(ctx, socket, r, p.Stdio[:]...)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case sig := <-p.Signals:
				for name, s := range signals {
					if s == sig {
						_ = send(c, note{name})
					}
				}
			case <-ctx.Done():
				// The server ends the program when nothing more can come.
				_ = c.CloseWrite()
				return
			case <-done:
				return
			}
		}
	}()
	for {
		a, err := next(answers)
		switch {
		case err != nil:
			return 0, err
		case a.Exit != nil:
			return *a.Exit, nil
		case progress != nil:
			progress(a)
		}
	}
}

// LogsOptions say whose log.
type LogsOptions struct {
	// Workload "" is everything `weir up` shows; "weir-control" is the control plane.
	Namespace, Workload, Container string
	Proxy                          bool
	Follow                         bool
	Tail                           int // lines; negative: all that are kept
}

// Logs writes a log to out, and goes on until ctx ends if it is followed.
func Logs(ctx context.Context, socket string, o LogsOptions, out *os.File) error {
	c, answers, err := call(ctx, socket, request{
		Do: "logs", Namespace: o.Namespace, Workload: o.Workload, Container: o.Container, Proxy: o.Proxy, Follow: o.Follow, Tail: o.Tail,
	}, out)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.CloseWrite() })()
	_, err = next(answers)
	return err
}

// List lists the workloads.
func List(ctx context.Context, socket string) ([]pod.Info, error) {
	c, answers, err := call(ctx, socket, request{Do: "list"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	a, err := next(answers)
	return a.Workloads, err
}

func call(ctx context.Context, socket string, r request, files ...*os.File) (*net.UnixConn, *bufio.Reader, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, nil, &Error{"no mesh is running", "start one with `weir up`, or name its state folder with --state"}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("calling weir up: %w", err)
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, nil, fmt.Errorf("calling weir up: %s is not a Unix socket", socket)
	}
	if err := send(c, r, files...); err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("calling weir up: %w", err)
	}
	return c, bufio.NewReader(c), nil
}

func next(answers *bufio.Reader) (reply, error) {
	var a reply
	line, err := readLine(answers, maxRequest)
	if errors.Is(err, io.EOF) {
		return a, &Error{"the mesh has ended", ""}
	}
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err != nil {
		return a, fmt.Errorf("calling weir up: %w", err)
	}
	if a.Error != "" {
		return a, &Error{a.Error, a.Hint}
	}
	return a, nil
}
