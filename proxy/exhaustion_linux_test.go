package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/proxy"
)

// The test binary is also the process that runs out of descriptors.
const childVariable = "WEIR_TEST_PROXY"

func TestMain(m *testing.M) {
	if config := os.Getenv(childVariable); config != "" {
		if err := child(config); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// descriptors the child may have: 32 of them are kept for more than accepting.
const descriptors = 128

// child is a proxy with few descriptors. On SIGUSR1 it takes all that are left, on
// SIGUSR2 it gives them back; it says on standard output when it has.
func child(config string) error {
	limit := syscall.Rlimit{Cur: descriptors, Max: descriptors}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	json, err := yaml.YAMLToJSON([]byte(config))
	if err != nil {
		return err
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(json, b); err != nil {
		return err
	}
	p, err := proxy.New(proxy.Options{Static: b, Log: testLog()})
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		var hoard []*os.File
		for s := range signals {
			for s == syscall.SIGUSR1 {
				f, err := os.Open(os.DevNull)
				if err != nil {
					break
				}
				hoard = append(hoard, f)
			}
			if s == syscall.SIGUSR2 {
				for _, f := range hoard {
					f.Close()
				}
				hoard = nil
			}
			fmt.Println("done")
		}
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return p.Run(ctx)
}

const exhaustionConfig = `
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: %s, port_value: 10080}}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: app}}]}]}
  clusters:
  - name: app
    type: STATIC
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

// client is one connection to the proxy.
type client struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

// get asks for path; an error means that the proxy did not serve the connection.
func (c *client) get(path string) (int, error) {
	if _, err := fmt.Fprintf(c.c, "GET %s HTTP/1.1\r\nHost: app\r\n\r\n", path); err != nil {
		return 0, err
	}
	r, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, r.Body)
	return r.StatusCode, err
}

// Out of descriptors, a proxy refuses who comes, at once, goes on serving those it has,
// new connections to the application included, and serves everybody when descriptors are
// free again.
func TestDescriptorsUsedUp(t *testing.T) {
	const together = 10
	var meeting sync.WaitGroup
	meeting.Add(together)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/together" {
			meeting.Done()
			meeting.Wait() // so that each needs a connection of its own
		}
	}))
	defer app.Close()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.1", 1+pid>>8&127, pid&255)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+fmt.Sprintf(exhaustionConfig, host, app.Listener.Addr().(*net.TCPAddr).Port))
	var log strings.Builder
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() || !strings.Contains(log.String(), "the limit of open files is reached") {
			t.Errorf("the proxy ended with %v, after it said\n%s", err, log.String())
		}
	}()
	heard := bufio.NewReader(out)
	tell := func(s syscall.Signal) {
		cmd.Process.Signal(s)
		if _, err := heard.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	dial := func() (*client, error) {
		c, err := net.Dial("tcp", host+":10080")
		if err != nil {
			return nil, err
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		return &client{t, c, bufio.NewReader(c)}, nil
	}
	served := func() *client { // waits until a new connection is
		for deadline := time.Now().Add(20 * time.Second); ; {
			c, err := dial()
			if err == nil {
				if status, err := c.get("/"); err == nil && status == 200 {
					return c
				}
				c.c.Close()
			}
			if time.Now().After(deadline) {
				t.Fatal("no connection is served")
			}
		}
	}

	first := served()
	defer first.c.Close()
	var open []*client
	for len(open) <= descriptors {
		c, err := dial()
		if err == nil {
			open = append(open, c)
			var status int
			if status, err = c.get("/"); err == nil && status == 200 {
				continue
			}
			open = open[:len(open)-1]
			c.c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatalf("refused with %v, want a reset", err)
		}
		break
	}
	if len(open) > descriptors {
		t.Fatal("more connections than descriptors")
	}
	if len(open) < descriptors/2 {
		t.Errorf("only %d connections of %d descriptors were accepted", len(open), descriptors)
	}
	errs := make(chan error, together)
	for _, c := range open[:together] {
		go func() {
			status, err := c.get("/together")
			if err == nil && status != 200 {
				err = fmt.Errorf("status %d", status)
			}
			errs <- err
		}()
	}
	for range together {
		if err := <-errs; err != nil {
			t.Errorf("with no room for others: %v", err)
		}
	}

	tell(syscall.SIGUSR1) // now there is not one left
	if c, err := dial(); err == nil {
		if _, err := c.get("/"); err == nil {
			t.Error("a connection was served without a descriptor")
		}
		c.c.Close()
	} else if !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	for range 100 {
		if status, err := first.get("/"); status != 200 || err != nil {
			t.Fatalf("on the first connection: %d, %v", status, err)
		}
	}

	tell(syscall.SIGUSR2)
	for _, c := range open {
		c.c.Close()
	}
	served().c.Close()
	if status, err := first.get("/"); status != 200 || err != nil {
		t.Errorf("at the end: %d, %v", status, err)
	}
}

func testLog() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }
