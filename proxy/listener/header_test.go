package listener_test

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// With a PROXY protocol header, the client is who it names, for the choice of the chain
// and for whoever serves; without, the connection is refused, or served as it is.
func TestProxyHeader(t *testing.T) {
	const header = "PROXY TCP4 192.0.2.7 203.0.113.1 5000 443\r\n"
	for _, tc := range []struct {
		name     string
		optional bool
		refused  []proxyproto.Version
		say      []string // with a step after each
		want     []string
	}{
		{"v1", false, nil, []string{header + "hi"}, []string{"l/vpn open for 192.0.2.7:5000 to 203.0.113.1:443 by 10.9.9.9:6000", `vpn data "hi"`}},
		{"cut", false, nil, []string{header[:1], header[1:20], header[20:], "hi"}, []string{"l/vpn open for 192.0.2.7:5000 to 203.0.113.1:443 by 10.9.9.9:6000", `vpn data "hi"`}},
		{"v2 LOCAL", false, nil, []string{"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00hi"}, []string{"l/all open for 10.9.9.9:6000 to 10.0.0.1:443", `all data "hi"`}},
		{"UNKNOWN", false, nil, []string{"PROXY UNKNOWN\r\nhi"}, []string{"l/all open for 10.9.9.9:6000 to 10.0.0.1:443", `all data "hi"`}},
		{"none", false, nil, []string{"GET /"}, []string{"refused by l: the PROXY protocol header is missing or wrong: the connection does not begin with a PROXY protocol header"}},
		{"broken", true, nil, []string{"PROXY TCP4 x\r\n"}, []string{"refused by l: the PROXY protocol header is missing or wrong: PROXY protocol: the line has 2 fields after PROXY, want 5"}},
		{"none, and none is needed", true, nil, []string{"P", "OST /"}, []string{"l/all open for 10.9.9.9:6000 to 10.0.0.1:443", `all data "POST /"`}},
		{"one where none is needed", true, nil, []string{header + "hi"}, []string{"l/vpn open for 192.0.2.7:5000 to 203.0.113.1:443 by 10.9.9.9:6000", `vpn data "hi"`}},
		{"not this version", false, []proxyproto.Version{proxyproto.V1}, []string{header}, []string{"refused by l: the PROXY protocol header is missing or wrong: version 1 of the PROXY protocol is not accepted here"}},
		{"not this version, and none is needed", true, []proxyproto.Version{proxyproto.V1}, []string{header}, []string{"l/all open for 10.9.9.9:6000 to 10.0.0.1:443", fmt.Sprintf("all data %q", header)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, 1)
			c := plain("l", "10.0.0.1:443")
			c.Chains = []*listener.Chain{{Name: "all"}, {Name: "vpn", Match: listener.Match{SourcePrefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}}}
			c.Proxy = &listener.ProxyHeader{Optional: tc.optional, Refused: tc.refused}
			w.addresses, w.errors = true, true
			w.apply(c)
			p, err := w.n.DialFrom(netip.MustParseAddrPort("10.9.9.9:6000"), netip.MustParseAddrPort("10.0.0.1:443"), netip.AddrPort{})
			if err != nil {
				t.Fatal(err)
			}
			w.want()
			for _, s := range tc.say {
				p.Send([]byte(s))
				w.n.Step()
			}
			w.want(tc.want...)
		})
	}

	w := newWorld(t, 1)
	c := plain("l", "10.0.0.1:443")
	c.Proxy, c.InspectTimeout = &listener.ProxyHeader{}, 3*time.Second
	w.apply(c)
	w.dial("10.0.0.1:443").CloseWrite() // a health check
	w.want()
	p := w.dial("10.0.0.1:443")
	p.Send([]byte("PRO"))
	w.n.Advance(3 * time.Second)
	w.want("refused by l: the client said nothing to choose a filter chain by")
	if _, err := p.Recv(); !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	if n := w.group.Connections("l"); n != 0 {
		t.Errorf("%d connections are counted", n)
	}
}

// What is behind the header may be TLS.
func TestProxyHeaderBeforeTLS(t *testing.T) {
	ca := tlstest.New(t)
	id := ca.Workload("default", "gateway")
	server, err := tls.NewServer(tls.ServerOptions{Identity: id})
	if err != nil {
		t.Fatal(err)
	}
	client, err := tls.NewClient(tls.ClientOptions{Trust: tls.Trust{Mesh: id}, SNI: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, segment := range []int{0, 1} {
		w := newWorld(t, 1)
		w.n.SegmentSize = segment
		c := plain("l", "10.0.0.1:443")
		c.InspectTLS = true
		c.Chains = []*listener.Chain{{Name: "a", TLS: server, Match: listener.Match{ServerNames: []string{"a.example"}}}}
		c.Proxy = &listener.ProxyHeader{}
		w.addresses = true
		w.apply(c)
		d := conn.Dial(w.l, conn.Target{Addr: bind("10.0.0.1:443")[0], TLS: client,
			Preface: proxyproto.Append(nil, proxyproto.V2, netip.MustParseAddrPort("192.0.2.7:5000"), netip.MustParseAddrPort("203.0.113.1:443"))}, &quiet{})
		w.n.Step()
		if len(w.log) != 1 || w.log[0] != fmt.Sprintf("l/a open over TLS for a.example for 192.0.2.7:5000 to 203.0.113.1:443 by %v", d.Info().Local) {
			t.Errorf("heard %q", w.log)
		}
	}
}
