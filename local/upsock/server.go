package upsock

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/weirmesh/weir/local/pod"
	"github.com/weirmesh/weir/local/supervise"
)

const (
	maxConnections = 256
	// requestTime bounds the wait for the first line.
	requestTime = 10 * time.Second
	// hangUpGrace is how long a program may live on after its client is gone.
	hangUpGrace = 2 * time.Second
	// messageEvery is how often a joining client is told what is waited for.
	messageEvery = 2 * time.Second
)

// Server answers connections. It is safe for concurrent use.
type Server struct {
	Runtime *pod.Runtime
	Logs    *supervise.Logs

	mu    sync.Mutex
	count int
}

// Serve answers one connection and closes it.
func (s *Server) Serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	s.mu.Lock()
	s.count++
	full := s.count > maxConnections
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.count--
	}()
	if full {
		_ = send(c, reply{Error: fmt.Sprintf("%d clients are connected", maxConnections), Hint: "close some"})
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	_ = c.SetReadDeadline(time.Now().Add(requestTime))
	var r request
	files, lines, err := receive(c, &r)
	if err != nil {
		return
	}
	defer closeAll(files)
	_ = c.SetReadDeadline(time.Time{})

	err = s.answer(ctx, c, r, files, lines)
	if err != nil {
		out := reply{Error: err.Error()}
		if u := (*pod.UserError)(nil); errors.As(err, &u) {
			out.Hint = u.Hint
		}
		_ = send(c, out)
	}
}

func (s *Server) answer(ctx context.Context, c *net.UnixConn, r request, files []*os.File, lines *bufio.Reader) error {
	want := map[string]int{"exec": 3, "run": 3, "logs": 1, "list": 0}
	if n, known := want[r.Do]; !known {
		return &pod.UserError{Message: fmt.Sprintf("%q is not known here", r.Do), Hint: "use a weir of the same version as the one that is up"}
	} else if len(files) != n {
		return fmt.Errorf("%s came with %d descriptors, want %d", r.Do, len(files), n)
	}
	switch r.Do {
	case "exec":
		return s.exec(c, r, files, lines)
	case "run":
		return s.run(ctx, c, r, files, lines)
	case "logs":
		return s.logs(ctx, c, r, files[0], lines)
	default:
		list := s.Runtime.List()
		return send(c, reply{Workloads: append([]pod.Info{}, list...)})
	}
}

func (s *Server) exec(c *net.UnixConn, r request, files []*os.File, lines *bufio.Reader) error {
	if len(r.Argv) == 0 {
		return &pod.UserError{Message: "there is no command", Hint: "weir exec WORKLOAD -- COMMAND"}
	}
	proc, err := s.Runtime.Exec(pod.Exec{
		Namespace: r.Namespace, Workload: r.Workload, Container: r.Container, Argv: r.Argv, Env: r.Env, Dir: r.Dir, Stdio: [3]*os.File(files), TTY: r.TTY,
	})
	if err != nil {
		return err
	}
	closeAll(files) // the program has them
	ended := make(chan error, 1)
	go func() { ended <- proc.Wait() }()
	gone := notes(lines, func(sig syscall.Signal) { _ = proc.Signal(sig) })
	select {
	case err = <-ended:
	case <-gone:
		_ = proc.Signal(syscall.SIGHUP)
		select {
		case err = <-ended:
		case <-time.After(hangUpGrace):
			_ = proc.Signal(syscall.SIGKILL)
			err = <-ended
		}
	}
	return send(c, reply{Exit: exitStatus(err)})
}

func (s *Server) run(ctx context.Context, c *net.UnixConn, r request, files []*os.File, lines *bufio.Reader) error {
	namespace, name, ok := strings.Cut(r.As, "/")
	if !ok {
		namespace, name = "", r.As
	}
	j, err := s.Runtime.Join(pod.Join{
		Namespace: namespace, Name: name, Argv: r.Argv, Environ: r.Environ, Env: r.Env, Dir: r.Dir, Ports: r.Ports, Labels: r.Labels,
		ServiceAccount: r.ServiceAccount, Stdio: [3]*os.File(files), TTY: r.TTY,
	})
	if err != nil {
		return err
	}
	var given sync.Once // up before it was started
	gone := notes(lines, func(sig syscall.Signal) {
		switch p := j.Process(); {
		case p != nil:
			_ = p.Signal(sig)
		case slices.Contains(ends, sig):
			given.Do(func() { go j.Stop() })
		}
	})
	ready, tick, said := j.Ready, time.NewTicker(messageEvery), ""
	defer tick.Stop()
	for {
		select {
		case <-ready:
			ready = nil
			tick.Stop()
			_ = send(c, reply{Workload: string(j.Workload)})
		case <-tick.C:
			if m := j.Message(); m != "" && m != said {
				said = m
				_ = send(c, reply{Message: m})
			}
		case <-gone:
			gone = nil
			go j.Stop()
		case <-j.Done:
			started, err := j.Result()
			if !started {
				return cmp.Or(context.Cause(ctx), errors.New("ended before the program was started"))
			}
			if err != nil && exitCode(err) == nil {
				return err
			}
			return send(c, reply{Exit: exitStatus(err)})
		}
	}
}

func (s *Server) logs(ctx context.Context, c *net.UnixConn, r request, out *os.File, lines *bufio.Reader) error {
	source := r.Workload // "" is everything that is shown
	if _, own := s.Logs.Tail(source, 0); source != "" && (!own || r.Proxy || r.Container != "") {
		var err error
		if source, err = s.Runtime.LogSource(r.Namespace, r.Workload, r.Container, r.Proxy); err != nil {
			return err
		}
	}
	before, more, stop := s.Logs.Follow(source, r.Tail)
	defer stop()
	for _, line := range before {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return nil //nolint:nilerr // the reader has seen enough
		}
	}
	if r.Follow {
		gone := notes(lines, func(syscall.Signal) {})
		for following := true; following; {
			select {
			case line := <-more:
				_, err := fmt.Fprintln(out, line)
				following = err == nil
			case <-gone:
				following = false
			case <-ctx.Done():
				following = false
			}
		}
	}
	return send(c, reply{Exit: new(int)})
}

// notes hands on the signals that the client sends; the channel is closed when it is gone.
func notes(lines *bufio.Reader, signal func(syscall.Signal)) <-chan struct{} {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			line, err := readLine(lines, 4096)
			if err != nil {
				return
			}
			var n note
			if json.Unmarshal(line, &n) != nil {
				return
			}
			if sig, ok := signals[n.Signal]; ok {
				signal(sig)
			}
		}
	}()
	return gone
}

// exitCode is how a program ended, as a shell says it: 128 and the signal's number if one
// ended it; nil if it never ran.
func exitCode(err error) *int {
	var e interface {
		ExitCode() int
		Sys() any
	}
	if !errors.As(err, &e) {
		return nil
	}
	code := e.ExitCode()
	if w, ok := e.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		code = 128 + int(w.Signal())
	}
	return &code
}

func exitStatus(err error) *int {
	if err == nil {
		return new(int)
	}
	if code := exitCode(err); code != nil {
		return code
	}
	unknown := 255
	return &unknown
}
