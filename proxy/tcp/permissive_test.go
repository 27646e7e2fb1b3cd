package tcp_test

import (
	"bytes"
	stdtls "crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

const (
	port    = "10.0.0.1:3306"
	appAt   = "127.0.0.1:3306"
	unknown = "10.1.0.1:0"
)

// permissive is the inbound side of a proxy: one port that takes the mesh's TLS, the
// application's own TLS, and plaintext, in front of an application.
type permissive struct {
	*proxy
	config  *tcp.Config
	peers   *listener.Peers
	app     *mem.Listener
	client  *tls.Client
	refused []string
	served  []string // by the chain that the test plays HTTP with
}

func startPermissive(t *testing.T, n *mem.Net, http bool) *permissive {
	t.Helper()
	ca := tlstest.New(t)
	mysql, reviews := ca.Workload("default", "mysql"), ca.Workload("default", "reviews")
	server, err := tls.NewServer(tls.ServerOptions{Identity: mysql, Clients: tls.RequireClientCert, Trust: tls.Trust{Mesh: mysql}, ALPN: []string{"istio"}})
	if err != nil {
		t.Fatal(err)
	}
	m := &permissive{peers: listener.NewPeers(), proxy: &proxy{t: t, n: n, clusters: map[cluster.ID]*cluster.Cluster{1: newCluster(1, "app", appAt)}}}
	if m.client, err = tls.NewClient(tls.ClientOptions{Identity: reviews, Trust: tls.Trust{Mesh: reviews}, SNI: "mysql", ALPN: []string{"istio"}}); err != nil {
		t.Fatal(err)
	}
	m.config = to(1)
	m.l = n.Loop(loop.Options{})
	m.w = tcp.NewWorker(tcp.Options{Loop: m.l, Observer: m})
	relayed := func(name string, server *tls.Server, match listener.Match) *listener.Chain {
		return &listener.Chain{Name: name, Match: match, TLS: server, ServerFirst: true}
	}
	lc := &listener.Config{Name: "virtualInbound", Direction: listener.Inbound, Binds: []loop.Addr{loop.TCP(netip.MustParseAddrPort(port))}, InspectTLS: true,
		Chains: []*listener.Chain{
			relayed("mtls", server, listener.Match{TransportProtocol: listener.TLS, ApplicationProtocols: []string{"istio", "istio-peer-exchange"}}),
			relayed("own tls", nil, listener.Match{TransportProtocol: listener.TLS}),
			relayed("plain", nil, listener.Match{TransportProtocol: listener.RawBuffer}),
		}}
	if http {
		lc.InspectHTTP = true
		lc.Chains = append(lc.Chains, &listener.Chain{Name: "http", Match: listener.Match{TransportProtocol: listener.RawBuffer, ApplicationProtocols: []string{"http/1.1"}}})
	}
	a := listener.NewAcceptor(m.l, listener.Options{
		Serve: func(c *conn.Conn, a listener.Arrival) conn.Handler {
			if a.Chain.Name == "http" {
				return &recorder{&m.served}
			}
			return m.w.Serve(c, m.config, m)
		},
		Begin: func(c *conn.Conn, a listener.Arrival, spoke func()) listener.Tentative {
			if a.Chain.Name != "plain" {
				t.Errorf("chain %q was begun", a.Chain.Name)
			}
			return m.w.Begin(c, m.config, m, spoke)
		},
		Refused: func(_ *conn.Info, _ *listener.Config, _ *listener.Chain, why listener.Refusal, _ error) {
			m.refused = append(m.refused, why.String())
		},
	})
	g := listener.NewGroup(listener.Sockets{Sockets: n.Sockets()}, n.Sockets(), m.peers, slog.New(slog.DiscardHandler), a)
	table, err := listener.NewTable([]*listener.Config{lc})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Apply(table); err != nil {
		t.Fatal(err)
	}
	n.Step()
	return m
}

type recorder struct{ heard *[]string }

func (*recorder) Open(*conn.Conn) {}
func (r *recorder) Data(c *conn.Conn, b []byte) int {
	*r.heard = append(*r.heard, string(b))
	c.Close()
	return len(b)
}
func (*recorder) EOF(*conn.Conn)              {}
func (*recorder) Drained(*conn.Conn)          {}
func (*recorder) Closed(*conn.Conn, conn.Why) {}

// dial connects from an address and lets everybody work.
func (m *permissive) dial(from string) *mem.Peer {
	m.t.Helper()
	p, err := m.n.DialFrom(netip.MustParseAddrPort(from), netip.MustParseAddrPort(port), netip.AddrPort{})
	if err != nil {
		m.t.Fatal(err)
	}
	m.n.Step()
	return p
}

// mesh connects as a workload of the mesh does, from the loopback address.
func (m *permissive) mesh(say string) *sayer {
	s := &sayer{say: say}
	conn.Dial(m.n.Loop(loop.Options{}), conn.Target{Addr: loop.TCP(netip.MustParseAddrPort(port)), TLS: m.client}, s)
	m.n.Step()
	return s
}

type sayer struct {
	say, heard string
	c          *conn.Conn
	why        conn.Why
}

func (s *sayer) Open(c *conn.Conn) {
	s.c = c
	c.Write([]byte(s.say))
}
func (s *sayer) Data(_ *conn.Conn, b []byte) int   { s.heard += string(b); return len(b) }
func (s *sayer) EOF(*conn.Conn)                    {}
func (s *sayer) Drained(*conn.Conn)                {}
func (s *sayer) Closed(_ *conn.Conn, why conn.Why) { s.why = why }

// gone checks that the application saw a connection end without a byte.
func (m *permissive) gone(why string) {
	m.t.Helper()
	s := m.app.Accept()
	if s == nil {
		m.t.Fatalf("%s: the application was not connected", why)
	}
	if b, err := s.Recv(); len(b) != 0 || err != io.EOF {
		m.t.Errorf("%s: the application heard %q, %v", why, b, err)
	}
}

func (m *permissive) accept(why string) *mem.Peer {
	m.t.Helper()
	s := m.app.Accept()
	if s == nil {
		m.t.Fatalf("%s: the application was not connected", why)
	}
	return s
}

func (m *permissive) none(why string) {
	m.t.Helper()
	if m.app.Accept() != nil {
		m.t.Errorf("%s: the application was connected", why)
	}
}

func (m *permissive) wantRefused(want ...string) {
	m.t.Helper()
	if !slices.Equal(m.refused, want) {
		m.t.Errorf("refused %q, want %q", m.refused, want)
	}
	m.refused = nil
}

// clientHello is what a client with the given protocols begins with.
func clientHello(t testing.TB, protos ...string) []byte {
	t.Helper()
	a, b := net.Pipe()
	go stdtls.Client(a, &stdtls.Config{ServerName: "mysql", NextProtos: protos, InsecureSkipVerify: true}).Handshake()
	defer a.Close()
	b.SetReadDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// From an address of which nothing is known, whoever speaks first is heard, at once, and
// over the one connection to the application.
func TestPermissivePlaintext(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, false)
	m.app = backend(t, n, appAt)

	c := m.dial(unknown)
	s := m.accept("server first")
	s.Send([]byte("mysql 8"))
	n.Step()
	recv(t, c, "mysql 8", nil)
	c.Send([]byte("login"))
	n.Step()
	recv(t, s, "login", nil)
	c.Close()
	n.Step()
	recv(t, s, "", io.EOF)
	s.Close()
	m.want("via_upstream received 5 sent 7 app " + appAt)

	c = m.dial(unknown)
	s = m.accept("client first")
	c.Send([]byte("PING"))
	n.Step()
	recv(t, s, "PING", nil)
	s.Send([]byte("PONG"))
	n.Step()
	recv(t, c, "PONG", nil)
	m.none("client first")
	s.Close()
	n.Step()
	recv(t, c, "", io.EOF)
	c.Close()
	m.want("via_upstream received 4 sent 4 app " + appAt)

	c = m.dial(unknown) // neither says anything
	s = m.accept("silence")
	c.CloseWrite()
	n.Step()
	recv(t, s, "", io.EOF)
	s.Send([]byte("farewell"))
	s.Close()
	n.Step()
	recv(t, c, "farewell", io.EOF)
	c.Close()
	m.want("via_upstream received 0 sent 8 app " + appAt)

	c = m.dial(unknown) // the application hangs up, as it does with too many
	s = m.accept("hang-up")
	s.Close()
	n.Step()
	recv(t, c, "", io.EOF)
	c.Close()
	m.want("via_upstream received 0 sent 0 app " + appAt)

	c = m.dial(unknown)
	s = m.accept("reset")
	s.Reset()
	n.Step()
	recv(t, c, "", syscall.ECONNRESET)
	c.Close()
	m.want("via_upstream received 0 sent 0 app " + appAt)

	m.app.Close()
	c = m.dial(unknown)
	recv(t, c, "", syscall.ECONNRESET)
	c.Close()
	m.want("upstream_reset_before_response_started{remote_connection_failure} received 0 sent 0 app")
	m.wantRefused()
	if n.Elapsed() != 0 {
		t.Errorf("it took %v", n.Elapsed())
	}
	if o := n.Open(); o != 1 {
		t.Errorf("%d sockets are open, want the listening one", o)
	}
}

// A client that begins with 0x16 gets TLS though the application was connected already:
// that connection ends without a byte. From then on its ClientHello is waited for.
func TestPermissiveLearnsTLS(t *testing.T) {
	for _, segment := range []int{0, 1} {
		n := mem.New()
		n.SegmentSize = segment
		m := startPermissive(t, n, false)
		m.app = backend(t, n, appAt)

		c := m.mesh("query")
		m.gone("the tentative connection")
		s := m.accept("over mTLS")
		recv(t, s, "query", nil)
		s.Send([]byte("rows"))
		n.Step()
		if c.heard != "rows" {
			t.Errorf("the client heard %q, %v", c.heard, c.why)
		}
		c.c.Close()
		s.Close()
		m.want("via_upstream received 5 sent 4 app " + appAt)

		c = m.mesh("again")
		recv(t, m.accept("from a known address"), "again", nil)
		m.none("from a known address")
		c.c.Reset()
		n.Step()
		m.log = nil

		d := m.dial("127.0.0.1:0") // known, so nothing happens before it speaks
		m.none("a known address is waited for")
		d.Send([]byte("plain after all"))
		n.Step()
		recv(t, m.accept("plaintext"), "plain after all", nil)
		d.Reset()
		m.dial("127.0.0.1:0") // what it did last counts
		m.accept("plaintext last time")
	}
}

// The application's own TLS passes through, and is waited for the next time.
func TestPermissiveOwnTLS(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, false)
	m.app = backend(t, n, appAt)
	hello := clientHello(t, "http/1.1")
	for i := range 2 {
		c := m.dial(unknown)
		if i == 0 {
			c.Send(hello[:1])
			n.Step()
			m.gone("at the first byte")
		}
		c.Send(hello[1-i:])
		n.Step()
		recv(t, m.accept("its own TLS"), string(hello), nil)
		m.none("its own TLS")
		c.Reset()
		n.Step()
	}
}

