package listener_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
	"github.com/weirmesh/weir/xds/ondemand"
)

// world is a process on a network in memory: some workers and what they served.
type world struct {
	t       *testing.T
	n       *mem.Net
	group   *listener.Group
	workers []*listener.Acceptor
	l       *loop.Loop // for connections of the test
	log     []string
	demands *demand.Demands
	demand  *demand.Worker // of the first worker

	addresses, errors bool // are told too
}

func newWorld(t *testing.T, workers int, options ...func(*listener.Options)) *world {
	w := &world{t: t, n: mem.New(), demands: demand.New()}
	w.l = w.n.Loop(loop.Options{})
	for i := range workers {
		o := listener.Options{
			Serve: func(c *conn.Conn, a listener.Arrival) conn.Handler {
				return &server{w: w, worker: i, chain: a.Chain.Name, listener: a.Config.Name}
			},
			Refused: func(_ *conn.Info, c *listener.Config, _ *listener.Chain, why listener.Refusal, err error) {
				if w.errors && err != nil {
					w.say("refused by %s: %v: %v", c.Name, why, err)
					return
				}
				w.say("refused by %s: %v", c.Name, why)
			},
		}
		l := w.n.Loop(loop.Options{})
		o.Demand = w.demands.NewWorker(l, &ondemand.Place{})
		if i == 0 {
			w.demand = o.Demand
		}
		for _, set := range options {
			set(&o)
		}
		w.workers = append(w.workers, listener.NewAcceptor(l, o))
	}
	w.group = listener.NewGroup(listener.Sockets{Sockets: w.n.Sockets()}, w.n.Sockets(), nil, slog.New(slog.DiscardHandler), w.workers...)
	return w
}

func (w *world) say(format string, a ...any) { w.log = append(w.log, fmt.Sprintf(format, a...)) }

func (w *world) want(want ...string) {
	w.t.Helper()
	w.n.Step()
	if !slices.Equal(w.log, want) {
		w.t.Errorf("heard %q, want %q", w.log, want)
	}
	w.log = nil
}

func (w *world) apply(configs ...*listener.Config) {
	w.t.Helper()
	t, err := listener.NewTable(configs)
	if err != nil {
		w.t.Fatal(err)
	}
	live, err := w.group.Apply(t)
	if err != nil {
		w.t.Fatal(err)
	}
	w.n.Step()
	select {
	case <-live:
	default:
		w.t.Error("the table is not live after a step")
	}
}

func (w *world) dial(to string) *mem.Peer { return w.dialVia(to, "") }

