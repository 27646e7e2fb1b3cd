package tls

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// changing is an identity.Source that a test changes between handshakes.
type changing struct {
	cert   *stdtls.Certificate
	bundle *identity.Bundle
}

func (c *changing) Certificate() *stdtls.Certificate { return c.cert }
func (c *changing) Bundle() *identity.Bundle         { return c.bundle }

// meet makes a connection, lets the tickets arrive, moves some bytes and reports whether
// it was resumed.
func meet(t *testing.T, s *Server, c *Client) bool {
	t.Helper()
	p := mustJoin(t, s, c)
	if got, rest, err := read(p.client, p.toClient, 1000); err != nil || len(got)+len(rest) > 0 {
		t.Fatalf("tickets: %q, %q, %v", got, rest, err)
	}
	if got := send(t, p.server, p.client, []byte("hello")); string(got) != "hello" {
		t.Fatalf("got %q", got)
	}
	send(t, p.client, p.server, []byte("hello"))
	if p.server.Peer().Resumed != p.client.Peer().Resumed {
		t.Fatal("the sides disagree")
	}
	return p.server.Peer().Resumed
}

// Sessions are resumed however the records are kept, and the identity is known as before.
func TestResumption(t *testing.T) {
	ca := tlstest.New(t)
	w := ca.Workload("default", "ratings")
	for _, version := range []uint16{TLS12, TLS13} {
		for _, l := range layers {
			for _, clients := range []ClientAuth{NoClientCert, RequireClientCert} {
				t.Run(fmt.Sprintf("%s, %s, clients %d", l.name, stdtls.VersionName(version), clients), func(t *testing.T) {
					s := server(t, ServerOptions{Identity: w, Clients: clients, Trust: Trust{Mesh: w}, Tickets: true, StdRecords: l.server, MinVersion: TLS12, MaxVersion: version})
					c := client(t, ClientOptions{Identity: w, Trust: Trust{Mesh: w}, Sessions: 1, StdRecords: l.cli, MinVersion: TLS12})
					if meet(t, s, c) {
						t.Error("the first connection was resumed")
					}
					for range 3 {
						if !meet(t, s, c) {
							t.Error("a later connection was not resumed")
						}
					}
					p := mustJoin(t, s, c)
					if p.client.Peer().ID != w.ID() || clients == RequireClientCert && (p.server.Peer().ID != w.ID() || !p.server.Peer().Presented) {
						t.Errorf("peers %+v, %+v", p.client.Peer(), p.server.Peer())
					}
				})
			}
		}
	}
}

// A server that wants another key share asks for a second ClientHello.
func TestHelloRetryRequest(t *testing.T) {
	ca := tlstest.New(t)
	w := ca.Workload("default", "ratings")
	s := server(t, ServerOptions{Identity: w, Clients: RequireClientCert, Trust: Trust{Mesh: w}, Tickets: true, Curves: []stdtls.CurveID{stdtls.CurveP521}})
	c := client(t, ClientOptions{Identity: w, Trust: Trust{Mesh: w}, Sessions: 1, Curves: []stdtls.CurveID{stdtls.X25519, stdtls.CurveP521}})
	if meet(t, s, c) || !meet(t, s, c) {
		t.Error("the first was resumed, or the second was not")
	}
}

// What makes a ticket void: the next handshake is a full one, and succeeds.
func TestTicketsAreVoid(t *testing.T) {
	ca, second := tlstest.New(t), tlstest.New(t)
	both := ca.Bundle().Union(second.Bundle())
	for _, tc := range []struct {
		name   string
		resume bool
		change func(us, them *changing, s **Server, c **Client, again func() (*Server, *Client))
	}{
		{"nothing changes", true, func(*changing, *changing, **Server, **Client, func() (*Server, *Client)) {}},
		{"the client has another certificate of the same identity", false, func(us, _ *changing, _ **Server, _ **Client, _ func() (*Server, *Client)) {
			us.cert = ca.Workload("default", "reviews").Certificate()
		}},
		{"the client is somebody else", false, func(us, _ *changing, _ **Server, _ **Client, _ func() (*Server, *Client)) {
			us.cert = ca.Workload("default", "details").Certificate()
		}},
		{"the client trusts other roots", false, func(us, _ *changing, _ **Server, _ **Client, _ func() (*Server, *Client)) { us.bundle = both }},
		{"the server trusts other roots", false, func(_, them *changing, _ **Server, _ **Client, _ func() (*Server, *Client)) { them.bundle = both }},
		{"the server has another certificate", true, func(_, them *changing, _ **Server, _ **Client, _ func() (*Server, *Client)) {
			them.cert = ca.Workload("default", "ratings").Certificate()
		}},
		{"another context of the server", false, func(_, _ *changing, s **Server, _ **Client, again func() (*Server, *Client)) { *s, _ = again() }},
		{"another context of the client", false, func(_, _ *changing, _ **Server, c **Client, again func() (*Server, *Client)) { _, *c = again() }},
		{"another SNI", false, func(_, _ *changing, _ **Server, c **Client, _ func() (*Server, *Client)) { *c = (*c).With("b", nil) }},
		{"the ticket is too old", false, func(_, _ *changing, s **Server, _ **Client, _ func() (*Server, *Client)) {
			(*s).lifetime = -time.Second
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			us := &changing{ca.Workload("default", "reviews").Certificate(), ca.Bundle()}
			them := &changing{ca.Workload("default", "ratings").Certificate(), ca.Bundle()}
			again := func() (*Server, *Client) {
				return server(t, ServerOptions{Identity: them, Clients: RequireClientCert, Trust: Trust{Mesh: them}, Tickets: true}),
					client(t, ClientOptions{Identity: us, Trust: Trust{Mesh: us}, Sessions: 1, SNI: "a"})
			}
			s, c := again()
			meet(t, s, c)
			if !meet(t, s, c) {
				t.Fatal("was never resumed")
			}
			tc.change(us, them, &s, &c, again)
			if got := meet(t, s, c); got != tc.resume {
				t.Errorf("resumed: %v", got)
			}
		})
	}
}