// The control plane lists the client's address.
func TestPermissiveTold(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, false)
	m.app = backend(t, n, appAt)
	told := netip.MustParseAddr("10.1.0.7")
	m.peers.Add(told)
	m.peers.Add(netip.MustParseAddr("::ffff:10.1.0.7")) // another endpoint of it
	m.peers.Remove(told)
	c := m.dial("10.1.0.7:0")
	m.none("expected to begin with TLS")
	hello := clientHello(t, "istio")
	c.Send(hello[:100])
	n.Step()
	m.none("a part of a ClientHello")
	c.Reset()
	n.Step()

	// It leaves without a word: a client of this port that waits for the server.
	c = m.dial("10.1.0.7:0")
	c.Reset()
	n.Step()
	m.none("without a word")
	c = m.dial("10.1.0.7:0")
	m.accept("after it left without a word").Send([]byte("mysql 8"))
	n.Step()
	recv(t, c, "mysql 8", nil)
	c.Reset()

	m.peers.Remove(told)
	m.dial("10.1.0.8:0")
	m.accept("another address")
}

// A fast application speaks before the ClientHello of an unknown workload arrives. The
// client is told to try again, nothing reaches the application, and the next time it
// is waited for.
func TestPermissiveMisjudged(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, false)
	m.app = backend(t, n, appAt)
	hello := clientHello(t, "istio-peer-exchange", "istio")
	c := m.dial(unknown)
	s := m.accept("unknown")
	s.Send([]byte("mysql 8"))
	n.Step()
	c.Send(hello[:50])
	n.Step()
	m.wantRefused()
	c.Send(hello[50:])
	n.Step()
	recv(t, s, "", syscall.ECONNRESET)
	if _, err := c.Recv(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client saw %v", err)
	}
	m.wantRefused("a workload of the mesh began TLS when the application had spoken in plaintext; its next connection is waited for")
	m.want("via_upstream received 0 sent 7 app " + appAt)
	m.dial(unknown)
	m.none("known now")

	// What only begins like one, or is not the mesh's, is the client's answer.
	for i, answer := range []string{"\x16\x03\x01 is not TLS at all ", string(clientHello(t, "mysql"))} {
		c = m.dial([]string{"10.1.0.2:0", "10.1.0.3:0"}[i])
		s = m.accept("unknown")
		s.Send([]byte("mysql 8"))
		n.Step()
		c.Send([]byte(answer[:3]))
		n.Step()
		recv(t, s, "", nil)
		c.Send([]byte(answer[3:]))
		c.CloseWrite()
		n.Step()
		recv(t, s, answer, io.EOF)
		s.Close()
		n.Step()
		recv(t, c, "mysql 8", io.EOF)
		c.Close()
		n.Step()
	}
	c = m.dial("10.1.0.4:0") // a part of one, and the end
	s = m.accept("unknown")
	s.Send([]byte("mysql 8"))
	n.Step()
	c.Send(hello[:50])
	c.CloseWrite()
	n.Step()
	recv(t, s, string(hello[:50]), io.EOF)
	m.wantRefused()
}

