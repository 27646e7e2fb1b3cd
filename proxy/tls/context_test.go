package tls

import (
	stdtls "crypto/tls"
	"errors"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

func server(t testing.TB, o ServerOptions) *Server {
	t.Helper()
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func client(t testing.TB, o ClientOptions) *Client {
	t.Helper()
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A gateway chooses the certificate by SNI, and serves clients whose protocols it
// does not know without any.
func TestGatewayServer(t *testing.T) {
	ca := tlstest.New(t)
	shop, blog := ca.Server("shop.example"), ca.Server("blog.example", "*.blog.example")
	s := server(t, ServerOptions{Certificates: []*stdtls.Certificate{shop, blog}, ALPN: []string{"h2", "http/1.1"}, MinVersion: TLS12})
	for _, tc := range []struct {
		sni, name string
		alpn      []string
		want      string
		version   uint16
	}{
		{"shop.example", "shop.example", []string{"http/1.1", "h2"}, "h2", TLS13},
		{"blog.example", "blog.example", []string{"http/1.1"}, "http/1.1", TLS12},
		{"x.blog.example", "x.blog.example", nil, "", TLS13},
		{"unknown.example", "shop.example", []string{"acme"}, "", TLS13},
	} {
		c := client(t, ClientOptions{SNI: tc.sni, ALPN: tc.alpn, MinVersion: tc.version, MaxVersion: tc.version,
			Trust: Trust{Roots: ca.Pool(), Names: Names{{Exact: tc.name}}}})
		p, serr, cerr := join(s, c)
		if serr != nil || cerr != nil {
			t.Errorf("%s: %v, %v", tc.sni, serr, cerr)
			continue
		}
		if st := p.server.Peer(); st.ALPN != tc.want || st.Version != tc.version || st.SNI != tc.sni {
			t.Errorf("%s: protocol %q, version %x, name %q", tc.sni, st.ALPN, st.Version, st.SNI)
		}
	}
}

// The reasons are read off errors of crypto/tls, some by their text: this holds the
// texts of the Go version in use.
func TestReasons(t *testing.T) {
	ca, stranger := tlstest.New(t), tlstest.New(t)
	w := ca.Workload("default", "ratings")
	cert := ca.Server("shop.example")
	anybody := Trust{SkipVerify: true}
	plain := ServerOptions{Certificates: []*stdtls.Certificate{cert}}
	for _, tc := range []struct {
		name             string
		server           ServerOptions
		client           ClientOptions
		sreason, creason Reason
	}{
		{"versions", ServerOptions{Certificates: plain.Certificates, MinVersion: TLS13}, ClientOptions{Trust: anybody, MinVersion: TLS12, MaxVersion: TLS12}, NoSharedVersion, RefusedByPeer},
		{"curves", ServerOptions{Certificates: plain.Certificates, Curves: []stdtls.CurveID{stdtls.CurveP384}},
			ClientOptions{Trust: anybody, Curves: []stdtls.CurveID{stdtls.X25519}}, NoSharedParameters, RefusedByPeer},
		{"suites", ServerOptions{Certificates: plain.Certificates, MinVersion: TLS12, MaxVersion: TLS12, CipherSuites: []uint16{stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}},
			ClientOptions{Trust: anybody, MaxVersion: TLS12, CipherSuites: []uint16{stdtls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}}, NoSharedParameters, RefusedByPeer},
		{"unknown authority", plain, ClientOptions{Trust: Trust{Roots: stranger.Pool()}}, RefusedByPeer, PeerRefused},
		{"wrong name", plain, ClientOptions{Trust: Trust{Roots: ca.Pool(), Names: Names{{Exact: "blog.example"}}}}, RefusedByPeer, PeerRefused},
		{"no identity yet", ServerOptions{Identity: nobody{}}, ClientOptions{Trust: anybody}, NoCertificate, RefusedByPeer},
		{"not of the mesh", plain, ClientOptions{Identity: w, Trust: Trust{Mesh: w}}, RefusedByPeer, PeerRefused},
		{"no client certificate", ServerOptions{Certificates: plain.Certificates, MinVersion: TLS12, Clients: RequireClientCert, Trust: Trust{Roots: ca.Pool()}},
			ClientOptions{Trust: anybody, MaxVersion: TLS12}, PeerRefused, RefusedByPeer},
	} {
		_, serr, cerr := join(server(t, tc.server), client(t, tc.client))
		for who, err := range map[string]error{"server": serr, "client": cerr} {
			want := tc.sreason
			if who == "client" {
				want = tc.creason
			}
			if err == nil {
				t.Errorf("%s: %s: no error", tc.name, who)
				continue
			}
			e, ok := errors.AsType[*Error](err)
			if !ok {
				t.Errorf("%s: %s: %T", tc.name, who, err)
				continue
			}
			if e.Reason != want {
				t.Errorf("%s: %s: %v (%v), want %v", tc.name, who, e.Reason, err, want)
			}
			if e.Reason == RefusedByPeer && (e.Alert == "" || strings.Contains(e.Alert, "tls:")) {
				t.Errorf("%s: %s: alert %q", tc.name, who, e.Alert)
			}
		}
	}
}

// A proxy that has no certificate yet.
type nobody struct{}

func (nobody) Certificate() *stdtls.Certificate { return nil }
func (nobody) Bundle() *identity.Bundle         { return nil }

func TestOptionsAreChecked(t *testing.T) {
	ca := tlstest.New(t)
	cert := []*stdtls.Certificate{ca.Server("a")}
	for name, o := range map[string]ServerOptions{
		"nothing to show":                      {},
		"nothing to judge by":                  {Certificates: cert, Clients: RequireClientCert},
		"nothing to judge by, even optionally": {Certificates: cert, Clients: OptionalClientCert},
		"old version":                          {Certificates: cert, MinVersion: stdtls.VersionTLS11},
		"versions the wrong way":               {Certificates: cert, MinVersion: TLS13, MaxVersion: TLS12},
	} {
		if _, err := NewServer(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := NewClient(ClientOptions{SNI: "a"}); err == nil {
		t.Error("a client that judges nobody was made without saying so")
	}
	w := ca.Workload("default", "x")
	c := client(t, ClientOptions{Trust: Trust{Mesh: w}, Identity: w, SNI: "a", ALPN: []string{"istio"}})
	d := c.With("b", []string{"istio-http/1.1"})
	if c.SNI() != "a" || d.SNI() != "b" || c.ALPN()[0] != "istio" || d.ALPN()[0] != "istio-http/1.1" || d.config.MinVersion != TLS13 {
		t.Errorf("%v %v, %v %v", c.SNI(), c.ALPN(), d.SNI(), d.ALPN())
	}
}

func TestNames(t *testing.T) {
	ca := tlstest.New(t)
	cert := ca.Server("shop.example", "*.cdn.example").Leaf
	cert.URIs = ca.Workload("default", "shop").Leaf().URIs
	cert.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)}
	cert.EmailAddresses = []string{"shop@example"}
	for _, tc := range []struct {
		name Name
		want bool
	}{
		{Name{Exact: "shop.example"}, true},
		{Name{Exact: "Shop.Example"}, true}, // DNS
		{Name{Exact: "example"}, false},
		{Name{Exact: "a.cdn.example"}, true},
		{Name{Exact: "a.b.cdn.example"}, false},
		{Name{Exact: "cdn.example"}, false},
		{Name{Prefix: "shop."}, true},
		{Name{Prefix: "SHOP.", IgnoreCase: true}, true},
		{Name{Prefix: "SHOP."}, false},
		{Name{Suffix: ".example"}, true},
		{Name{Contains: "op.ex"}, true},
		{Name{Regex: regexp.MustCompile(`^(?:sh[a-z]p\.example)$`)}, true},
		{Name{Regex: regexp.MustCompile(`^(?:sh[a-z]p)$`)}, false},
		{Name{Exact: "shop.example", Kind: URIName}, false},
		{Name{Exact: "shop.example", Kind: DNSName}, true},
		{Name{Exact: "a.cdn.example", Kind: URIName}, false},
		{Name{Exact: "spiffe://cluster.local/ns/default/sa/shop", Kind: URIName}, true},
		{Name{Exact: "spiffe://cluster.local/ns/default/sa/shop", Kind: DNSName}, false},
		{Name{Exact: "SPIFFE://cluster.local/ns/default/sa/shop"}, false},
		{Name{Exact: "10.0.0.1", Kind: IPName}, true},
		{Name{Exact: "10.0.0.1", Kind: DNSName}, false},
		{Name{Exact: "shop@example", Kind: EmailName}, true},
		{Name{}, false},
	} {
		if got := (Names{{Exact: "x"}, tc.name}).matchCertificate(cert); got != tc.want {
			t.Errorf("%v: %v", tc.name, got)
		}
	}
	id, _ := identity.New("cluster.local", "default", "ratings")
	if !(Names{}).Accepts(id) || !(Names{{Suffix: "/sa/ratings"}}).Accepts(id) || (Names{{Exact: "x"}}).Accepts(id) {
		t.Error("names of identities")
	}
	if s := (Names{{Exact: "a"}, {Prefix: "b"}, {Suffix: "c"}, {Contains: "d"}, {Exact: "e"}, {Exact: "f"}}).String(); s != "one of a, b*, *c, *d*, e and 1 more" {
		t.Error(s)
	}
}

// The gate never lets more compute than it should, and loses nobody.
func TestGate(t *testing.T) {
	g := NewGate(2, 0)
	inside, started := 0, 0
	start := func() { inside++; started++ }
	for range 5 {
		if g.Enter(start) {
			start()
		}
	}
	if inside != 2 {
		t.Errorf("%d inside, want 2", inside)
	}
	for range 5 {
		inside--
		g.Leave()
		if inside > 2 {
			t.Errorf("%d inside", inside)
		}
	}
	if started != 5 || inside != 0 || !g.Enter(start) {
		t.Errorf("%d started, %d inside", started, inside)
	}
}

func FuzzRecordLength(f *testing.F) {
	f.Add([]byte{22, 3, 1, 2, 0, 1})
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte{0x80, 0x2e, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		n := RecordLength(b)
		if n > MaxRecord || n > 0 && n < RecordHeader || n == 0 && len(b) >= RecordHeader {
			t.Errorf("%x: %d", b, n)
		}
	})
}

func TestErrorsAreSentences(t *testing.T) {
	for r := PeerRefused; r <= Violation; r++ {
		e := &Error{Reason: r, Err: errors.New("cause"), Alert: "bad certificate"}
		if e.Error() == "" || e.Reason.String() == "" || strings.HasPrefix(e.Reason.String(), "reason_") {
			t.Errorf("%d: %q, %q", r, e.Error(), e.Reason)
		}
	}
}

// Who was let in by one context is let in by the next as long as nothing more is asked.
func TestAdmits(t *testing.T) {
	ca, other := tlstest.New(t), tlstest.New(t)
	w := ca.Workload("default", "shop")
	named := func(prefixes ...string) (names Names) {
		for _, p := range prefixes {
			names = append(names, Name{Prefix: p, Kind: URIName})
		}
		return names
	}
	cert := func() []*stdtls.Certificate { return []*stdtls.Certificate{ca.Server("a")} } // a new one each time
	public := func(clients ClientAuth, trust Trust) ServerOptions {
		return ServerOptions{Certificates: cert(), Clients: clients, Trust: trust}
	}
	mesh := func(names ...string) ServerOptions {
		return ServerOptions{Identity: w, Clients: RequireClientCert, Trust: Trust{Mesh: w, Names: named(names...)}}
	}
	regex := func() Trust {
		return Trust{Roots: ca.Pool(), Names: Names{{Regex: regexp.MustCompile("^a$")}}}
	}
	nobody := Peer{Version: TLS13}
	somebody := Peer{Version: TLS13, SNI: "a", Presented: true}
	member := somebody
	member.ID = w.ID()
	with := func(o ServerOptions, change func(*ServerOptions)) ServerOptions { change(&o); return o }
	for _, tc := range []struct {
		what     string
		was, now ServerOptions
		peer     Peer
		want     bool
	}{
		{"another certificate", public(NoClientCert, Trust{}), public(NoClientCert, Trust{}), nobody, true},
		{"other protocols, no tickets", with(mesh(), func(o *ServerOptions) { o.ALPN, o.Tickets = []string{"h2"}, true }), mesh(), member, true},
		{"certificates are required", public(NoClientCert, Trust{}), public(RequireClientCert, regex()), nobody, false},
		{"certificates are looked at", public(NoClientCert, Trust{}), public(OptionalClientCert, regex()), nobody, true},
		{"the optional is required, and was not shown", public(OptionalClientCert, regex()), public(RequireClientCert, regex()), nobody, false},
		{"the optional is required, and was shown", public(OptionalClientCert, regex()), public(RequireClientCert, regex()), somebody, true},
		{"certificates are not required", public(RequireClientCert, regex()), public(OptionalClientCert, regex()), somebody, true},
		{"certificates are not looked at", public(RequireClientCert, regex()), public(NoClientCert, Trust{}), somebody, true},
		{"the same roots and names", public(RequireClientCert, regex()), public(RequireClientCert, regex()), somebody, true},
		{"other roots", public(RequireClientCert, regex()), public(RequireClientCert, Trust{Roots: other.Pool()}), somebody, false},
		{"fewer names", public(RequireClientCert, Trust{Roots: ca.Pool()}), public(RequireClientCert, regex()), somebody, false},
		{"anybody, still", public(RequireClientCert, Trust{SkipVerify: true}), public(RequireClientCert, Trust{SkipVerify: true}), nobody, true},
		{"not anybody", public(RequireClientCert, Trust{SkipVerify: true}), public(RequireClientCert, Trust{Roots: ca.Pool()}), nobody, false},
		{"pins", public(RequireClientCert, Trust{Roots: ca.Pool()}), public(RequireClientCert, Trust{Roots: ca.Pool(), Keys: [][32]byte{{1}}}), somebody, false},
		{"a workload, with another alias of the mesh", mesh("spiffe://cluster.local/"), mesh("spiffe://cluster.local/", "spiffe://old.example/"), member, true},
		{"a workload, whose domain is out", mesh("spiffe://cluster.local/"), mesh("spiffe://old.example/"), member, false},
		{"workloads only, now", public(OptionalClientCert, regex()), mesh(), somebody, false},
		{"TLS 1.2, refused now", public(NoClientCert, Trust{}), with(public(NoClientCert, Trust{}), func(o *ServerOptions) { o.MinVersion = TLS13 }), Peer{Version: TLS12}, false},
		{"without a server name, refused now", public(NoClientCert, Trust{}), with(public(NoClientCert, Trust{}), func(o *ServerOptions) { o.RequireSNI = true }), nobody, false},
	} {
		if got := server(t, tc.now).Admits(&tc.peer, server(t, tc.was)); got != tc.want {
			t.Errorf("%s: %v", tc.what, got)
		}
	}
}
