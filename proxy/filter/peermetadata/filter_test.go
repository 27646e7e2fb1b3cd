package peermetadata_test

import (
	"bufio"
	"bytes"
	nethttp "net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/filter/peermetadata"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/route"
)

// proxy is one worker with one listener and one cluster; it remembers the peer of the last exchange.
type proxy struct {
	w        *http.Worker
	route    *route.Forward
	peer     *observe.Peer
	attempts int
}

func (p *proxy) Begin(*http.Exchange) {}
func (p *proxy) End(x *http.Exchange) { p.peer, p.attempts = x.Peer, x.Attempts }

type state struct {
	c *cluster.Cluster
	t *route.Table
}

func (s state) Cluster(cluster.ID) *cluster.Cluster  { return s.c }
func (s state) ClusterNamed(string) *cluster.Cluster { return nil }
func (s state) Table(string) *route.Table            { return s.t }

type acceptor struct {
	l     *loop.Loop
	fd    int
	serve func(c *conn.Conn)
}

func (a *acceptor) Ready(loop.Events) {
	for {
		fd, remote, e := a.l.Poller().Accept(a.fd)
		if e != 0 {
			return
		}
		a.serve(conn.Accept(a.l, fd, conn.Info{Remote: remote.AddrPort}, nil))
	}
}

func newProxy(t *testing.T, n *mem.Net, at, to string, c cluster.Cluster, stage func(*peermetadata.Node) http.Stage, name string) *proxy {
	t.Helper()
	l := n.Loop(loop.Options{})
	p := &proxy{}
	p.w = http.NewWorker(http.Options{Loop: l, Observer: p})
	c.Limits = &cluster.Limits{}
	for _, m := range []interface{ Store(uint32) }{&c.Limits.MaxConnections, &c.Limits.MaxPending, &c.Limits.MaxRequests, &c.Limits.MaxRetries} {
		m.Store(cluster.Unlimited)
	}
	e := &cluster.Endpoint{Addr: netip.MustParseAddrPort(to), Limits: c.Limits}
	if c.Name == inTheMesh {
		e.Workload.Name = "server"
	}
	c.Endpoints = []*cluster.Endpoint{e}
	c.Seal()
	p.route = &route.Forward{Clusters: []route.Weighted{{Weight: 1}}, Total: 1}
	table, err := route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6}, Forward: p.route}}}})
	if err != nil {
		t.Fatal(err)
	}
	p.w.SetState(state{&c, table})
	node, err := peermetadata.New(&observe.Node{ID: "sidecar~10.0.0.1~" + name + "-0.default~default.svc.cluster.local", Name: name + "-0", Namespace: "default", Workload: name,
		Labels: map[string]string{"app": name, "version": "v1"}}, observe.NewPeers())
	if err != nil {
		t.Fatal(err)
	}
	cfg := &http.Config{Table: table, Stages: []http.Stage{http.Match(), stage(node), http.Router()}}
	a := &acceptor{l: l, serve: func(c *conn.Conn) { c.HandOver(p.w.Serve(c, cfg)) }}
	a.fd, _ = l.Poller().Socket(loop.IPv4)
	l.Poller().Bind(a.fd, loop.TCP(netip.MustParseAddrPort(at)))
	if e := l.Poller().Listen(a.fd, 10); e != 0 {
		t.Fatal(e)
	}
	if _, err := l.Register(a.fd, a); err != nil {
		t.Fatal(err)
	}
	return p
}

// inTheMesh names a cluster of workloads of the mesh.
const inTheMesh = "mesh"

var service = cluster.Cluster{Name: inTheMesh, Service: cluster.Service{Host: "server.default.svc.cluster.local"}}