// Two proxies and an application that greets at once: whoever wins the race, the client
// hears the greeting.
func TestPermissiveRace(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, false)
	greets := n.Loop(loop.Options{})
	g := listener.NewGroup(listener.Sockets{Sockets: n.Sockets()}, n.Sockets(), nil, slog.New(slog.DiscardHandler),
		listener.NewAcceptor(greets, listener.Options{Serve: func(*conn.Conn, listener.Arrival) conn.Handler { return &greeting{say: []byte("mysql 8")} }}))
	lc := at(appAt, nil)
	table, err := listener.NewTable([]*listener.Config{&lc})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Apply(table); err != nil {
		t.Fatal(err)
	}
	out := newCluster(1, "out", port)
	out.Endpoints[0].Transport.Store(&cluster.Transport{TCP: m.client, Istio: true})
	o := start(t, n, at(entry, nil), to(1), tcp.Options{}, out)
	for range 3 {
		c := dial(t, n, entry)
		n.Step()
		recv(t, c, "mysql 8", nil)
		c.Reset()
		o.want("via_upstream received 0 sent 7 out " + port)
	}
	if len(m.refused) > 1 {
		t.Errorf("refused %q", m.refused)
	}
}

// Where HTTP is looked for as well, the application may still speak first, and HTTP is
// still found.
func TestPermissiveSniffs(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, true)
	m.app = backend(t, n, appAt)
	c := m.dial(unknown)
	s := m.accept("server first")
	c.Send([]byte("GET")) // may become HTTP
	n.Step()
	s.Send([]byte("220 mail"))
	n.Step()
	recv(t, c, "220 mail", nil)
	recv(t, s, "GET", nil)
	c.Reset()

	c = m.dial(unknown)
	c.Send([]byte("GET / HT"))
	n.Step()
	c.Send([]byte("TP/1.1\r\n\r\n"))
	n.Step()
	m.gone("HTTP")
	m.none("HTTP")

	// Words that come with the connection: no tentative one is made.
	p, err := n.DialFrom(netip.MustParseAddrPort(unknown), netip.MustParseAddrPort(port), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	p.Send([]byte("GET / HTTP/1.1\r\n\r\n"))
	n.Step()
	m.none("HTTP at once")
	if want := []string{"GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"}; !slices.Equal(m.served, want) {
		t.Errorf("HTTP heard %q", m.served)
	}
	n.Step()
}

