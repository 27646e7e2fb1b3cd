package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// plane is a weir-control process.
type plane struct {
	cmd   *exec.Cmd
	addr  string // of xDS
	http  string
	state string
	began time.Time
	ended chan struct{}

	mu   sync.Mutex
	log  []string // lines that are no mere information, and those about outages
	last string   // whatever it was
}

// ports are those of the first and of another replica.
var ports = []struct{ grpc, http string }{{"127.0.0.1:25912", "127.0.0.1:25914"}, {"127.0.0.1:25922", "127.0.0.1:25924"}}

// launch starts a control plane, or another one, and waits until it is ready. From when it
// is started proxies look for this one.
func (b *bench) launch(ctx context.Context, state string) error {
	at := ports[0]
	if b.plane != nil && b.plane.addr == at.grpc && !b.plane.over() {
		at = ports[1]
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return err
	}
	p := &plane{addr: at.grpc, http: at.http, state: state, began: time.Now(), ended: make(chan struct{})}
	p.cmd = exec.Command(b.o.control, "--state", state, "-f", b.o.mesh+"/config", "--http", at.http, "--grpc", at.grpc)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		p.read(stderr)
		_ = p.cmd.Wait() // it is ended by signals
		close(p.ended)
	}()
	for {
		r, err := http.Get("http://" + at.http + "/ready")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				b.addr.Store(&p.addr)
				b.plane, b.o.pid = p, p.cmd.Process.Pid
				return nil
			}
		}
		select {
		case <-p.ended:
			return errors.New(p.last)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *plane) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// kill ends the control plane at once.
func (b *bench) kill() {
	if b.plane != nil {
		_ = b.plane.cmd.Process.Kill()
		<-b.plane.ended
	}
}

func (p *plane) read(r io.Reader) {
	for s := bufio.NewScanner(r); s.Scan(); {
		line := s.Text()
		p.mu.Lock()
		p.last = line
		if _, message, ok := strings.Cut(line, " level="); ok && (!strings.HasPrefix(message, "INFO") || strings.Contains(message, "proxies came") || strings.Contains(message, "configuration")) {
			p.log = append(p.log, message)
		}
		p.mu.Unlock()
	}
}

// said are the lines since the last call.
func (p *plane) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.log
	p.log = nil
	return out
}

// growth is what may grow in a process that runs for long: memory after a collection and
// goroutines, from its metrics.
func (p *plane) growth() string {
	r, err := http.Get("http://" + p.http + "/metrics")
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	var out []string
	for s := bufio.NewScanner(r.Body); s.Scan(); {
		name, value, _ := strings.Cut(s.Text(), " ")
		var v float64
		switch _, err := fmt.Sscan(value, &v); {
		case err != nil:
		case name == "go_memstats_heap_alloc_bytes":
			out = append(out, fmt.Sprintf("heap %.0f MB", v/1e6))
		case name == "go_goroutines":
			out = append(out, fmt.Sprintf("%.0f goroutines", v))
		}
	}
	return strings.Join(out, ", ")
}
