package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/xds/resource"
)

// adopting is a proxy whose listener changes under its connections.
type adopting struct {
	t     testing.TB
	proxy *Proxy
	conns []net.Conn
}

// bootstrap has a listener on a free port: with routes to a direct response, and for some sources only.
func (a *adopting) bootstrap(body, sources string) *bootstrapv3.Bootstrap {
	text := fmt.Sprintf(`
static_resources:
  listeners:
  - name: http
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filter_chain_match: {source_prefix_ranges: [{address_prefix: %s, prefix_len: 8}]}
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: %s}}}]}]}`, sources, body)
	json, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		a.t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(json, b); err != nil {
		a.t.Fatal(err)
	}
	return b
}

// startAdopting runs the proxy and opens connections to it.
func startAdopting(t testing.TB, n int) *adopting {
	a := &adopting{t: t}
	var err error
	if a.proxy, err = New(Options{Static: a.bootstrap("first", "127.0.0.0"), Log: slog.New(slog.DiscardHandler), Level: &slog.LevelVar{}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.proxy.Run(ctx) }()
	t.Cleanup(func() {
		for _, c := range a.conns {
			c.Close()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { return a.proxy.Ready() == nil })
	at, ok := a.proxy.group.Local(loop.TCP(netip.MustParseAddrPort("127.0.0.1:0")))
	if !ok {
		t.Fatal("no listener")
	}
	for range n {
		c, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		a.conns = append(a.conns, c)
	}
	waitFor(t, func() bool { return a.proxy.group.Connections("http") == int64(n) })
	return a
}

func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	end := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-end:
			t.Fatal("it did not come to that")
		case <-time.After(time.Millisecond):
		}
	}
}

func (a *adopting) change(body, sources string) {
	a.t.Helper()
	a.use(a.bootstrap(body, sources))
}

func (a *adopting) use(b *bootstrapv3.Bootstrap) {
	a.t.Helper()
	updates, err := staticUpdates(b)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, u := range updates {
		if u.TypeURL != resource.ListenerType {
			continue
		}
		if err := a.proxy.state.update(u); err != nil {
			a.t.Fatal(err)
		}
	}
	a.proxy.each(func(*worker) {})
}

// An address that another program has is taken when that lets it go: nobody needs to change the configuration for it.
func TestListenAgain(t *testing.T) {
	a := startAdopting(t, 0)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	b := a.bootstrap("second", "127.0.0.0")
	b.GetStaticResources().GetListeners()[0].GetAddress().GetSocketAddress().PortSpecifier = &corev3.SocketAddress_PortValue{PortValue: uint32(other.Addr().(*net.TCPAddr).Port)}
	a.use(b)
	if err := a.proxy.Ready(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("while another program listens: %v", err)
	}
	other.Close()
	waitFor(t, func() bool { return a.proxy.Ready() == nil })
	c, err := net.Dial("tcp", other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := a.get(c); got != "second" {
		t.Errorf("answered %q", got)
	}
}

// A proxy that drains takes no new connections whatever is configured later, and says that it is not ready for any;
// those it has go by what is configured.
func TestDrainedStaysDrained(t *testing.T) {
	a := startAdopting(t, 1)
	at, _ := a.proxy.group.Local(loop.TCP(netip.MustParseAddrPort("127.0.0.1:0")))
	a.proxy.Drain()
	a.change("second", "127.0.0.0")
	if c, err := net.Dial("tcp", at.String()); err == nil {
		c.Close()
		t.Error("it listens as before")
	}
	if at, ok := a.proxy.group.Local(loop.TCP(netip.MustParseAddrPort("127.0.0.1:0"))); ok {
		t.Errorf("it listens on %s", at)
	}
	if err := a.proxy.Ready(); err == nil || err.Error() != "draining: it takes no new connections" {
		t.Errorf("ready: %v", err)
	}
	if got := a.get(a.conns[0]); got != "second" {
		t.Errorf("the connection there is is answered %q", got)
	}
}

// get asks by a connection; "" if it is not served.
func (a *adopting) get(c net.Conn) string {
	if _, err := fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		return ""
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return ""
	}
	b, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Error(err)
	}
	return string(b)
}

// A kept connection is served by the listener of now, and closed when the listener would not take it any more: all of
// them, though not all at once.
func TestConnectionsGoByTheListenerOfNow(t *testing.T) {
	const n = 350 // a few portions
	a := startAdopting(t, n)
	if got := a.get(a.conns[0]); got != "first" {
		t.Errorf("answered %q", got)
	}
	a.change("second", "127.0.0.0")
	for _, c := range a.conns[:3] {
		if got := a.get(c); got != "second" {
			t.Errorf("after a harmless change: answered %q", got)
		}
	}
	if open := a.proxy.group.Connections("http"); open != n {
		t.Errorf("after a harmless change: %d connections", open)
	}
	a.change("third", "10.0.0.0")
	if got := a.get(a.conns[n-1]); got != "" {
		t.Errorf("who may not come in any more is answered %q", got)
	}
	for _, c := range a.conns {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("a connection is open, and says something")
		}
		c.Close()
	}
	waitFor(t, func() bool { return a.proxy.group.Connections("http") == 0 })
}

// BenchmarkAdopt changes the listener of 10,000 idle connections, or as many as there are descriptors for. ms-pause is for how long at most the
// loop did not come to other work meanwhile.
func BenchmarkAdopt(b *testing.B) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		b.Fatal(err)
	}
	n := int(min(10_000, (limit.Cur-200)/2)) // both ends are here
	for name, sources := range map[string]string{"stay": "127.0.0.0", "gone": "10.0.0.0"} {
		b.Run(name, func(b *testing.B) {
			worst := 0.0
			for range b.N {
				b.StopTimer()
				a := startAdopting(b, n)
				l := a.proxy.workers[0].loop
				var stop atomic.Bool
				pause := make(chan time.Duration, 1)
				longest, last := time.Duration(0), time.Now()
				var turn func()
				turn = func() {
					longest, last = max(longest, time.Since(last)), time.Now()
					if !stop.Load() {
						l.Post(turn)
						return
					}
					pause <- longest
				}
				l.Post(turn)
				b.StartTimer()
				a.change("second", sources)
				for _, c := range a.conns {
					if name == "gone" {
						c.Read(make([]byte, 1))
					}
				}
				b.StopTimer()
				stop.Store(true)
				worst = max(worst, float64(<-pause)/1e6)
				for _, c := range a.conns {
					c.Close()
				}
				waitFor(b, func() bool { return a.proxy.group.Connections("http") == 0 })
			}
			b.ReportMetric(float64(n), "connections")
			b.ReportMetric(worst, "ms-pause")
		})
	}
}