// Clients that never finish their first words make a worker hold no more than its share:
// the one that began first is let go.
func TestPermissiveHoldsLittle(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, false)
	m.app = backend(t, n, appAt)
	part := append([]byte{22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc}, bytes.Repeat([]byte{0}, 12<<10)...) // of 16 KiB
	var peers []*mem.Peer
	for range 400 {
		c := m.dial(unknown)
		c.Send(part)
		peers = append(peers, c)
		n.Step()
		m.app.Accept()
	}
	refused := 0
	for i, c := range peers {
		if _, err := c.Recv(); errors.Is(err, syscall.ECONNRESET) {
			if refused++; i >= refused {
				t.Fatalf("connection %d was refused, and an earlier one was not", i)
			}
		}
	}
	if want := 400 - (4<<20)/len(part); refused != want || len(m.refused) != want {
		t.Errorf("%d were refused, %d told, want %d", refused, len(m.refused), want)
	}
}

// A client that rules do not let in is told as soon as it is known who it is: who says something before TLS could be seen, or nothing at all
// and leaves, is refused then, and nobody is kept waiting. A workload of the mesh comes in.
func TestPermissiveDenied(t *testing.T) {
	n := mem.New()
	m := startPermissive(t, n, false)
	m.app = backend(t, n, appAt)
	strangers := rbac.NewPolicy("strangers", rbac.Any(), rbac.Not(rbac.Authenticated()))
	m.config.RBAC = []*rbac.Filter{{Rules: &rbac.Rules{Action: rbac.Deny, Policies: []rbac.Policy{strangers}}, Counts: &rbac.Counts{}}}

	c := m.dial(unknown)
	m.none("it may turn out to be of the mesh")
	c.Send([]byte("PING"))
	n.Step()
	recv(t, c, "", syscall.ECONNRESET)
	m.want("rbac_access_denied_matched_policy received 0 sent 0")

	c = m.dial(unknown)
	c.CloseWrite()
	n.Step()
	recv(t, c, "", syscall.ECONNRESET)
	m.want("rbac_access_denied_matched_policy received 0 sent 0")
	m.none("both were refused")

	w := m.mesh("hello")
	recv(t, m.accept("a workload"), "hello", nil)
	w.c.Close()
}
