package tcp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"weak"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// proxy is one worker with one listener, on a network in memory.
type proxy struct {
	t        testing.TB
	n        *mem.Net
	l        *loop.Loop
	w        *tcp.Worker
	clusters map[cluster.ID]*cluster.Cluster
	began    weak.Pointer[state] // what the newest connection began with
	log      []string
	ended    observe.Record // of the last
	reports  int
}

// state is what one connection begins with.
type state struct{ *proxy }

func (p *proxy) Cluster(id cluster.ID) *cluster.Cluster { return p.clusters[id] }
func (p *proxy) ClusterNamed(name string) *cluster.Cluster {
	for _, c := range p.clusters {
		if c.Name == name {
			return c
		}
	}
	return nil
}
func (p *proxy) Begin(*tcp.Relay)    {}
func (p *proxy) Progress(*tcp.Relay) { p.reports++ }
func (p *proxy) End(r *tcp.Relay) {
	r.Describe(&p.ended)
	s := fmt.Sprintf("%s received %d sent %d", r.Cause.Details(), r.Received, r.Sent)
	if r.Cluster != nil {
		s += " " + r.Cluster.Name
	}
	if r.Endpoint != nil && r.Upstream.Remote.IsValid() {
		s += " " + r.Endpoint.Addr.String()
	}
	if r.Source != nil {
		s += " from " + r.Source.Workload
	}
	if r.Destination != nil {
		s += " to " + r.Destination.Workload
	}
	p.log = append(p.log, s)
}

func (p *proxy) want(want ...string) {
	p.t.Helper()
	p.n.Step()
	if !slices.Equal(p.log, want) {
		p.t.Errorf("relays ended with %q, want %q", p.log, want)
	}
	p.log = nil
}

const entry = "10.0.0.1:15001"

func newCluster(id cluster.ID, name string, endpoints ...string) *cluster.Cluster {
	c := &cluster.Cluster{ID: id, Name: name, ConnectTimeout: time.Second, Limits: &cluster.Limits{}}
	c.Limits.MaxConnections.Store(cluster.Unlimited)
	for i, a := range endpoints {
		c.Endpoints = append(c.Endpoints, &cluster.Endpoint{ID: int32(i), Addr: netip.MustParseAddrPort(a), Limits: c.Limits})
	}
	c.Seal()
	return c
}

// at is a listener with one chain.
func at(addr string, server *tls.Server) listener.Config {
	return listener.Config{Name: "l", Binds: []loop.Addr{loop.TCP(netip.MustParseAddrPort(addr))}, Chains: []*listener.Chain{{TLS: server}}}
}

// start runs the proxy with a listener.
func start(t testing.TB, n *mem.Net, lc listener.Config, config *tcp.Config, o tcp.Options, clusters ...*cluster.Cluster) *proxy {
	t.Helper()
	p := &proxy{t: t, n: n, clusters: map[cluster.ID]*cluster.Cluster{}}
	for _, c := range clusters {
		p.clusters[c.ID] = c
	}
	for _, c := range lc.Chains {
		c.Filters = config
	}
	p.serve(o, &lc, nil)
	return p
}

// serve runs the proxy with a listener whose chains have a *tcp.Config each.
func (p *proxy) serve(o tcp.Options, lc *listener.Config, refused *[]string) {
	p.t.Helper()
	p.l = p.n.Loop(loop.Options{})
	o.Loop, o.Observer = p.l, p
	p.w = tcp.NewWorker(o)
	a := listener.NewAcceptor(p.l, listener.Options{
		Serve: func(c *conn.Conn, a listener.Arrival) conn.Handler {
			s := &state{p}
			p.began = weak.Make(s)
			return p.w.Serve(c, a.Chain.Filters.(*tcp.Config), s)
		},
		Refused: func(_ *conn.Info, _ *listener.Config, _ *listener.Chain, why listener.Refusal, err error) {
			if refused != nil {
				*refused = append(*refused, fmt.Sprintf("%v: %v", why, err))
			}
		},
	})
	g := listener.NewGroup(listener.Sockets{Sockets: p.n.Sockets()}, p.n.Sockets(), nil, slog.New(slog.DiscardHandler), a)
	table, err := listener.NewTable([]*listener.Config{lc})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := g.Apply(table); err != nil {
		p.t.Fatal(err)
	}
	p.n.Step()
}