// Names accepted from a server, and its life, count for resumed sessions too.
func TestResumedPeersAreJudged(t *testing.T) {
	ca := tlstest.New(t)
	w := ca.Workload("default", "ratings")
	s := server(t, ServerOptions{Identity: w, Clients: RequireClientCert, Trust: Trust{Mesh: w}, Tickets: true})
	c := client(t, ClientOptions{Identity: w, Trust: Trust{Mesh: w}, Sessions: 2})
	meet(t, s, c)
	s.trust.Names = Names{{Exact: "spiffe://cluster.local/ns/default/sa/somebody-else"}}
	// The server's verdict is in its configuration, which was made with the names before.
	strict := server(t, ServerOptions{Identity: w, Clients: RequireClientCert, Trust: s.trust, Tickets: true})
	strict.config.SetSessionTicketKeys([][32]byte{{1}})
	s.config.SetSessionTicketKeys([][32]byte{{1}})
	meet(t, s, c)
	if _, serr, _ := join(strict, c); serr == nil {
		t.Error("a resumed client with a name that is not accepted was let in")
	}
}

// Contexts that share ticket keys and ask different things of clients: a ticket of one is void with the other, in both
// versions, so that the client gets to show what is wanted.
func TestSharedTicketKeys(t *testing.T) {
	ca, other := tlstest.New(t), tlstest.New(t)
	us, cert := ca.Workload("default", "reviews"), ca.Workload("default", "ratings").Certificate()
	pool := func(b *identity.Bundle) *x509.CertPool {
		p := x509.NewCertPool()
		for _, c := range b.Roots() {
			p.AddCert(c)
		}
		return p
	}
	name := func(sa string) Names { return Names{{Exact: "spiffe://cluster.local/ns/default/sa/" + sa}} }
	both := pool(ca.Bundle().Union(other.Bundle()))
	mine := func() *x509.CertPool { return pool(ca.Bundle()) }
	for _, version := range []uint16{TLS12, TLS13} {
		for _, tc := range []struct {
			name   string
			before ServerOptions
			after  ServerOptions
			resume bool
		}{
			{"the same again", ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: mine()}}, ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: mine()}}, true},
			{"no certificate, then one", ServerOptions{}, ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: mine()}}, false},
			{"optional, then required", ServerOptions{Clients: OptionalClientCert, Trust: Trust{Roots: mine()}}, ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: mine()}}, false},
			{"other roots", ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: mine()}}, ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: both}}, false},
			{"names", ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: mine()}}, ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: mine(), Names: name("reviews")}}, false},
			{"the mesh's", ServerOptions{Clients: RequireClientCert, Trust: Trust{Roots: mine()}}, ServerOptions{Clients: RequireClientCert, Trust: Trust{Mesh: us}, MinVersion: TLS12}, false},
		} {
			make := func(o ServerOptions) *Server {
				o.Certificates, o.Tickets, o.TicketKeys, o.MaxVersion = []*stdtls.Certificate{cert}, true, [][32]byte{{1}}, version
				return server(t, o)
			}
			c := client(t, ClientOptions{Certificate: us.Certificate(), Trust: Trust{Roots: mine()}, Sessions: 1})
			if meet(t, make(tc.before), c); meet(t, make(tc.after), c) != tc.resume {
				t.Errorf("%s, %s: resumed: %v", stdtls.VersionName(version), tc.name, !tc.resume)
			}
		}
	}
}