func (w *world) dialVia(to, original string) *mem.Peer {
	w.t.Helper()
	var dst netip.AddrPort
	if original != "" {
		dst = netip.MustParseAddrPort(original)
	}
	p, err := w.n.DialFrom(netip.AddrPort{}, netip.MustParseAddrPort(to), dst)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// server says what it was given and greets.
type server struct {
	w               *world
	worker          int
	chain, listener string
}

func (s *server) Open(c *conn.Conn) {
	proto := ""
	if p := c.Info().TLS; p != nil {
		proto = " over TLS for " + p.SNI
	}
	if i := c.Info(); s.w.addresses {
		proto += fmt.Sprintf(" for %v to %v", i.Remote, i.Local)
		if i.Direct != nil {
			proto += fmt.Sprintf(" by %v", i.Direct)
		}
	}
	s.w.say("%s/%s open%s", s.listener, s.chain, proto)
	c.Write([]byte("hello"))
}
func (s *server) Data(_ *conn.Conn, b []byte) int { s.w.say("%s data %q", s.chain, b); return len(b) }
func (s *server) EOF(c *conn.Conn)                { c.Close() }
func (s *server) Drained(*conn.Conn)              {}
func (s *server) Closed(*conn.Conn, conn.Why)     { s.w.say("%s closed", s.chain) }

func bind(a ...string) (out []loop.Addr) {
	for _, x := range a {
		out = append(out, loop.TCP(netip.MustParseAddrPort(x)))
	}
	return out
}

func plain(name string, binds ...string) *listener.Config {
	return &listener.Config{Name: name, Binds: bind(binds...), Chains: []*listener.Chain{{Name: "only"}}}
}

// A port with one chain does not wait for the client, so that servers can speak first.
func TestServerFirst(t *testing.T) {
	w := newWorld(t, 1)
	c := plain("l", "0.0.0.0:3306", "[::]:3306")
	c.InspectTLS, c.InspectHTTP = true, true
	w.apply(c)
	for _, to := range []string{"10.0.0.1:3306", "[2001:db8::1]:3306"} {
		p := w.dial(to)
		w.want("l/only open")
		if b, err := p.Recv(); string(b) != "hello" || err != nil {
			t.Errorf("received %q, %v", b, err)
		}
		if n := w.group.Connections("l"); n != 1 {
			t.Errorf("%d connections", n)
		}
		p.Close()
		w.want("only closed")
		if n := w.group.Connections("l") + w.workers[0].Open(); n != 0 {
			t.Errorf("%d connections counted after the end", n)
		}
	}
}

// A permissive port: what it is shows in the first bytes, however they are cut, and
// nothing of them is lost.
func TestPermissivePort(t *testing.T) {
	ca := tlstest.New(t)
	ratings, reviews := ca.Workload("default", "ratings"), ca.Workload("default", "reviews")
	server, err := tls.NewServer(tls.ServerOptions{Identity: ratings, Clients: tls.RequireClientCert, Trust: tls.Trust{Mesh: ratings}, ALPN: []string{"istio"}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := tls.NewClient(tls.ClientOptions{Identity: reviews, Trust: tls.Trust{Mesh: ratings}, SNI: "Ratings", ALPN: []string{"istio"}})
	if err != nil {
		t.Fatal(err)
	}
	config := &listener.Config{Name: "in", Binds: bind("10.0.0.1:9080"), InspectTLS: true, InspectHTTP: true, Chains: []*listener.Chain{
		{Name: "mtls", TLS: server, Match: listener.Match{TransportProtocol: listener.TLS, ApplicationProtocols: []string{"istio"}}},
		{Name: "http", Match: listener.Match{TransportProtocol: listener.RawBuffer, ApplicationProtocols: []string{"http/1.1"}}},
		{Name: "tcp", Match: listener.Match{TransportProtocol: listener.RawBuffer}},
	}}
	for _, segment := range []int{0, 1} {
		w := newWorld(t, 1)
		w.n.SegmentSize = segment
		w.apply(config)

		cl := w.n.Loop(loop.Options{})
		c := conn.Dial(cl, conn.Target{Addr: bind("10.0.0.1:9080")[0], TLS: client}, &quiet{})
		w.want("in/mtls open over TLS for Ratings")
		c.Reset()
		w.want("mtls closed")

		p := w.dial("10.0.0.1:9080")
		w.want()
		p.Send([]byte("GET / HT"))
		w.want()
		p.Send([]byte("TP/1.1\r\n\r\n"))
		if segment == 0 {
			w.want("in/http open", `http data "GET / HTTP/1.1\r\n\r\n"`)
		} else if w.n.Step(); len(w.log) == 0 || w.log[0] != "in/http open" || !strings.HasPrefix(w.log[1], `http data "GET / HTTP/1.1\r\n`) {
			t.Errorf("heard %q", w.log)
		}
		w.log = nil

		p = w.dial("10.0.0.1:9080")
		p.Send([]byte("*1\r\n"))
		if segment == 0 {
			w.want("in/tcp open", `tcp data "*1\r\n"`)
		}
		w.n.Step()
		w.log = nil
		p = w.dial("10.0.0.1:9080") // ends without a word
		p.CloseWrite()
		w.want("in/tcp open", "tcp closed")
	}
}

type quiet struct{}

func (*quiet) Open(*conn.Conn)                 {}
func (*quiet) Data(_ *conn.Conn, b []byte) int { return len(b) }
func (*quiet) EOF(*conn.Conn)                  {}
func (*quiet) Drained(*conn.Conn)              {}
func (*quiet) Closed(*conn.Conn, conn.Why)     {}

func TestInspectTimeout(t *testing.T) {
	sniffing := func(goOn bool) *listener.Config {
		return &listener.Config{Name: "l", Binds: bind("10.0.0.1:80"), InspectTLS: true, InspectTimeout: 5 * time.Second, ContinueOnTimeout: goOn,
			Chains:  []*listener.Chain{{Name: "tls", Match: listener.Match{TransportProtocol: listener.TLS}}},
			Default: &listener.Chain{Name: "default"}}
	}
	w := newWorld(t, 1)
	w.apply(sniffing(true))
	w.dial("10.0.0.1:80")
	w.n.Advance(5*time.Second - time.Millisecond)
	w.want()
	w.n.Advance(time.Millisecond)
	w.want("l/default open")

	w = newWorld(t, 1)
	w.apply(sniffing(false))
	p := w.dial("10.0.0.1:80")
	w.n.Advance(5 * time.Second)
	w.want("refused by l: the client said nothing to choose a filter chain by")
	if _, err := p.Recv(); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	if w.n.Open() != 2 { // the listening one and the test's own
		t.Errorf("%d sockets", w.n.Open())
	}
}

// Whose chain is gone when it has said what it wants is refused, and told of.
func TestChainIsGone(t *testing.T) {
	ca := tlstest.New(t)
	server, err := tls.NewServer(tls.ServerOptions{Identity: ca.Workload("default", "a"), Clients: tls.NoClientCert})
	if err != nil {
		t.Fatal(err)
	}
	client, err := tls.NewClient(tls.ClientOptions{Trust: tls.Trust{Roots: ca.Pool()}, SNI: "a"})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 1, func(o *listener.Options) {
		o.Serve = func(*conn.Conn, listener.Arrival) conn.Handler { return nil }
		o.Begin = func(*conn.Conn, listener.Arrival, func()) listener.Tentative { return nil }
	})
	w.errors = true
	const refused = "refused by l: no filter chain matches: the filter chain is gone by which it came"
	w.apply(&listener.Config{Name: "l", Direction: listener.Inbound, Binds: bind("10.0.0.1:80", "10.0.0.1:443"), InspectTLS: true, Chains: []*listener.Chain{
		{Name: "tls", Match: listener.Match{DestinationPort: 443, TransportProtocol: listener.TLS}, TLS: server},
		{Name: "plain", Match: listener.Match{DestinationPort: 443, TransportProtocol: listener.RawBuffer}},
		{Name: "silent", Match: listener.Match{DestinationPort: 80, TransportProtocol: listener.RawBuffer}, ServerFirst: true},
	}})

	p := w.dial("10.0.0.1:443")
	p.Send([]byte("hello"))
	w.want(refused)
	if _, err := p.Recv(); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	conn.Dial(w.l, conn.Target{Addr: bind("10.0.0.1:443")[0], TLS: client}, &quiet{})
	w.want(refused)
	w.dial("10.0.0.1:80")
	w.want("refused by l: no filter chain matches")
}

// Redirected connections go to the listener they were meant for; connections made
// to the capture port itself would loop and are refused.
func TestCapture(t *testing.T) {
	outbound := func(name, addr string, binds ...string) *listener.Config {
		return &listener.Config{Name: name, Direction: listener.Outbound, Address: netip.MustParseAddrPort(addr), Binds: bind(binds...), Chains: []*listener.Chain{{Name: "only"}}}
	}
	caught := outbound("virtualOutbound", "0.0.0.0:15001", "0.0.0.0:15001")
	caught.UseOriginalDst, caught.HandOff = true, true
	caught.Chains = []*listener.Chain{{Name: "blackhole", Match: listener.Match{DestinationPort: 15001}}, {Name: "passthrough"}}
	inbound := &listener.Config{Name: "virtualInbound", Direction: listener.Inbound, Address: netip.MustParseAddrPort("0.0.0.0:15006"), Binds: bind("0.0.0.0:15006"), UseOriginalDst: true,
		Chains: []*listener.Chain{{Name: "9080", Match: listener.Match{DestinationPort: 9080}}}}
	w := newWorld(t, 1)
	w.apply(caught, inbound, outbound("0.0.0.0_9080", "0.0.0.0:9080"), outbound("10.0.0.7_3306", "10.0.0.7:3306"))
	for _, tc := range []struct{ to, original, want string }{
		{"127.0.0.1:15001", "10.0.0.9:9080", "0.0.0.0_9080/only open"},
		{"127.0.0.1:15001", "10.0.0.7:3306", "10.0.0.7_3306/only open"},
		{"127.0.0.1:15001", "93.184.216.34:443", "virtualOutbound/passthrough open"},
		{"127.0.0.1:15001", "10.0.0.9:15001", "virtualOutbound/blackhole open"},
		{"127.0.0.1:15001", "127.0.0.1:15001", "refused by virtualOutbound: the connection was made to the capture port itself"},
		{"127.0.0.1:15001", "", "refused by virtualOutbound: the connection was made to the capture port itself"},
		{"10.0.0.1:15006", "10.0.0.1:9080", "virtualInbound/9080 open"},
		{"10.0.0.1:15006", "10.0.0.1:9999", "refused by virtualInbound: no filter chain matches"},
		{"127.0.0.1:15006", "127.0.0.6:15002", ""}, // somebody asks whether rules lead here
		{"10.0.0.1:15006", "10.0.0.1:15006", "refused by virtualInbound: the connection was made to the capture port itself"},
	} {
		w.dialVia(tc.to, tc.original)
		if tc.want == "" {
			w.want()
			continue
		}
		w.want(tc.want)
	}
}

// Who calls before there is any configuration waits for it, and is told in the end that there is none; those who waited are served as if they
// had come when it had.
func TestEarly(t *testing.T) {
	early := func() *listener.Config {
		return &listener.Config{Name: "virtualOutbound", Direction: listener.Outbound, Address: netip.MustParseAddrPort("0.0.0.0:15001"), Binds: bind("0.0.0.0:15001"),
			UseOriginalDst: true, HandOff: true, Early: listener.EarlyPatience}
	}
	w := newWorld(t, 1)
	w.apply(early())
	w.dialVia("127.0.0.1:15001", "10.0.0.9:9080")
	w.dialVia("127.0.0.1:15001", "93.184.216.34:443")
	w.apply(early(), plain("other", "10.0.0.1:80")) // something else has come
	w.n.Advance(20 * time.Second)
	w.want()
	if n := w.workers[0].Waiting(); n != 2 {
		t.Errorf("%d wait", n)
	}
	caught := early()
	caught.Early, caught.Chains = 0, []*listener.Chain{{Name: "passthrough"}}
	port := &listener.Config{Name: "0.0.0.0_9080", Direction: listener.Outbound, Address: netip.MustParseAddrPort("0.0.0.0:9080"), Chains: []*listener.Chain{{Name: "only"}}}
	before := w.n.Open()
	w.apply(caught, port)
	slices.Sort(w.log)
	w.want("0.0.0.0_9080/only open", "virtualOutbound/passthrough open")
	if n := w.n.Open(); n != before-1 { // that of "other"
		t.Errorf("%d sockets, before %d", n, before)
	}

	w = newWorld(t, 1)
	w.apply(early())
	w.dialVia("127.0.0.1:15001", "10.0.0.9:9080")
	w.n.Step()
	w.n.Advance(listener.EarlyPatience)
	w.want("refused by virtualOutbound: the configuration of its destination did not come in time, or too much waits for some already")
	if n := w.workers[0].Waiting(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// A change closes no socket that it need not close, and those it closes serve first
// who already waits.
func TestApply(t *testing.T) {
	w := newWorld(t, 2)
	a, b := plain("a", "10.0.0.1:80"), plain("b", "10.0.0.1:81")
	w.apply(a, b)
	before := w.n.Open()
	old := w.dial("10.0.0.1:80")
	w.want("a/only open")

	a2 := plain("a", "10.0.0.1:80")
	a2.Chains = []*listener.Chain{{Name: "new"}}
	w.apply(a2, b)
	if n := w.n.Open(); n != before+2 {
		t.Errorf("%d sockets, want the listening ones as before (%d) and one connection", n, before)
	}
	old.Send([]byte("still here"))
	w.want(`only data "still here"`)
	w.dial("10.0.0.1:80")
	w.want("a/new open")
	if n := w.group.Connections("a"); n != 2 {
		t.Errorf("%d connections counted over both versions", n)
	}

	// Waiting in the queue when its listener goes away.
	waiting := w.dial("10.0.0.1:81")
	w.apply(a2)
	w.want("b/only open")
	if b, err := waiting.Recv(); string(b) != "hello" || err != nil {
		t.Errorf("received %q, %v", b, err)
	}
	if _, err := w.n.Dial(netip.MustParseAddrPort("10.0.0.1:81")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a removed listener: %v", err)
	}
	if _, ok := w.group.Local(bind("10.0.0.1:81")[0]); ok {
		t.Error("the group still knows the address")
	}

	drained := w.group.Drain()
	w.n.Step()
	<-drained
	if _, err := w.n.Dial(netip.MustParseAddrPort("10.0.0.1:80")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("after draining: %v", err)
	}
	old.Send([]byte("and still"))
	w.want(`only data "and still"`)
	if n := w.group.Connections("a"); n != 2 {
		t.Errorf("%d connections counted after draining", n)
	}

	// Drained stays drained, whatever is configured later.
	w.apply(plain("a", "10.0.0.1:80"), plain("c", "10.0.0.1:82"))
	for _, at := range []string{"10.0.0.1:80", "10.0.0.1:82"} {
		if _, err := w.n.Dial(netip.MustParseAddrPort(at)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a change after draining opens %s: %v", at, err)
		}
		if _, ok := w.group.Local(bind(at)[0]); ok {
			t.Errorf("after draining the group says it listens on %s", at)
		}
	}
	old.Send([]byte("to the end"))
	w.want(`only data "to the end"`)
}

// A taken port is an error that names the listener; the rest works.
func TestApplyErrors(t *testing.T) {
	w := newWorld(t, 1)
	if _, err := w.n.Listen(netip.MustParseAddrPort("10.0.0.1:80")); err != nil {
		t.Fatal(err)
	}
	table, err := listener.NewTable([]*listener.Config{plain("taken", "10.0.0.1:80"), plain("free", "10.0.0.1:81")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.group.Apply(table)
	if err == nil || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), `listener "taken"`) {
		t.Errorf("error %v", err)
	}
	w.n.Step()
	w.dial("10.0.0.1:81")
	w.want("free/only open")
	if _, err := listener.NewTable([]*listener.Config{plain("x", "10.0.0.1:80"), plain("y", "10.0.0.1:80")}); err == nil {
		t.Error("one address for two listeners was accepted")
	}
}

// Connections that pile up on one worker are given to the idler one.
func TestBalance(t *testing.T) {
	w := newWorld(t, 2)
	w.apply(plain("l", "10.0.0.1:80"))
	var on0 []*mem.Peer
	for i := range 40 {
		p := w.dial("10.0.0.1:80")
		w.n.Step()
		if i%2 == 0 {
			on0 = append(on0, p)
		}
	}
	for _, p := range on0 {
		p.Close() // all on one worker: the network takes turns
	}
	w.n.Step()
	for range 20 {
		w.dial("10.0.0.1:80")
		w.n.Step()
	}
	a, b := w.workers[0].Open(), w.workers[1].Open()
	if d := a - b; a+b != 40 || d > 8 || d < -8 {
		t.Errorf("%d and %d connections", a, b)
	}
	if w.workers[0].Stats().Moved+w.workers[1].Stats().Moved == 0 {
		t.Error("none was moved")
	}
}

// Two workers share a port of the kernel, in both families; a Unix socket, left over by
// an earlier process, belongs to one of them.
func TestKernelGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	var served atomic.Int64
	var workers []*listener.Acceptor
	var ended []chan error
	for range 2 {
		p, err := loop.NewPoller()
		if err != nil {
			t.Fatal(err)
		}
		l := loop.New(p, loop.Options{})
		workers = append(workers, listener.NewAcceptor(l, listener.Options{Serve: func(*conn.Conn, listener.Arrival) conn.Handler {
			return &greeter{&served}
		}}))
		done := make(chan error, 1)
		ended = append(ended, done)
		go func() { done <- l.Run(ctx) }()
	}
	group := listener.NewGroup(listener.Sockets{Sockets: loop.Kernel()}, loop.Kernel(), nil, slog.New(slog.DiscardHandler), workers...)
	path := filepath.Join(t.TempDir(), "x.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	binds := append(bind("127.0.0.1:0", "[::1]:0"), loop.Addr{Path: path})
	config := plain("l")
	config.Binds, config.FreeBind = binds, true
	table, err := listener.NewTable([]*listener.Config{config})
	if err != nil {
		t.Fatal(err)
	}
	live, err := group.Apply(table)
	if err != nil {
		t.Fatal(err)
	}
	<-live
	var reached [][2]string
	for _, b := range binds {
		at, ok := group.Local(b)
		switch {
		case b.Path != "":
			reached = append(reached, [2]string{"unix", path})
		case ok:
			reached = append(reached, [2]string{"tcp", at.String()})
		case b.Family() != loop.IPv6:
			t.Errorf("%v is not bound", b)
		}
	}
	for range 20 {
		for _, to := range reached {
			c, err := net.Dial(to[0], to[1])
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
				t.Errorf("received %q, %v", b, err)
			}
			c.Close()
		}
	}
	<-group.Drain()
	for _, to := range reached {
		if c, err := net.Dial(to[0], to[1]); err == nil {
			c.Close()
			t.Errorf("%v: still listening after draining", to)
		}
	}
	cancel()
	for _, done := range ended {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := int64(20 * len(reached)); served.Load() != n {
		t.Errorf("%d served, want %d", served.Load(), n)
	}
}

type greeter struct{ served *atomic.Int64 }

func (g *greeter) Open(c *conn.Conn) {
	g.served.Add(1)
	c.Write([]byte("hello"))
	c.Close()
}
func (*greeter) Data(_ *conn.Conn, b []byte) int { return len(b) }
func (*greeter) EOF(*conn.Conn)                  {}
func (*greeter) Drained(*conn.Conn)              {}
func (*greeter) Closed(*conn.Conn, conn.Why)     {}
