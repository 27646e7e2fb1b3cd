package http_test

import (
	"net/netip"
	"runtime"
	"testing"
	"weak"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/outbound"
	"github.com/weirmesh/weir/proxy/route"
)

// A WebSocket may last for weeks and a download for hours. Each of those that began under another configuration would hold all of it, if it
// kept what it no longer looks at: thousands of configurations, one for every change there was since.
func TestWhatLastsDoesNotHoldItsConfiguration(t *testing.T) {
	for _, c := range []struct{ name, ask, answer string }{
		{"a WebSocket", "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
			"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"a response without end", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"},
		{"a request without end", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := mem.New()
			l := n.Loop(loop.Options{})
			upstream, err := n.Listen(netip.MustParseAddrPort("10.2.0.1:80"))
			if err != nil {
				t.Fatal(err)
			}
			w := http.NewWorker(http.Options{Loop: l})
			old := weak.Make(useState(t, w))
			cfg := &http.Config{TableName: "t", Stages: outbound.Stages(outbound.Options{}), Upgrades: []string{"websocket"}}
			listen(t, l, front, func(c *conn.Conn) { c.HandOver(w.Serve(c, cfg)) })
			client, err := n.Dial(front)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if _, err := client.Send([]byte(c.ask)); err != nil {
				t.Fatal(err)
			}
			n.Step()
			server := upstream.Accept()
			if b, err := server.Recv(); err != nil || len(b) == 0 {
				t.Fatalf("the upstream received %q, %v", b, err)
			}
			if _, err := server.Send([]byte(c.answer)); err != nil {
				t.Fatal(err)
			}
			n.Step()
			useState(t, w)
			runtime.GC()
			if old.Value() != nil {
				t.Error("the configuration that it began with is held")
			}
			if _, err := client.Send([]byte("1\r\nb\r\n")); err != nil {
				t.Errorf("it does not live: %v", err)
			}
			runtime.KeepAlive(server)
		})
	}
}

// useState gives the worker a new state with one endpoint.
func useState(t *testing.T, w *http.Worker) *state {
	t.Helper()
	limits := &cluster.Limits{}
	for _, m := range []interface{ Store(uint32) }{&limits.MaxConnections, &limits.MaxPending, &limits.MaxRequests, &limits.MaxRetries} {
		m.Store(cluster.Unlimited)
	}
	c := &cluster.Cluster{Name: "c", Limits: limits, Endpoints: []*cluster.Endpoint{{Addr: netip.MustParseAddrPort("10.2.0.1:80"), Limits: limits}}}
	c.Seal()
	table, err := route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6},
		Forward: &route.Forward{Clusters: []route.Weighted{{Weight: 1}}, Total: 1}}}}})
	if err != nil {
		t.Fatal(err)
	}
	s := &state{clusters: []*cluster.Cluster{c}, table: table}
	w.SetState(s)
	return s
}