// A resumed session is no way around what a full handshake would refuse: time passes, or trust is taken away, between a
// connection and the next one with its ticket.
func TestResumptionOutlivesNothing(t *testing.T) {
	name := func(sa string) Names { return Names{{Exact: "spiffe://cluster.local/ns/default/sa/" + sa}} }
	for _, tc := range []struct {
		name         string
		client       bool // refuses; otherwise the server does
		old, revoked bool // the refused one's certificate is older by 50 minutes; there are revocation lists
		change       func(ours, theirs *changing, other *identity.Bundle)
		want         string
	}{
		{name: "the client's certificate expires", old: true, change: func(*changing, *changing, *identity.Bundle) { time.Sleep(15 * time.Minute) }, want: "expired 5m0s ago"},
		{name: "the server's certificate expires", client: true, old: true, change: func(*changing, *changing, *identity.Bundle) { time.Sleep(15 * time.Minute) }, want: "expired 5m0s ago"},
		{name: "the server no longer trusts the client's root", change: func(_, theirs *changing, other *identity.Bundle) { theirs.bundle = other }, want: "vouches for its issuer"},
		{name: "the server trusts nobody any more", change: func(_, theirs *changing, _ *identity.Bundle) { theirs.bundle = nil }, want: "no trust bundle"},
		{name: "the client no longer trusts the server's root", client: true, change: func(ours, _ *changing, other *identity.Bundle) { ours.bundle = other }, want: "vouches for its issuer"},
		{name: "the server's list of revoked certificates ends", revoked: true, change: func(*changing, *changing, *identity.Bundle) { time.Sleep(6 * time.Minute) }, want: "revocation list"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, other := tlstest.New(t), tlstest.New(t)
				ours, theirs := &changing{bundle: ca.Bundle()}, &changing{bundle: ca.Bundle()}
				first, second := ours, theirs
				if tc.client {
					first, second = theirs, ours
				}
				first.cert = ca.Workload("default", "reviews").Certificate()
				if tc.old {
					time.Sleep(50 * time.Minute)
				}
				second.cert = ca.Workload("default", "reviews").Certificate()
				judge := Trust{Mesh: theirs, Names: name("reviews")}
				if tc.revoked {
					var err error
					if judge.Revoked, err = ParseRevoked(ca.Revoke(time.Now().Add(5 * time.Minute))); err != nil {
						t.Fatal(err)
					}
				}
				s := server(t, ServerOptions{Identity: theirs, Clients: RequireClientCert, Trust: judge, Tickets: true})
				c := client(t, ClientOptions{Identity: ours, Trust: Trust{Mesh: ours, Names: name("reviews")}, Sessions: 1})
				if meet(t, s, c); !meet(t, s, c) {
					t.Fatal("was never resumed")
				}
				tc.change(ours, theirs, other.Bundle())
				for range 2 {
					_, serr, cerr := join(s, c)
					err := serr
					if tc.client {
						err = cerr
					}
					if err == nil || !strings.Contains(err.Error(), tc.want) {
						t.Errorf("server: %v; client: %v", serr, cerr)
					}
				}
			})
		})
	}
}

// An endpoint has room for one ticket, and for as many as there are connections at once when these come again.
func TestTicketsOfManyConnections(t *testing.T) {
	const together, most = 8, 6
	s := &sessions{most: most}
	burst := func(to Endpoint) (resumed int) {
		var views []*sessionView
		for range together {
			v := s.view(to, standing{})
			if _, ok := v.Get(""); ok {
				resumed++
			}
			views = append(views, v)
		}
		for _, v := range views {
			v.Put("", &stdtls.ClientSessionState{})
		}
		return resumed
	}
	var got []int
	for range 4 {
		got = append(got, burst(somewhere))
	}
	if want := []int{0, 1, most, most}; !slices.Equal(got, want) {
		t.Errorf("resumed %v of %d, want %v", got, together, want)
	}
	for i := range 10 * maxEndpoints {
		to := Endpoint{Path: fmt.Sprint(i)}
		burst(to)
		burst(to)
		tickets, room := 0, 0
		for _, k := range s.of {
			tickets, room = tickets+len(k.tickets), room+k.room-1
		}
		if tickets > maxEndpoints+moreSessions || room != s.more || len(s.of) > maxEndpoints {
			t.Fatalf("%d tickets of %d endpoints, with room for %d more (counted: %d)", tickets, len(s.of), room, s.more)
		}
	}
}

// A ticket is used once, for the endpoint that gave it, and memory is bounded.
func TestSessionCache(t *testing.T) {
	s := &sessions{most: 2}
	under := standing{bundle: &identity.Bundle{}}
	to := func(i int) Endpoint {
		return Endpoint{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80)}
	}
	tickets := []*stdtls.ClientSessionState{{}, {}, {}}
	s.of = map[Endpoint]*kept{to(1): {room: 2}}
	s.under = under
	for _, x := range tickets {
		s.view(to(1), under).Put("", x)
	}
	if _, ok := s.view(to(2), under).Get(""); ok {
		t.Error("another endpoint got a ticket")
	}
	for _, want := range []*stdtls.ClientSessionState{tickets[2], tickets[1], nil} {
		if got, _ := s.view(to(1), under).Get(""); got != want {
			t.Errorf("got %p, want %p", got, want)
		}
	}
	old := s.view(to(1), under)
	old.Put("", tickets[0])
	now := s.view(to(1), standing{})
	if _, ok := now.Get(""); ok {
		t.Error("got a ticket of another standing")
	}
	old.Put("", tickets[1]) // arrives late
	if _, ok := now.Get(""); ok {
		t.Error("got a late ticket of another standing")
	}
	for i := range 10 * maxEndpoints {
		s.view(to(i), standing{}).Put("", tickets[0])
	}
	if len(s.of) > maxEndpoints {
		t.Errorf("%d endpoints are remembered", len(s.of))
	}
}
