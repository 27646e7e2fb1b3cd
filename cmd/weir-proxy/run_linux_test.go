package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// The test binary is also weir-proxy.
const programVariable = "WEIR_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(programVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// patience is how long a condition may take to come true on a busy machine.
const patience = 30 * time.Second

// program is a weir-proxy that runs.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	errors bytes.Buffer
	addr   string
}

// startProgram runs the program with a bootstrap, which has %s where the listener's address belongs.
func startProgram(t *testing.T, bootstrap string, args ...string) *program {
	t.Helper()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.1", 1+pid>>8&127, pid&255)
	file := filepath.Join(t.TempDir(), "bootstrap.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, bootstrap, host), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: exec.Command(self, append([]string{"run", "-c", file, "--log-level", "warn", "--drain", "1s"}, args...)...), addr: host + ":10080"}
	p.cmd.Env = append(os.Environ(), programVariable+"=1")
	p.cmd.Stderr = &p.errors
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		c, err := net.Dial("tcp", p.addr)
		if err == nil {
			c.Close()
			return p
		}
		if time.Now().After(deadline) {
			t.Fatalf("the proxy does not listen: %v", err)
		}
	}
}

func (p *program) end() {
	if p.cmd == nil {
		return // it has ended
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil || p.errors.Len() > 0 {
		p.t.Errorf("the proxy ended with %v, after it said\n%s", err, p.errors.String())
	}
}

// asker is one connection of a client.
type asker struct {
	c net.Conn
	r *bufio.Reader
}

func (p *program) dial() *asker {
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	return &asker{c, bufio.NewReader(c)}
}

// ask expects the path as the answer.
func (a *asker) ask(path string) error {
	if err := a.c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(a.c, "GET %s HTTP/1.1\r\nHost: app\r\n\r\n", path); err != nil {
		return err
	}
	r, err := http.ReadResponse(a.r, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(r.Body)
	if err == nil && (r.StatusCode != http.StatusOK || string(body) != path) {
		err = fmt.Errorf("%s %q", r.Status, body)
	}
	return err
}

const oneConnection = `
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: %%s, port_value: 10080}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app, timeout: 0s}}]}]}
  clusters:
  - name: app
    type: STATIC
    circuit_breakers: {thresholds: [{max_connections: 1}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {%s: {}}
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

// Two workers share a pool of one connection: 1,000 requests that alternate between them, and 500 at the same time, are
// all answered by an application that serves one connection until its end before it looks at the next one. A second
// connection would not be served, and a request on the other worker while one is idle here would wait for ever.
func TestOneConnectionForTwoWorkers(t *testing.T) {
	for protocol, serve := range map[string]func(net.Conn){"http_protocol_options": serve1, "http2_protocol_options": serve2} {
		t.Run(protocol, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var connections atomic.Int64
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					connections.Add(1)
					serve(c)
					c.Close()
				}
			}()
			t.Cleanup(func() { <-done }) // when the proxy has ended, and with it its connection
			t.Cleanup(func() { l.Close() })
			p := startProgram(t, fmt.Sprintf(oneConnection, protocol, l.Addr().(*net.TCPAddr).Port), "--workers", "2")

			ask := func(a *asker, path string) {
				t.Helper()
				if err := a.ask(path); err != nil {
					t.Fatalf("after %d connections to the application: %v", connections.Load(), err)
				}
			}
			// The kernel chooses workers. Whose request needs another connection is on the other one.
			here, there := p.dial(), (*asker)(nil)
			ask(here, "/first")
			for range 64 {
				there = p.dial()
				before := connections.Load()
				if ask(there, "/there"); connections.Load() > before {
					break
				}
				there = nil
			}
			if there == nil {
				t.Fatal("64 connections, all on one worker")
			}
			before := connections.Load()
			for i := range 500 {
				ask(here, fmt.Sprint("/here-", i))
				ask(there, fmt.Sprint("/there-", i))
			}
			if n := connections.Load() - before; n < 1000 {
				t.Errorf("1,000 requests of two workers in turn took %d connections: a worker used the other's", n)
			}
			var wg sync.WaitGroup
			for _, a := range []*asker{here, there} {
				wg.Go(func() {
					for i := range 250 {
						if err := a.ask(fmt.Sprint("/together-", i)); err != nil {
							t.Errorf("request %d at the same time: %v", i, err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// serve1 answers requests until the connection ends.
func serve1(c net.Conn) {
	for r := bufio.NewReader(c); ; {
		q, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(q.URL.Path), q.URL.Path); err != nil {
			return
		}
	}
}

func serve2(c net.Conn) {
	//nolint:staticcheck // deprecated in favour of servers that listen: here one connection is served
	new(http2.Server).ServeConn(c, &http2.ServeConnOpts{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _ = io.WriteString(w, q.URL.Path)
	})})
}

// A sidecar whose pod captures nothing does not start, and the caller learns it from the
// exit status, too.
func TestNotCaptured(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	m := &meshFlags{capture: "redirect", appFD: -1}
	err := m.captured(ctx, "sidecar")
	status := interface{ exitStatus() int }(nil)
	if err == nil || !strings.Contains(err.Error(), "weir-proxy init") || !errors.As(err, &status) || status.exitStatus() != 126 {
		t.Errorf("no rules: %v", err)
	}
	for _, c := range []struct {
		kind string
		m    meshFlags
	}{{"gateway", *m}, {"sidecar", meshFlags{capture: "none", appFD: -1}}, {"sidecar", meshFlags{capture: "redirect", appFD: 5}}} {
		if err := c.m.captured(ctx, c.kind); err != nil {
			t.Errorf("%s %s: %v", c.kind, c.m.capture, err)
		}
	}
}
