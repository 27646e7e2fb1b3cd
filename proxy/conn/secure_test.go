package conn_test

import (
	"bytes"
	"context"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// sides are the two ends of mutual TLS within a mesh.
type sides struct {
	server *tls.Server
	client *tls.Client
}

func mesh(t testing.TB, expected tls.Names, gate *tls.Gate) sides {
	t.Helper()
	return meshOver(t, expected, gate, false)
}

// meshOver is mesh with Weir's own records, or crypto/tls's.
func meshOver(t testing.TB, expected tls.Names, gate *tls.Gate, std bool) sides {
	t.Helper()
	ca := tlstest.New(t)
	reviews, ratings := ca.Workload("default", "reviews"), ca.Workload("default", "ratings")
	s, err := tls.NewServer(tls.ServerOptions{
		Identity: ratings, Clients: tls.RequireClientCert, Trust: tls.Trust{Mesh: ratings},
		ALPN: []string{"istio-http/1.1", "istio"}, Gate: gate, StdRecords: std,
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.NewClient(tls.ClientOptions{
		SNI: "outbound_.9080_._.ratings.default.svc.cluster.local", ALPN: []string{"istio-http/1.1", "istio", "http/1.1"},
		Identity: reviews, Trust: tls.Trust{Mesh: reviews, Names: expected}, Gate: gate, StdRecords: std,
	})
	if err != nil {
		t.Fatal(err)
	}
	return sides{s, c}
}

var ratingsID = tls.Names{{Exact: "spiffe://cluster.local/ns/default/sa/ratings"}}

// tlsPair connects two loops' ends over the network in memory: a dialled one, and
// one accepted in plaintext and secured.
func tlsPair(t testing.TB, n *mem.Net, s sides) (l *loop.Loop, client, server *owner) {
	t.Helper()
	l = n.Loop(loop.Options{})
	sl := n.Loop(loop.Options{})
	p := sl.Poller()
	fd, _ := p.Socket(loop.IPv4)
	p.Bind(fd, loop.TCP(addr))
	p.Listen(fd, 10)
	client, server = &owner{}, &owner{}
	client.c = conn.Dial(l, conn.Target{Addr: loop.TCP(addr), TLS: s.client}, client)
	nfd, remote, e := p.Accept(fd)
	if e != 0 {
		t.Fatal(e)
	}
	p.Close(fd)
	sniffer := &owner{onData: func(c *conn.Conn, b []byte) int {
		if len(b) > 0 && b[0] == 22 {
			c.StartTLS(s.server, server)
		}
		return 0
	}}
	server.c = conn.Accept(sl, nfd, conn.Info{Remote: remote.AddrPort}, sniffer)
	return l, client, server
}

// records are the two ways to keep them; everything holds for both.
var records = map[string]bool{"own records": false, "records of crypto/tls": true}

func TestTLS(t *testing.T) {
	for name, std := range records {
		for _, segment := range []int{0, 1, 700} {
			t.Run(fmt.Sprint(name, ", segments of ", segment), func(t *testing.T) { wholeLife(t, std, segment) })
		}
	}
}

func wholeLife(t *testing.T, std bool, segment int) {
	n := mem.New()
	n.SegmentSize = segment
	_, client, server := tlsPair(t, n, meshOver(t, ratingsID, tls.NewGate(1, 0), std))
	client.c.Write([]byte("written before the connection was open"))
	n.Step()
	client.want(t, "open")
	got := server.take()
	if segment != 1 {
		if want := `open; data "written before the connection was open"`; got != want {
			t.Errorf("server heard %q, want %q", got, want)
		}
	} else if !strings.HasPrefix(got, "open; data") {
		t.Errorf("server heard %q", got)
	}
	cp, sp := client.c.Info().TLS, server.c.Info().TLS
	if cp.ID.ServiceAccount != "ratings" || sp.ID.ServiceAccount != "reviews" {
		t.Errorf("identities %v, %v", cp.ID, sp.ID)
	}
	if sp.ALPN != "istio-http/1.1" || cp.ALPN != sp.ALPN || sp.Version != tls.TLS13 || sp.SNI != "outbound_.9080_._.ratings.default.svc.cluster.local" {
		t.Errorf("peer %+v", sp)
	}
	if sp.URI != sp.ID.String() || !sp.Presented || sp.Hash == [32]byte{} || sp.Local != ratingsID[0].Exact {
		t.Errorf("certificate of the peer: %+v", sp)
	}

	// Half-close both ways: close_notify, then FIN.
	server.c.Write([]byte("bye"))
	server.c.CloseWrite()
	n.Step()
	client.want(t, `data "bye"; eof`)
	client.onData, server.onData = nil, nil
	client.c.Write([]byte("farewell"))
	client.c.CloseWrite()
	n.Step()
	client.want(t, "closed: finished by both sides")
	server.want(t, `data "farewell"; eof; closed: finished by both sides`)
	if n.Open() != 0 || sp.Truncated || cp.Truncated {
		t.Errorf("%d sockets left; truncated %v %v", n.Open(), sp.Truncated, cp.Truncated)
	}
}

// Bulk data in both directions with small buffers, pauses and mixed ways of
// writing arrives whole; what is held stays near the watermark.
func TestTLSBulk(t *testing.T) {
	for name, std := range records {
		t.Run(name, func(t *testing.T) { bulk(t, std) })
	}
}

func bulk(t *testing.T, std bool) {
	n := mem.New()
	n.Buffer = 20_000
	l, client, server := tlsPair(t, n, meshOver(t, ratingsID, nil, std))
	var sent, got bytes.Buffer
	server.onData = func(c *conn.Conn, b []byte) int {
		used := len(b)
		if l.Rand()%3 == 0 {
			used = int(l.Rand() % uint64(len(b)+1)) // keep some
			c.Kick()
		}
		if l.Rand()%4 == 0 {
			c.Pause()
		}
		got.Write(b[:used])
		return used
	}
	n.Step()
	client.want(t, "open")
	for i := range 300 {
		b := bytes.Repeat([]byte{byte(i)}, int(l.Rand()%60_000))
		sent.Write(b)
		if i%3 == 0 {
			client.c.SetOut(l.Buffers().Append(client.c.Out(), b))
		} else {
			client.c.Write(b)
		}
		n.Step()
		if client.c.Buffered() > conn.HighWater {
			server.c.Resume()
			for client.c.Buffered() > conn.LowWater {
				server.c.Resume()
				n.Step()
			}
		}
	}
	client.c.CloseWrite()
	for range 10_000 {
		server.c.Resume()
		server.c.Kick()
		n.Step()
		if got.Len() == sent.Len() {
			break
		}
	}
	if !bytes.Equal(sent.Bytes(), got.Bytes()) {
		t.Fatalf("sent %d bytes, received %d, or others", sent.Len(), got.Len())
	}
	if client.c.Sent() != uint64(sent.Len()) || server.c.Received() != uint64(sent.Len()) {
		t.Errorf("counted %d sent, %d received of %d", client.c.Sent(), server.c.Received(), sent.Len())
	}
}

// What is sealed is longer than what was written: Drained is owed to who finds Buffered above the mark because of that.
func TestSealedAboveTheMark(t *testing.T) {
	n := mem.New()
	l, client, server := tlsPair(t, n, mesh(t, ratingsID, nil))
	n.Step()
	client.take()
	server.c.Pause()
	client.c.Write([]byte("the kernel's buffer is full of this, and nobody knows"))
	n.Step()
	n.Buffer = 1
	client.c.SetOut(l.Buffers().Append(client.c.Out(), make([]byte, conn.HighWater)))
	n.Step()
	if b := client.c.Buffered(); b <= conn.HighWater {
		t.Fatalf("%d bytes are buffered", b)
	}
	n.Buffer = 1 << 20
	server.c.Resume()
	n.Step()
	client.want(t, "drained")
}

// Each side learns why a handshake failed, in a sentence with the identities.
func TestTLSFailures(t *testing.T) {
	good := mesh(t, ratingsID, nil)
	other := mesh(t, ratingsID, nil)
	none, err := tls.NewClient(tls.ClientOptions{Trust: tls.Trust{SkipVerify: true}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name                   string
		s                      sides
		client, server         tls.Reason
		clientText, serverText string
	}{
		{"the server is somebody else", mesh(t, tls.Names{{Exact: "spiffe://cluster.local/ns/default/sa/details"}}, nil),
			tls.PeerRefused, tls.RefusedByPeer, "presented spiffe://cluster.local/ns/default/sa/ratings, expected spiffe://cluster.local/ns/default/sa/details", "bad certificate"},
		{"another mesh", sides{good.server, other.client}, tls.PeerRefused, tls.RefusedByPeer, "none of the 1 trusted roots", ""},
		{"no client certificate", sides{good.server, none}, tls.RefusedByPeer, tls.PeerRefused, "", "sent no certificate"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := mem.New()
			_, client, server := tlsPair(t, n, tc.s)
			client.c.Write([]byte("secret"))
			for n.Step(); n.Next(); {
			}
			check := func(who string, o *owner, reason tls.Reason, text string) {
				e, ok := errors.AsType[*tls.Error](o.why.Err)
				if !ok || e.Reason != reason || !strings.Contains(e.Error(), text) {
					t.Errorf("%s: %v (%v), want %v with %q", who, o.why, o.why.Kind, reason, text)
				}
			}
			// In TLS 1.3 a client is done before the server has judged it.
			if o := client; tc.client == tls.RefusedByPeer {
				if o.why.Kind != conn.RecordFailed {
					t.Errorf("client: %v", o.why)
				}
			} else if o.why.Kind != conn.HandshakeFailed || !o.why.Kind.BeforeOpen() {
				t.Errorf("client: %v", o.why)
			}
			check("client", client, tc.client, tc.clientText)
			check("server", server, tc.server, tc.serverText)
			if strings.Contains(strings.Join(server.log, ";"), "open") {
				t.Errorf("server heard %q", server.log)
			}
			if n.Open() != 0 {
				t.Errorf("%d sockets left", n.Open())
			}
		})
	}
}

// A peer that speaks plaintext, falls silent or hangs up during the handshake.
func TestTLSDisturbed(t *testing.T) {
	s := mesh(t, ratingsID, nil)
	for _, tc := range []struct {
		name, sends string
		hangUp      bool
		want        string
		after       time.Duration
	}{
		{"plaintext", "HTTP/1.1 400 Bad Request\r\n\r\n", false, `closed: TLS handshake failed: the peer does not speak TLS here (it sent "HTTP/"): one side is configured for TLS, the other for plaintext`, 0},
		{"silence", "", false, "closed: the TLS handshake timed out", 10 * time.Second},
		{"half a record", "\x16\x03\x01\x02\x00abc", false, "closed: the TLS handshake timed out", 10 * time.Second},
		{"the end", "", true, "closed: TLS handshake failed: the peer closed the connection during the TLS handshake, without a reason", 0},
	} {
		t.Run("server: "+tc.name, func(t *testing.T) {
			n := mem.New()
			l := n.Loop(loop.Options{})
			ln, _ := n.Listen(addr)
			o := &owner{}
			conn.Dial(l, conn.Target{Addr: loop.TCP(addr), TLS: s.client}, o)
			n.Step()
			p := ln.Accept()
			p.Send([]byte(tc.sends))
			if tc.hangUp {
				p.Recv()
				p.Close()
			}
			for n.Step(); n.Next(); {
			}
			o.want(t, tc.want)
			if n.Elapsed() != tc.after || l.Away() != 0 {
				t.Errorf("after %v, %d goroutines", n.Elapsed(), l.Away())
			}
		})
		t.Run("client: "+tc.name, func(t *testing.T) {
			n := mem.New()
			l := n.Loop(loop.Options{})
			o := &owner{}
			p := accept(t, n, l, o)
			o.c.StartTLS(s.server, o)
			p.Send([]byte(tc.sends))
			if tc.hangUp {
				p.Close()
			}
			n.Step()
			p.Close() // so that Close need not linger
			for n.Step(); n.Next(); {
			}
			if tc.after == 0 {
				o.want(t, tc.want)
			} else if got := o.take(); !strings.HasPrefix(got, "closed: TLS handshake failed") {
				t.Error(got)
			}
			if l.Away() != 0 {
				t.Errorf("%d goroutines", l.Away())
			}
		})
	}
}

// A process under a flood of handshakes refuses more than its gate lets in, and
// the others get through one after the other.
func TestTLSGate(t *testing.T) {
	gate := tls.NewGate(1, 3)
	s := mesh(t, ratingsID, gate)
	n := mem.New()
	l := n.Loop(loop.Options{})
	ln, _ := n.Listen(addr)
	var owners []*owner
	for range 5 {
		o := &owner{}
		owners = append(owners, o)
		conn.Dial(l, conn.Target{Addr: loop.TCP(addr), TLS: s.client}, o)
	}
	n.Step()
	refused := 0
	for _, o := range owners {
		if strings.Contains(o.take(), "too many TLS handshakes") {
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("%d refused, want 2", refused)
	}
	for p := ln.Accept(); p != nil; p = ln.Accept() {
		p.Close()
	}
	for n.Step(); n.Next(); {
	}
	if !gate.Begin() || !gate.Begin() || !gate.Begin() || gate.Begin() {
		t.Error("the gate does not count three free places")
	}
}

// While handshakes wait for their turn, connections that have theirs behind them are served.
func TestGateStarvesNobody(t *testing.T) {
	gate := tls.NewGate(1, 0)
	s := mesh(t, ratingsID, gate)
	n := mem.New()
	_, client, server := tlsPair(t, n, s)
	n.Step()
	client.want(t, "open")
	server.c.SetHandler(echo{})
	if !gate.Enter(nil) { // somebody computes for long
		t.Fatal("the gate is closed")
	}
	var waiting []*owner
	for range 50 {
		_, co, _ := tlsPair(t, n, s)
		waiting = append(waiting, co)
	}
	client.c.Write([]byte("meanwhile"))
	n.Step()
	client.want(t, `data "meanwhile"`)
	for _, o := range waiting {
		o.want(t, "")
	}
	gate.Leave()
	n.Step()
	for _, o := range waiting {
		o.want(t, "open")
	}
}

// Mutual TLS against crypto/tls on the kernel's sockets, key updates included.
func TestKernelTLS(t *testing.T) {
	ca := tlstest.New(t)
	w := ca.Workload("default", "ratings")
	server, err := tls.NewServer(tls.ServerOptions{Identity: w, Clients: tls.RequireClientCert, Trust: tls.Trust{Mesh: w}, ALPN: []string{"istio"}})
	if err != nil {
		t.Fatal(err)
	}
	l := kernelLoop(t)
	a := listen(t, l, netip.MustParseAddrPort("127.0.0.1:0"), func() conn.Handler { return starter{server} })
	config := identity.ClientTLS(ca.Workload("default", "reviews"), identity.OneOf{w.ID()})
	config.NextProtos = []string{"istio"}
	d := &stdtls.Dialer{Config: config}
	c, err := d.DialContext(context.Background(), "tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		c.Write(want)
		c.(*stdtls.Conn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("echo of %d bytes: %d, %v", len(want), len(got), err)
	}
	// A plaintext client is told that this is TLS.
	p, err := net.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if b, _ := io.ReadAll(p); len(b) > 0 && b[0] != 21 {
		t.Errorf("a plaintext client was answered %q", b)
	}
}

// renewing is an identity whose certificate is replaced.
type renewing struct{ held *identity.Material }

func (r *renewing) Certificate() *stdtls.Certificate { return r.held.Certificate() }
func (r *renewing) Bundle() *identity.Bundle         { return r.held.Bundle() }

// A renewed certificate is shown to the next client, and closes no connection; neither
// does a context that takes another's place.
func TestCertificateSwap(t *testing.T) {
	ca := tlstest.New(t)
	w := &renewing{ca.Workload("default", "ratings")}
	client, err := tls.NewClient(tls.ClientOptions{Trust: tls.Trust{Mesh: w}, Sessions: 1})
	if err != nil {
		t.Fatal(err)
	}
	server, err := tls.NewServer(tls.ServerOptions{Identity: w, Tickets: true})
	if err != nil {
		t.Fatal(err)
	}
	var opened []*owner
	var hashes [][32]byte
	n := mem.New()
	for i := range 4 {
		_, co, so := tlsPair(t, n, sides{server, client})
		n.Step()
		co.want(t, "open")
		so.c.SetHandler(echo{})
		opened, hashes = append(opened, co), append(hashes, co.c.Info().TLS.Hash)
		for j, o := range opened {
			o.c.Write([]byte("still there"))
			n.Step()
			if got := o.take(); got != `data "still there"` {
				t.Errorf("connection %d after %d swaps: %s", j, i, got)
			}
		}
		w.held = ca.Workload("default", "ratings")
		if i == 2 {
			if server, err = tls.NewServer(tls.ServerOptions{Identity: w}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, h := range hashes {
		if i > 0 && h == hashes[i-1] {
			t.Errorf("connection %d was shown the certificate of the one before", i)
		}
	}
}

// A client whose part of the handshake is longer than what is held for it.
func TestTLSLongHandshake(t *testing.T) {
	ca := tlstest.New(t)
	long := ca.Server("client.example")
	for len(long.Certificate) < 150 { // 150 × 0.5 KB
		long.Certificate = append(long.Certificate, ca.Cert.Raw)
	}
	server, err := tls.NewServer(tls.ServerOptions{Certificates: []*stdtls.Certificate{ca.Server("a")}, Clients: tls.RequireClientCert, Trust: tls.Trust{Roots: ca.Pool()}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := tls.NewClient(tls.ClientOptions{Certificate: long, Trust: tls.Trust{Roots: ca.Pool()}})
	if err != nil {
		t.Fatal(err)
	}
	n := mem.New()
	n.Buffer = 1 << 20
	_, co, so := tlsPair(t, n, sides{server, client})
	co.c.Write([]byte("hello"))
	n.Step()
	co.want(t, "open")
	so.want(t, `open; data "hello"`)
}

// starter secures a connection as soon as something arrives, and echoes.
type starter struct{ s *tls.Server }

func (starter) Open(*conn.Conn)             {}
func (starter) EOF(*conn.Conn)              {}
func (starter) Drained(*conn.Conn)          {}
func (starter) Closed(*conn.Conn, conn.Why) {}
func (s starter) Data(c *conn.Conn, b []byte) int {
	c.StartTLS(s.s, echo{})
	return 0
}

func TestTLSEchoAllocations(t *testing.T) {
	n := mem.New()
	n.Buffer = 1 << 20
	_, client, server := tlsPair(t, n, mesh(t, ratingsID, nil))
	n.Step()
	server.c.SetHandler(echo{})
	for _, size := range []int{1, 1000, 15_000, 100_000} {
		msg := make([]byte, size)
		got := 0
		client.onData = func(_ *conn.Conn, b []byte) int { got += len(b); return len(b) }
		round := func() {
			got = 0
			client.c.Write(msg)
			n.Step()
			if got != size {
				t.Fatalf("echoed %d of %d", got, size)
			}
		}
		round()
		if a := testing.AllocsPerRun(100, round); a > 0 {
			t.Errorf("%v allocations to echo %d bytes", a, size)
		}
	}
}

// Both sides of a handshake, a connection each time: full, full with a ticket that nobody
// uses, and resumed.
func BenchmarkHandshake(b *testing.B) {
	ca := tlstest.New(b)
	w := ca.Workload("default", "ratings")
	for _, bc := range []struct {
		name     string
		tickets  bool
		sessions int
		forget   bool
	}{{"full", false, 0, false}, {"ticket", true, 1, true}, {"resumed", true, 1, false}} {
		server, err := tls.NewServer(tls.ServerOptions{Identity: w, Clients: tls.RequireClientCert, Trust: tls.Trust{Mesh: w}, Tickets: bc.tickets})
		if err != nil {
			b.Fatal(err)
		}
		client, err := tls.NewClient(tls.ClientOptions{Identity: w, Trust: tls.Trust{Mesh: w}, Sessions: bc.sessions})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				with := client
				if bc.forget {
					with = client.With("", nil)
				}
				n := mem.New()
				_, co, so := tlsPair(b, n, sides{server, with})
				n.Step()
				if co.c.Info().TLS == nil || so.c.Info().TLS == nil || i > 0 && so.c.Info().TLS.Resumed != (bc.name == "resumed") {
					b.Fatal("no handshake, or another one")
				}
			}
		})
	}
}

// Connections that begin together, with sessions as a proxy keeps them: a burst after another, of both sides, a connection.
func BenchmarkHandshakeBurst(b *testing.B) {
	const together = 16
	ca := tlstest.New(b)
	w := ca.Workload("default", "ratings")
	server, err := tls.NewServer(tls.ServerOptions{Identity: w, Clients: tls.RequireClientCert, Trust: tls.Trust{Mesh: w}, Tickets: true})
	if err != nil {
		b.Fatal(err)
	}
	client, err := tls.NewClient(tls.ClientOptions{Identity: w, Trust: tls.Trust{Mesh: w}, Sessions: 32})
	if err != nil {
		b.Fatal(err)
	}
	resumed, all := 0, 0
	for b.Loop() {
		n, ends := mem.New(), [together]*owner{}
		for i := range ends {
			_, _, ends[i] = tlsPair(b, n, sides{server, client})
		}
		n.Step()
		for _, so := range ends {
			if so.c.Info().TLS == nil {
				b.Fatal("no handshake")
			}
			if all++; so.c.Info().TLS.Resumed {
				resumed++
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(all), "µs/connection")
	b.ReportMetric(100*float64(resumed)/float64(all), "%resumed")
}

func BenchmarkTLSEcho(b *testing.B) {
	for name, std := range records {
		for _, size := range []int{1 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%dK", strings.ReplaceAll(name, " ", "-"), size>>10), func(b *testing.B) {
				n := mem.New()
				n.Buffer = 1 << 20
				_, client, server := tlsPair(b, n, meshOver(b, ratingsID, nil, std))
				n.Step()
				server.c.SetHandler(echo{})
				msg := make([]byte, size)
				client.onData = func(_ *conn.Conn, b []byte) int { return len(b) }
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					client.c.Write(msg)
					n.Step()
				}
			})
		}
	}
}