func to(ids ...cluster.ID) *tcp.Config {
	c := &tcp.Config{}
	for _, id := range ids {
		c.Clusters = append(c.Clusters, tcp.Weighted{Cluster: id, Weight: 1})
	}
	return c
}

func backend(t testing.TB, n *mem.Net, at string) *mem.Listener {
	t.Helper()
	l, err := n.Listen(netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dial(t testing.TB, n *mem.Net, at string) *mem.Peer {
	t.Helper()
	p, err := n.Dial(netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func recv(t *testing.T, p *mem.Peer, want string, wantErr error) {
	t.Helper()
	b, err := p.Recv()
	if string(b) != want || !errors.Is(err, wantErr) {
		t.Errorf("received %q, %v; want %q, %v", b, err, want, wantErr)
	}
}

// Question and answer with half-closes in either order; what is counted is what moved.
func TestRelay(t *testing.T) {
	n := mem.New()
	p := start(t, n, at(entry, nil), to(1), tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	b := backend(t, n, "10.0.0.9:3306")

	c := dial(t, n, entry)
	c.Send([]byte("question"))
	c.CloseWrite()
	n.Step()
	s := b.Accept()
	recv(t, s, "question", io.EOF)
	s.Send([]byte("the answer"))
	s.Close()
	n.Step()
	recv(t, c, "the answer", io.EOF)
	p.want("via_upstream received 8 sent 10 db 10.0.0.9:3306")

	c = dial(t, n, entry) // the server speaks and ends first
	n.Step()
	s = b.Accept()
	s.Send([]byte("hello"))
	s.CloseWrite()
	n.Step()
	recv(t, c, "hello", io.EOF)
	c.Send([]byte("bye"))
	c.Close()
	n.Step()
	recv(t, s, "bye", io.EOF)
	p.want("via_upstream received 3 sent 5 db 10.0.0.9:3306")

	if l := p.clusters[1].Limits.Connections.Load(); l != 0 || p.w.Active() != 0 || p.clusters[1].Endpoints[0].Active.Load() != 0 {
		t.Errorf("%d connections counted, %d relays", l, p.w.Active())
	}
}

// A connection may last for weeks, and each that began under another configuration would hold all of it.
func TestRelayDoesNotHoldItsConfiguration(t *testing.T) {
	n := mem.New()
	p := start(t, n, at(entry, nil), to(1), tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	b := backend(t, n, "10.0.0.9:3306")
	c := dial(t, n, entry)
	n.Step()
	s := b.Accept()
	runtime.GC()
	if p.began.Value() != nil {
		t.Error("the configuration that it began with is held")
	}
	s.Send([]byte("hello"))
	n.Step()
	recv(t, c, "hello", nil)
}

// A reset on one side is a reset on the other; what was said before an endpoint reset is delivered.
func TestResets(t *testing.T) {
	n := mem.New()
	p := start(t, n, at(entry, nil), to(1), tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	b := backend(t, n, "10.0.0.9:3306")
	c := dial(t, n, entry)
	n.Step()
	s := b.Accept()
	c.Reset()
	n.Step()
	recv(t, s, "", syscall.ECONNRESET)
	p.want("via_upstream received 0 sent 0 db 10.0.0.9:3306")

	c = dial(t, n, entry)
	n.Step()
	s = b.Accept()
	s.Reset()
	n.Step()
	recv(t, c, "", syscall.ECONNRESET)
	p.want("via_upstream received 0 sent 0 db 10.0.0.9:3306")

	n.Buffer, n.LateAcks = 1000, true // so that a part of the answer waits, in the proxy and on the wire
	c = dial(t, n, entry)
	n.Step()
	s = b.Accept()
	s.Send(bytes.Repeat([]byte("x"), 900))
	n.Step()
	s.Send(bytes.Repeat([]byte("x"), 900))
	n.Step()
	s.Reset()
	n.Step()
	got, err := c.Recv()
	for err == nil {
		n.Advance(10 * time.Millisecond)
		var more []byte
		more, err = c.Recv()
		got = append(got, more...)
	}
	if len(got) != 1800 || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("received %d bytes, %v", len(got), err)
	}
}

// A client that leaves while the endpoint is being dialled.
func TestClientLeaves(t *testing.T) {
	n := mem.New()
	p := start(t, n, at(entry, nil), to(1), tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	n.Silence(netip.MustParseAddrPort("10.0.0.9:3306"), true)
	c := dial(t, n, entry)
	n.Step()
	c.Reset()
	p.want("via_upstream received 0 sent 0 db")
	if n.Open() != 1 {
		t.Errorf("%d sockets, want the listening one", n.Open())
	}
}

func closed(c *cluster.Cluster) *cluster.Cluster {
	c.Refused = "DestinationRule shop/db"
	return c
}

func TestFailures(t *testing.T) {
	for _, tc := range []struct {
		name    string
		config  *tcp.Config
		cluster *cluster.Cluster
		prepare func(n *mem.Net, c *cluster.Cluster)
		want    string
	}{
		{"no such cluster", to(7), newCluster(1, "a"), nil, "cluster_not_found received 0 sent 0"},
		{"no clusters at all", &tcp.Config{}, newCluster(1, "a"), nil, "cluster_not_found received 0 sent 0"},
		{"no endpoints", to(1), newCluster(1, "a"), nil, "no_healthy_upstream received 0 sent 0 a"},
		{"not to be called", to(1), closed(newCluster(1, "a", "10.0.0.9:1")), nil, "destination_refused received 0 sent 0 a"},
		{"refused", to(1), newCluster(1, "a", "10.0.0.9:1"), nil, "connection_failure received 0 sent 0 a"},
		{"no answer", to(1), newCluster(1, "a", "10.0.0.9:1"), func(n *mem.Net, _ *cluster.Cluster) { n.Silence(netip.MustParseAddrPort("10.0.0.9:1"), true) },
			"connection_timeout received 0 sent 0 a"},
		{"limit", to(1), newCluster(1, "a", "10.0.0.9:1"), func(_ *mem.Net, c *cluster.Cluster) { c.Limits.MaxConnections.Store(0) }, "overflow received 0 sent 0 a"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := mem.New()
			p := start(t, n, at(entry, nil), tc.config, tcp.Options{}, tc.cluster)
			if tc.prepare != nil {
				tc.prepare(n, tc.cluster)
			}
			c := dial(t, n, entry)
			c.Send([]byte("hello?"))
			for n.Step(); n.Next(); {
			}
			got := strings.Join(p.log, ";")
			// The details of HTTP are longer than what matters here.
			for _, s := range []string{"upstream_reset_before_response_started{", "remote_", "}"} {
				got = strings.ReplaceAll(got, s, "")
			}
			if got != tc.want {
				t.Errorf("ended with %q, want %q", got, tc.want)
			}
			if _, err := c.Recv(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client saw %v, want a reset", err)
			}
			if v := tc.cluster.Limits.Connections.Load(); v != 0 {
				t.Errorf("%d connections counted", v)
			}
		})
	}
}

// An endpoint that refuses costs an attempt at another one, as often as configured;
// what the client said meanwhile is not lost.
func TestConnectAttempts(t *testing.T) {
	n := mem.New()
	config := to(1)
	config.MaxConnectAttempts = 3
	p := start(t, n, at(entry, nil), config, tcp.Options{}, newCluster(1, "db", "10.0.0.7:1", "10.0.0.8:1", "10.0.0.9:1"))
	b := backend(t, n, "10.0.0.9:1")
	for range 5 {
		c := dial(t, n, entry)
		c.Send([]byte("hi"))
		n.Step()
		s := b.Accept()
		if s == nil {
			t.Fatal("the working endpoint was not tried")
		}
		recv(t, s, "hi", nil)
		c.Reset()
		p.want("via_upstream received 2 sent 0 db 10.0.0.9:1")
	}
}

func TestWeights(t *testing.T) {
	n := mem.New()
	config := &tcp.Config{Clusters: []tcp.Weighted{{1, "v1", 90}, {2, "v2", 10}, {3, "v3", 0}}}
	p := start(t, n, at(entry, nil), config, tcp.Options{}, newCluster(1, "v1", "10.0.1.1:1"), newCluster(2, "v2", "10.0.2.1:1"), newCluster(3, "v3", "10.0.3.1:1"))
	const calls = 2000
	for range calls {
		dial(t, n, entry)
		n.Step()
	}
	counts := map[string]int{}
	for _, s := range p.log {
		counts[s[strings.LastIndex(s, " ")+1:]]++
	}
	if v2 := counts["v2"]; counts["v3"] != 0 || v2 < calls/10-60 || v2 > calls/10+60 {
		t.Errorf("connections by cluster: %v", counts)
	}
}

func TestOriginalDst(t *testing.T) {
	pass := newCluster(1, "PassthroughCluster")
	pass.Kind = cluster.OriginalDst
	app := newCluster(2, "inbound|9080||")
	app.Kind, app.LocalAddress, app.Bind = cluster.OriginalDst, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.6")
	for _, tc := range []struct {
		id       cluster.ID
		original string
		dialled  string
		from     string
	}{
		{1, "93.184.216.34:443", "93.184.216.34:443", "127.0.0.1"},
		{1, "[2001:db8::1]:443", "[2001:db8::1]:443", "::1"},
		{2, "10.0.0.1:9080", "127.0.0.1:9080", "127.0.0.6"},
	} {
		n := mem.New()
		b := backend(t, n, tc.dialled)
		lc := at(entry, nil)
		lc.UseOriginalDst = true
		p := start(t, n, lc, to(tc.id), tcp.Options{}, pass, app)
		if _, err := n.DialFrom(netip.AddrPort{}, netip.MustParseAddrPort(entry), netip.MustParseAddrPort(tc.original)); err != nil {
			t.Fatal(err)
		}
		n.Step()
		s := b.Accept()
		if s == nil {
			t.Fatalf("%s: %s was not dialled: %q", tc.original, tc.dialled, p.log)
		}
		if got := s.Remote().Addr().String(); got != tc.from {
			t.Errorf("dialled from %s, want %s", got, tc.from)
		}
	}
}

// The endpoint learns whose connection it is, before TLS if there is some.
func TestProxyProtocol(t *testing.T) {
	ca := tlstest.New(t)
	id := ca.Workload("default", "db")
	server, err := tls.NewServer(tls.ServerOptions{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	client, err := tls.NewClient(tls.ClientOptions{Trust: tls.Trust{Mesh: id}})
	if err != nil {
		t.Fatal(err)
	}
	from, original := netip.MustParseAddrPort("10.1.0.1:5000"), netip.MustParseAddrPort("10.96.0.1:3306")
	n := mem.New()
	db := newCluster(1, "db", "10.0.0.9:3306")
	db.Endpoints[0].Transport.Store(&cluster.Transport{Proxy: proxyproto.V1})
	lc := at(entry, nil)
	lc.UseOriginalDst = true
	start(t, n, lc, to(1), tcp.Options{}, db)
	b := backend(t, n, "10.0.0.9:3306")
	c, err := n.DialFrom(from, netip.MustParseAddrPort(entry), original)
	if err != nil {
		t.Fatal(err)
	}
	n.Step()
	s := b.Accept()
	recv(t, s, "PROXY TCP4 10.1.0.1 10.96.0.1 5000 3306\r\n", nil)
	c.Send([]byte("hi"))
	n.Step()
	recv(t, s, "hi", nil)

	// Around TLS, to a proxy that reads it.
	n = mem.New()
	db.Endpoints[0].Transport.Store(&cluster.Transport{Proxy: proxyproto.V2, TCP: client})
	start(t, n, lc, to(1), tcp.Options{}, db)
	behind := at("10.0.0.9:3306", server)
	behind.Proxy = &listener.ProxyHeader{}
	app := newCluster(1, "app", "127.0.0.1:3306")
	app.Endpoints[0].Transport.Store(&cluster.Transport{Proxy: proxyproto.V1})
	start(t, n, behind, to(1), tcp.Options{}, app)
	b = backend(t, n, "127.0.0.1:3306")
	if c, err = n.DialFrom(from, netip.MustParseAddrPort(entry), original); err != nil {
		t.Fatal(err)
	}
	c.Send([]byte("hi"))
	n.Step()
	recv(t, b.Accept(), "PROXY TCP4 10.1.0.1 10.96.0.1 5000 3306\r\nhi", nil)
}

// With original_src, the endpoint sees the client's address.
func TestOriginalSource(t *testing.T) {
	for _, tc := range []struct {
		from, to, want string
		port           bool
	}{
		{"10.1.0.1:5000", "10.0.0.9:80", "10.1.0.1", false},
		{"10.1.0.1:5000", "10.0.0.9:80", "10.1.0.1:5000", true},
		{"[2001:db8::7]:5000", "[2001:db8::9]:80", "2001:db8::7", false},
		{"10.1.0.1:5000", "[2001:db8::9]:80", "::1", false}, // it cannot
	} {
		n := mem.New()
		in := entry
		if tc.from[0] == '[' {
			in = "[2001:db8::1]:15006"
		}
		lc := at(in, nil)
		lc.OriginalSource = &conn.OriginalSource{Mark: 7, Port: tc.port}
		start(t, n, lc, to(1), tcp.Options{}, newCluster(1, "app", tc.to))
		b := backend(t, n, tc.to)
		if _, err := n.DialFrom(netip.MustParseAddrPort(tc.from), netip.MustParseAddrPort(in), netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		n.Step()
		s := b.Accept()
		if s == nil {
			t.Fatalf("%+v: not connected", tc)
		}
		if got := s.Remote(); got.String() != tc.want && got.Addr().String() != tc.want {
			t.Errorf("%+v: the endpoint sees %v", tc, got)
		}
	}
}

func TestTimeouts(t *testing.T) {
	n := mem.New()
	config := to(1)
	config.IdleTimeout = 10 * time.Second
	p := start(t, n, at(entry, nil), config, tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	b := backend(t, n, "10.0.0.9:3306")
	c := dial(t, n, entry)
	n.Step()
	s := b.Accept()
	for range 5 {
		n.Advance(9 * time.Second)
		c.Send([]byte("x"))
		n.Step()
	}
	p.want()
	if p.reports < 5 {
		t.Errorf("%d reports in 45 s with traffic", p.reports)
	}
	n.Advance(9 * time.Second)
	before := p.reports
	p.want()
	n.Advance(2 * time.Second)
	p.want("stream_idle_timeout received 5 sent 0 db 10.0.0.9:3306")
	if p.reports != before {
		t.Error("an idle relay was reported")
	}
	recv(t, s, "", syscall.ECONNRESET)

	config.IdleTimeout, config.MaxDuration = -1, time.Minute
	c = dial(t, n, entry)
	n.Advance(time.Minute)
	p.want("duration_timeout received 0 sent 0 db 10.0.0.9:3306")
	if _, err := c.Recv(); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

// A reader that does not read makes the writer wait; the proxy holds little.
func TestBackPressure(t *testing.T) {
	n := mem.New()
	p := start(t, n, at(entry, nil), to(1), tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	b := backend(t, n, "10.0.0.9:3306")
	c := dial(t, n, entry)
	n.Step()
	s := b.Accept()
	var sent, got bytes.Buffer
	block := make([]byte, 50_000)
	for range 100 {
		for i := range block {
			block[i] = byte(p.l.Rand())
		}
		k, _ := s.Send(block)
		sent.Write(block[:k])
		n.Step()
	}
	if held := sent.Len() - c.Pending() - 64<<10; held > conn.HighWater+loop.ScratchSize {
		t.Errorf("the proxy took %d bytes that nobody reads", held)
	}
	s.Close()
	for {
		n.Step()
		x, err := c.Recv()
		got.Write(x)
		if err != nil {
			break
		}
	}
	if !bytes.Equal(sent.Bytes(), got.Bytes()) {
		t.Errorf("sent %d bytes, received %d, or others", sent.Len(), got.Len())
	}
}

// Two sidecars: each learns the other's workload; the applications see only their bytes,
// whoever speaks first.
func TestMetadataExchange(t *testing.T) {
	ca := tlstest.New(t)
	client, server := ca.Workload("default", "reviews"), ca.Workload("default", "mysql")
	down, err := tls.NewServer(tls.ServerOptions{Identity: server, Clients: tls.RequireClientCert, Trust: tls.Trust{Mesh: server}, ALPN: []string{"istio-peer-exchange", "istio"}})
	if err != nil {
		t.Fatal(err)
	}
	frame := func(workload string) []byte {
		b, err := tcp.Frame(&observe.Node{ID: "sidecar~10.0.0.1~" + workload, Workload: workload, Namespace: "default", Labels: map[string]string{"app": workload}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tc := range []struct {
		name              string
		alpn              []string
		clientSays        []byte
		exchange          bool
		outbound, inbound string
	}{
		{"agreed", []string{"istio-peer-exchange", "istio"}, frame("reviews-v1"), true,
			"via_upstream received 8 sent 8 out 10.0.0.2:15006 to mysql-v1", "via_upstream received 8 sent 8 in 127.0.0.1:3306 from reviews-v1"},
		{"not agreed", []string{"istio"}, frame("reviews-v1"), true,
			"via_upstream received 8 sent 8 out 10.0.0.2:15006", "via_upstream received 8 sent 8 in 127.0.0.1:3306"},
		{"agreed, and not kept by the client", []string{"istio-peer-exchange"}, nil, true,
			"via_upstream received 8 sent 8 out 10.0.0.2:15006 to mysql-v1", "via_upstream received 8 sent 8 in 127.0.0.1:3306"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up, err := tls.NewClient(tls.ClientOptions{Identity: client, Trust: tls.Trust{Mesh: client}, ALPN: tc.alpn})
			if err != nil {
				t.Fatal(err)
			}
			n := mem.New()
			n.SegmentSize = 13
			out := newCluster(1, "out", "10.0.0.2:15006")
			out.Endpoints[0].Transport.Store(&cluster.Transport{TCP: up})
			outConfig, inConfig := to(1), to(1)
			outConfig.Exchange, inConfig.Exchange = tc.exchange, true
			o := start(t, n, at(entry, nil), outConfig, tcp.Options{Metadata: tc.clientSays, Peers: observe.NewPeers()}, out)
			i := start(t, n, at("10.0.0.2:15006", down), inConfig, tcp.Options{Metadata: frame("mysql-v1"), Peers: observe.NewPeers()}, newCluster(1, "in", "127.0.0.1:3306"))
			app := backend(t, n, "127.0.0.1:3306")

			c := dial(t, n, entry)
			n.Step()
			s := app.Accept()
			s.Send([]byte("greeting"))
			n.Step()
			recv(t, c, "greeting", nil)
			c.Send([]byte("question"))
			c.CloseWrite()
			n.Step()
			recv(t, s, "question", io.EOF)
			s.Close()
			n.Step()
			recv(t, c, "", io.EOF)
			o.want(tc.outbound)
			i.want(tc.inbound)
		})
	}
}

// A peer that announces more metadata than anybody has is cut off.
func TestHugeMetadata(t *testing.T) {
	ca := tlstest.New(t)
	w := ca.Workload("default", "x")
	down, _ := tls.NewServer(tls.ServerOptions{Identity: w, ALPN: []string{"istio-peer-exchange"}})
	up, _ := tls.NewClient(tls.ClientOptions{Trust: tls.Trust{SkipVerify: true}, ALPN: []string{"istio-peer-exchange"}})
	n := mem.New()
	config := to(1)
	config.Exchange = true
	p := start(t, n, at(entry, down), config, tcp.Options{}, newCluster(1, "in", "127.0.0.1:3306"))
	backend(t, n, "127.0.0.1:3306")
	h := &greeting{say: []byte{0x3D, 0x23, 0x04, 0x67, 0x7f, 0xff, 0xff, 0xff, 1, 2, 3}}
	conn.Dial(n.Loop(loop.Options{}), conn.Target{Addr: loop.TCP(netip.MustParseAddrPort(entry)), TLS: up}, h)
	p.want("http1.codec_error received 0 sent 0 in 127.0.0.1:3306")
}

type greeting struct{ say []byte }

func (g *greeting) Open(c *conn.Conn)             { c.Write(g.say) }
func (*greeting) Data(_ *conn.Conn, b []byte) int { return len(b) }
func (*greeting) EOF(*conn.Conn)                  {}
func (*greeting) Drained(*conn.Conn)              {}
func (*greeting) Closed(*conn.Conn, conn.Why)     {}

// The wire format, as Envoy writes it.
func TestFrame(t *testing.T) {
	b, err := tcp.Frame(&observe.Node{ID: "sidecar~1", Workload: "w", Namespace: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if binary.BigEndian.Uint32(b) != 0x3D230467 || int(binary.BigEndian.Uint32(b[4:])) != len(b)-8 {
		t.Errorf("header % x of %d bytes", b[:8], len(b))
	}
	var a anypb.Any
	if err := proto.Unmarshal(b[8:], &a); err != nil || a.TypeUrl != "type.googleapis.com/google.protobuf.Struct" {
		t.Errorf("%v, %s", err, a.TypeUrl)
	}
	if _, err := tcp.Frame(&observe.Node{Labels: map[string]string{"a": strings.Repeat("x", 40<<10)}}); err == nil {
		t.Error("metadata of 40 KB was framed")
	}
}

// Bulk goes through the kernel; nothing is lost at either change, and half-close,
// back-pressure, counts and resets are as before.
func TestSplice(t *testing.T) {
	n := mem.New()
	n.Buffer = 1 << 20
	p := start(t, n, at(entry, nil), to(1), tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	b := backend(t, n, "10.0.0.9:3306")
	c := dial(t, n, entry)
	n.Step()
	s := b.Accept()
	var sent, got bytes.Buffer
	block := make([]byte, 700_000)
	spliced := 0
	for i := range 40 {
		size := len(block)
		if i/10%2 == 1 {
			size = 100 // small for a while: back to reading and writing
		}
		for j := range block[:size] {
			block[j] = byte(p.l.Rand())
		}
		k, _ := s.Send(block[:size])
		sent.Write(block[:k])
		n.Step()
		spliced = max(spliced, n.PipesMade())
		if i%3 != 0 { // a slow reader
			x, _ := c.RecvUpTo(500_000)
			got.Write(x)
		}
		c.Send([]byte("ack"))
		n.Step()
		s.Recv()
	}
	s.CloseWrite()
	for {
		n.Step()
		x, err := c.Recv()
		got.Write(x)
		if err == io.EOF {
			break
		}
	}
	if spliced == 0 {
		t.Error("nothing was spliced")
	}
	if !bytes.Equal(sent.Bytes(), got.Bytes()) {
		t.Errorf("sent %d bytes, received %d, or others", sent.Len(), got.Len())
	}
	c.Close()
	p.want(fmt.Sprintf("via_upstream received 120 sent %d db 10.0.0.9:3306", sent.Len()))

	// An end in the middle of it leaves nothing behind.
	c = dial(t, n, entry)
	n.Step()
	s = b.Accept()
	for range 5 {
		s.Send(block)
		n.Step()
	}
	c.Reset()
	n.Step()
	if _, err := s.Recv(); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	p.l.End()
	if n.Pipes() != 0 {
		t.Errorf("%d pipes left", n.Pipes())
	}
}

// relayed is a connection by the proxy; rounds of it pass so many bytes there and back.
func relayed(t testing.TB) (rounds func(size int) func()) {
	n := mem.New()
	n.Buffer = 1 << 20
	start(t, n, at(entry, nil), to(1), tcp.Options{}, newCluster(1, "db", "10.0.0.9:3306"))
	b := backend(t, n, "10.0.0.9:3306")
	c := dial(t, n, entry)
	n.Step()
	s := b.Accept()
	return func(size int) func() {
		msg, buf := make([]byte, size), make([]byte, size)
		pass := func(from, to *mem.Peer) {
			from.Send(msg)
			for got := 0; got < size; {
				n.Step()
				got += to.Take(buf)
			}
		}
		return func() { pass(c, s); pass(s, c) }
	}
}

func TestRelayDoesNotAllocate(t *testing.T) {
	rounds := relayed(t)
	for _, size := range []int{64, 5_000, 100_000, 1_000_000} { // the last is spliced
		round := rounds(size)
		round()
		if a := testing.AllocsPerRun(100, round); a != 0 {
			t.Errorf("%v allocations to relay %d bytes there and back", a, size)
		}
	}
}

func BenchmarkRelay(b *testing.B) {
	round := relayed(b)(5_000)
	round()
	b.ReportAllocs()
	for b.Loop() {
		round()
	}
}
