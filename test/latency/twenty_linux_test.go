package latency_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/loop"
)

const hop = `
node: {id: hop}
static_resources:
  listeners:
  - name: hop
    address: {socket_address: {address: 127.0.0.1, port_value: %d}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hop
          route_config:
            name: hop
            virtual_hosts: [{name: any, domains: ["*"], routes: [{match: {prefix: /}, route: {cluster: next}}]}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
  clusters:
  - name: next
    type: STATIC
    load_assignment: {cluster_name: next, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}}]}]}
`

// TestTwenty shows that proxies that share a process, and so Go's scheduler, do not wait for one another: a call that passes
// twenty of them, each with a loop of its own, takes less than 1 ms a proxy longer than one that passes none.
func TestTwenty(t *testing.T) {
	const many = 20
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	defer app.Close()
	var census loop.Census
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer func() { cancel(); running.Wait() }()
	next := app.Listener.Addr().(*net.TCPAddr).Port
	for range many {
		port := freePort(t)
		var b bootstrapv3.Bootstrap
		decode(t, fmt.Sprintf(hop, port, next), &b)
		p, err := proxy.New(proxy.Options{Static: &b, Workers: 1, Census: &census, AccessLog: io.Discard, DrainTime: time.Second, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := p.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the proxy is ready", p.Ready)
		next = port
	}
	ask := func(address string) (f figures) {
		c := &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}
		defer c.CloseIdleConnections()
		for range 10 + times(2000) {
			begin := time.Now()
			r, err := c.Get("http://" + address)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(r.Body)
			_ = r.Body.Close()
			if err != nil || string(body) != "here" {
				t.Fatalf("the answer is %d %q, %v", r.StatusCode, body, err)
			}
			f = append(f, time.Since(begin))
		}
		return f[10:] // without those that connect
	}
	direct, through := ask(app.Listener.Addr().String()), ask(fmt.Sprintf("127.0.0.1:%d", next))
	t.Logf("a call without a proxy: %v", direct)
	each := make(figures, len(through))
	for i, d := range through {
		each[i] = max(0, d-direct.at(0.5)) / many
	}
	judge(t, "each of twenty proxies in one process adds", each, 0.99, time.Millisecond)
}
