package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/proxy"
)

// Near the limit of memory idle connections are closed; nearer still newcomers are refused and requests that begin get 503 with
// the reason, while the one that is under way is served to its end; with memory again everybody is. The meter is the test's.
func TestMemoryNearlyUsedUp(t *testing.T) { nearlyUsedUp(t, 100, "") }

// The overload manager of a bootstrap does the same where nobody else limits memory, by its own thresholds.
func TestOverloadManager(t *testing.T) {
	nearlyUsedUp(t, 0, `
overload_manager:
  refresh_interval: 0.01s
  resource_monitors:
  - name: heap
    typed_config: {"@type": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 100}
  actions:
  - {name: envoy.overload_actions.disable_http_keepalive, triggers: [{name: heap, threshold: {value: 0.85}}]}
  - {name: envoy.overload_actions.stop_accepting_requests, triggers: [{name: heap, threshold: {value: 0.91}}]}
  - {name: envoy.overload_actions.reject_incoming_connections, triggers: [{name: heap, scaled: {scaling_threshold: 0.89, saturation_threshold: 0.915}}]}
`)
}

// limit is GOMEMLIMIT, 0 for none; more is of a bootstrap.
func nearlyUsedUp(t *testing.T, limit int64, more string) {
	t.Helper()
	release := make(chan struct{})
	arrived := make(chan struct{}, 1)
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
	}))
	defer app.Close()
	pid := os.Getpid()
	host := fmt.Sprintf("127.%d.%d.2", 1+pid>>8&127, pid&255)
	json, err := yaml.YAMLToJSON(append(fmt.Appendf(nil, exhaustionConfig, host, app.Listener.Addr().(*net.TCPAddr).Port), more...))
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(json, b); err != nil {
		t.Fatal(err)
	}
	var used atomic.Int64
	used.Store(75) // enough to be looked at often
	p, err := proxy.New(proxy.Options{Static: b, Log: testLog(), Memory: func() (int64, int64) { return used.Load(), limit }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	dial := func() (*client, error) {
		c, err := net.Dial("tcp", host+":10080")
		if err != nil {
			return nil, err
		}
		c.SetDeadline(time.Now().Add(30 * time.Second))
		return &client{t, c, bufio.NewReader(c)}, nil
	}
	// until repeats what a new connection gets.
	until := func(what string, ok func(status int, err error) bool) *client {
		var status int
		var err error
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
			var c *client
			if c, err = dial(); err == nil {
				status, err = c.get("/")
			}
			if ok(status, err) {
				return c
			}
			if c != nil {
				c.c.Close()
			}
		}
		t.Fatalf("%s: the last one got %d, %v", what, status, err)
		return nil
	}
	served := func(status int, err error) bool { return err == nil && status == 200 }
	metrics := func() string {
		var m bytes.Buffer
		if err := p.Stats(context.Background(), &m); err != nil {
			t.Fatal(err)
		}
		return m.String()
	}

	idle := until("at first", served)
	busy := until("at first", served)
	// The second request of this one begins when the first, which is slow, has ended.
	if _, err := io.WriteString(busy.c, "GET /slow HTTP/1.1\r\nHost: app\r\n\r\nGET /next HTTP/1.1\r\nHost: app\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-arrived

	used.Store(88)
	if _, err := idle.r.ReadByte(); err != io.EOF {
		t.Errorf("an idle connection ended with %v", err)
	}
	until("with little memory", served).c.Close()

	used.Store(97)
	until("without memory", func(_ int, err error) bool { return err != nil })
	if m := metrics(); limit > 0 && (!strings.Contains(m, "weir_proxy_overload_level 2") || !strings.Contains(m, `weir_proxy_memory_bytes{of="used"} 97`)) ||
		strings.Contains(m, `weir_proxy_refused_connections_total{reason="the limit of memory is near"} 0`) {
		t.Errorf("metrics say\n%s", m)
	}
	stats := map[string]int64{}
	for _, s := range p.ServerStats() {
		stats[s.Name] = s.Value
	}
	if stats["overload.envoy.overload_actions.stop_accepting_requests.active"] != 1 || limit == 0 && stats["overload.heap.pressure"] != 97 {
		t.Errorf("stats say %v", stats)
	}
	close(release)
	for i, want := range []string{"200 ", "503 overloaded: the proxy's memory is nearly used up"} {
		r, err := http.ReadResponse(busy.r, nil)
		if err != nil {
			t.Fatalf("response %d: %v", i, err)
		}
		body, err := io.ReadAll(r.Body)
		if got := fmt.Sprintf("%d %s", r.StatusCode, body); err != nil || got != want {
			t.Errorf("response %d: %q, %v; want %q", i, got, err, want)
		}
	}

	used.Store(92) // not yet enough
	until("without much more memory", func(_ int, err error) bool { return err != nil })
	used.Store(50)
	until("with memory again", served).c.Close()
	if m := metrics(); limit > 0 && (!strings.Contains(m, "weir_proxy_overload_level 0") || !strings.Contains(m, "weir_proxy_overloads_total 1")) {
		t.Errorf("metrics say\n%s", m)
	}
}