// Two sidecars learn each other's names; neither the application nor its caller sees how.
func TestExchange(t *testing.T) {
	n := mem.New()
	caller := newProxy(t, n, "10.0.0.1:80", "10.0.0.2:80", service, (*peermetadata.Node).Client, "client")
	callee := newProxy(t, n, "10.0.0.2:80", "10.0.0.3:80", cluster.Cluster{}, (*peermetadata.Node).Server, "server")
	app, err := n.Listen(netip.MustParseAddrPort("10.0.0.3:80"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Dial(netip.MustParseAddrPort("10.0.0.1:80"))
	if err != nil {
		t.Fatal(err)
	}
	var u *mem.Peer
	for i := range 3 {
		// An application that forwards headers it does not know must not pass its caller's metadata on as its own.
		c.Send([]byte("GET / HTTP/1.1\r\nHost: server\r\nx-envoy-peer-metadata: c3Bvb2ZlZA==\r\nx-envoy-peer-metadata-id: spoofed\r\n\r\n"))
		n.Step()
		if i == 0 {
			u = app.Accept()
		}
		got, _ := u.Recv()
		if len(got) == 0 || strings.Contains(string(got), "peer-metadata") {
			t.Fatalf("the application received %q", got)
		}
		u.Send([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx-envoy-peer-metadata: c3Bvb2ZlZA==\r\n\r\n"))
		n.Step()
		if got, _ := c.Recv(); !strings.HasPrefix(string(got), "HTTP/1.1 200") || strings.Contains(string(got), "peer-metadata") {
			t.Fatalf("the caller received %q", got)
		}
		if p := callee.peer; p == nil || p.Workload != "client" || p.App != "client" || p.Version != "v1" {
			t.Errorf("the server's proxy takes the client for %+v", p)
		}
		if p := caller.peer; p == nil || p.Workload != "server" {
			t.Errorf("the client's proxy takes the server for %+v", p)
		}
	}
}

// What comes from outside the mesh is answered without metadata, and what leaves it carries none.
func TestStrangers(t *testing.T) {
	n := mem.New()
	callee := newProxy(t, n, "10.0.0.2:80", "10.0.0.3:80", cluster.Cluster{}, (*peermetadata.Node).Server, "server")
	caller := newProxy(t, n, "10.0.0.1:80", "10.0.0.3:80", cluster.Cluster{Service: cluster.Service{Host: "api.example.com"}}, (*peermetadata.Node).Client, "client")
	known, err := (&observe.Node{Workload: "server"}).Header()
	if err != nil {
		t.Fatal(err)
	}
	app, err := n.Listen(netip.MustParseAddrPort("10.0.0.3:80"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ to, headers string }{
		{"10.0.0.2:80", ""},
		{"10.0.0.2:80", "x-envoy-peer-metadata: not base64!\r\nx-envoy-peer-metadata-id: x\r\n"},
		{"10.0.0.2:80", "x-envoy-peer-metadata-id: x\r\n"},
		{"10.0.0.2:80", "x-envoy-peer-metadata: " + strings.Repeat("A", 20<<10) + "\r\n"},
		{"10.0.0.1:80", "x-envoy-peer-metadata: AAAA\r\n"},
	} {
		p, err := n.Dial(netip.MustParseAddrPort(c.to))
		if err != nil {
			t.Fatal(err)
		}
		p.Send([]byte("GET / HTTP/1.1\r\nHost: server\r\n" + c.headers + "\r\n"))
		n.Step()
		u := app.Accept()
		if got, _ := u.Recv(); strings.Contains(string(got), "peer-metadata") {
			t.Errorf("%v: the upstream received %q", c, got)
		}
		u.Send([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nx-envoy-peer-metadata: " + known + "\r\n\r\n"))
		n.Step()
		if got, _ := p.Recv(); !strings.HasPrefix(string(got), "HTTP/1.1 200") || strings.Contains(string(got), "peer-metadata") {
			t.Errorf("%v: the client received %q", c, got)
		}
		if callee.peer != nil {
			t.Errorf("%v: a stranger is taken for %+v", c, callee.peer)
		}
		if caller.peer != nil {
			t.Errorf("%v: a server of strangers is taken for %+v", c, caller.peer)
		}
	}
}

// A sidecar whose application refuses the connection says so at once to a peer, which may know another one; a stranger
// can do nothing with that, so for it the application is tried as often as the route says.
func TestUndelivered(t *testing.T) {
	const peer = "x-envoy-peer-metadata: ChAKBE5BTUUSCBoGY2xpZW50\r\nx-envoy-peer-metadata-id: client\r\n" // NAME: client
	for _, c := range []struct {
		who, headers string
		attempts     int
		says         string
	}{
		{"a peer", peer, 1, "1"},
		{"a stranger", "", 3, ""},
	} {
		t.Run(c.who, func(t *testing.T) {
			n := mem.New()
			callee := newProxy(t, n, "10.0.0.2:80", "10.0.0.3:80", cluster.Cluster{Inbound: true}, (*peermetadata.Node).Server, "server")
			callee.route.Retry = &route.Retry{On: route.OnResetBeforeRequest, Attempts: 2, BackoffBase: 25 * time.Millisecond, BackoffMax: 250 * time.Millisecond}
			p, err := n.Dial(netip.MustParseAddrPort("10.0.0.2:80"))
			if err != nil {
				t.Fatal(err)
			}
			p.Send([]byte("POST / HTTP/1.1\r\nHost: server\r\n" + c.headers + "Content-Length: 2\r\n\r\nhi"))
			n.Step()
			if c.attempts > 1 {
				n.Advance(time.Second)
			}
			b, _ := p.Recv()
			r, err := nethttp.ReadResponse(bufio.NewReader(bytes.NewReader(b)), nil)
			if err != nil {
				t.Fatalf("the answer is %q: %v", b, err)
			}
			r.Body.Close()
			if says := r.Header.Get("x-weir-undelivered"); r.StatusCode != nethttp.StatusServiceUnavailable || says != c.says || callee.attempts != c.attempts {
				t.Errorf("answered %d, undelivered %q, after %d attempts; want 503, %q, %d", r.StatusCode, says, callee.attempts, c.says, c.attempts)
			}
		})
	}
}
