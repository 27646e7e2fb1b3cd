package up

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/local/process"
	"github.com/weirmesh/weir/local/supervise"
)

const (
	// controlGrace is how long the control plane may take to end: it has nothing to
	// finish that matters.
	controlGrace = 400 * time.Millisecond
	// controlPatience bounds its start, which takes some 100 ms.
	controlPatience = 20 * time.Second
	controlCheck    = 20 * time.Millisecond
)

// control starts the control plane and returns when it answers. From then on it is kept
// running until close.
func (t *top) control(ctx context.Context) error {
	t.progress("starting the control plane")
	args := []string{t.programs.control, "--state", string(t.layout), "--http", t.o.HTTP.String(), "--grpc", optionalGRPC, "--grpc-optional", "--grpc-unix", t.layout.XDS(),
		"--pods", t.layout.Pods(), "--trust-domain", trustDomain, "--namespace", t.o.Namespace, "--access-log"}
	if v := t.o.Compatible; v != "" {
		args = append(args, "--compatibility-version", v)
	}
	args = append(args, "--fallback", t.layout.Fallback())
	for _, p := range t.paths {
		args = append(args, "-f", p)
	}
	var err error
	if t.controlLog, t.controlWrite, err = os.Pipe(); err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	t.controlState = make(chan supervise.State, 16)
	keep, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		defer null.Close()
		done <- supervise.Keep(keep, supervise.Program{
			Start: func() (supervise.Process, error) {
				return t.starter.Start(process.Command{Argv: args, Env: t.environ(), Stdio: [3]*os.File{null, t.controlWrite, t.controlWrite}})
			},
			Grace: controlGrace,
			Changed: func(s supervise.State) {
				select {
				case t.controlState <- s:
				default: // nobody listens while everything ends
				}
			},
		})
	}()
	t.endControl = func() error {
		cancel()
		return <-done
	}
	return t.controlAnswers(ctx)
}

func (t *top) controlAnswers(ctx context.Context) error {
	api := client.New(reached(t.o.HTTP).String(), redact.String{})
	late := time.After(controlPatience)
	for {
		if _, err := api.Status(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return &Error{fmt.Sprintf("the control plane does not answer on http://%s", reached(t.o.HTTP)), lastLine(t.controlLog)}
		case s := <-t.controlState:
			if s.Phase == supervise.BackingOff {
				return &Error{"the control plane " + s.Last, lastLine(t.controlLog)}
			}
		case <-time.After(controlCheck):
		}
	}
}

// lastLine is the last line in a pipe.
func lastLine(f *os.File) string {
	b := make([]byte, 64<<10) // a pipe's size
	n := 0
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Read(func(fd uintptr) bool {
			n, _ = syscall.Read(int(fd), b) // does not wait
			return true
		})
	}
	lines := strings.Split(strings.TrimSpace(string(b[:max(n, 0)])), "\n")
	return lines[len(lines)-1]
}
