package listener

import (
	"net/netip"
	"testing"

	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// A connection goes by the chain it would come by if it came now. The ports of a workload change as Istio writes them.
func TestAgain(t *testing.T) {
	ca := tlstest.New(t)
	w := ca.Workload("default", "echo")
	server := func() *tls.Server { // another one each time, as every update makes them
		s, err := tls.NewServer(tls.ServerOptions{Identity: w, Clients: tls.RequireClientCert, Trust: tls.Trust{Mesh: w}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	meshHTTP, meshTCP, plainHTTP := []string{"istio-http/1.1", "istio-h2"}, []string{"istio-peer-exchange", "istio"}, []string{"http/1.1", "h2c"}
	chain := func(name string, m Match) *Chain { return &Chain{Name: name, Match: m} }
	relay := func(name string, m Match) *Chain { return &Chain{Name: name, Match: m, ServerFirst: true} }
	secure := func(c *Chain) *Chain { c.TLS = server(); return c }
	permissive := func(port uint16) []*Chain { // protocol detection
		return []*Chain{
			secure(chain("mtls http", Match{DestinationPort: port, TransportProtocol: TLS, ApplicationProtocols: meshHTTP})),
			secure(relay("mtls tcp", Match{DestinationPort: port, TransportProtocol: TLS, ApplicationProtocols: meshTCP})),
			chain("http", Match{DestinationPort: port, TransportProtocol: RawBuffer, ApplicationProtocols: plainHTTP}),
			relay("tcp", Match{DestinationPort: port, TransportProtocol: RawBuffer}),
			relay("own tls", Match{DestinationPort: port, TransportProtocol: TLS}),
		}
	}
	strict := func(port uint16) []*Chain {
		return []*Chain{
			secure(chain("strict http", Match{DestinationPort: port, TransportProtocol: TLS, ApplicationProtocols: meshHTTP})),
			secure(relay("strict tcp", Match{DestinationPort: port, TransportProtocol: TLS})),
		}
	}
	disabled := func(port uint16) []*Chain {
		return []*Chain{
			chain("plain http", Match{DestinationPort: port, TransportProtocol: RawBuffer, ApplicationProtocols: plainHTTP}),
			relay("plain tcp", Match{DestinationPort: port}),
		}
	}
	strictHTTP := func(port uint16) []*Chain {
		return []*Chain{secure(chain("strict http", Match{DestinationPort: port, TransportProtocol: TLS}))}
	}
	named := func(name string, hosts ...string) *Chain { return secure(chain(name, Match{ServerNames: hosts})) }
	from := func(name string, networks ...string) *Chain {
		return chain(name, Match{SourcePrefixes: prefixes(networks...)})
	}
	both := func(lists ...[]*Chain) (all []*Chain) {
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}
	var none []*Chain

	for _, tc := range []struct {
		what     string
		was      []*Chain
		came     string // the chain in was
		sni      string
		now      []*Chain
		fallback *Chain
		want     string
	}{
		{what: "nothing changes: mTLS", was: permissive(80), came: "mtls http", now: permissive(80), want: "mtls http"},
		{what: "nothing changes: plaintext HTTP", was: permissive(80), came: "http", now: permissive(80), want: "http"},
		{what: "nothing changes: plaintext", was: permissive(80), came: "tcp", now: permissive(80), want: "tcp"},
		{what: "nothing changes: TLS of the application", was: permissive(80), came: "own tls", sni: "a", now: permissive(80), want: "own tls"},
		{what: "strict: mTLS", was: permissive(80), came: "mtls http", now: strict(80), want: "strict http"},
		{what: "strict: mTLS relay", was: permissive(80), came: "mtls tcp", now: strict(80), want: "strict tcp"},
		{what: "strict: plaintext HTTP", was: permissive(80), came: "http", now: strict(80)},
		{what: "strict: plaintext", was: permissive(80), came: "tcp", now: strict(80)},
		{what: "strict: TLS of the application", was: permissive(80), came: "own tls", now: strict(80)},
		{what: "strict, declared HTTP: mTLS", was: permissive(80), came: "mtls http", now: strictHTTP(80), want: "strict http"},
		{what: "permissive again: mTLS", was: strictHTTP(80), came: "strict http", now: permissive(80), want: "mtls http"},
		{what: "disabled: mTLS", was: permissive(80), came: "mtls http", now: disabled(80)},
		{what: "disabled: plaintext HTTP", was: permissive(80), came: "http", now: disabled(80), want: "plain http"},
		{what: "disabled: TLS of the application", was: permissive(80), came: "own tls", now: disabled(80), want: "plain tcp"},
		{what: "HTTP now: a relay", was: strict(80), came: "strict tcp", now: strictHTTP(80)},

		// A port that a service declares hides the chains for all others.
		{what: "a service comes", was: permissive(0), came: "mtls http", now: both(permissive(0), strict(80)), want: "strict http"},
		{what: "a strict service comes: plaintext", was: permissive(0), came: "http", now: both(permissive(0), strict(80))},
		{what: "a service of another port comes", was: permissive(0), came: "http", now: both(permissive(0), strict(81)), want: "http"},
		{what: "the service goes", was: both(permissive(0), strict(80)), came: "strict http", now: permissive(0), want: "mtls http"},
		{what: "nothing is left", was: permissive(80), came: "mtls http", now: none},
		{what: "only the default is left", was: permissive(80), came: "tcp", now: strict(81), fallback: relay("default", Match{}), want: "default"},
		{what: "the default is for others", was: permissive(80), came: "http", now: strict(81), fallback: relay("default", Match{})},

		// A gateway.
		{what: "a host more", was: []*Chain{named("a", "a.example")}, came: "a", sni: "a.example", now: []*Chain{named("both", "b.example", "a.example")}, want: "both"},
		{what: "a host less", was: []*Chain{named("both", "a.example", "b.example")}, came: "both", sni: "b.example", now: []*Chain{named("a", "a.example")}},
		{what: "a wildcard", was: []*Chain{named("a", "a.example")}, came: "a", sni: "A.example", now: []*Chain{named("wild", "*.example")}, want: "wild"},
		{what: "another host's", was: []*Chain{named("wild", "*.example")}, came: "wild", sni: "a.example", now: []*Chain{named("wild", "*.example"), named("a", "a.example")}, want: "a"},
		{what: "sources", was: []*Chain{from("all")}, came: "all", now: []*Chain{from("near", "10.0.0.0/8"), from("far")}, want: "near"},
		{what: "fewer sources", was: []*Chain{from("all")}, came: "all", now: []*Chain{from("others", "192.168.0.0/16")}},
	} {
		table := func(name string, chains []*Chain, fallback *Chain) *Table {
			n, err := NewTable([]*Config{{Name: name, Address: netip.MustParseAddrPort("0.0.0.0:15006"), Chains: chains, Default: fallback}})
			if err != nil {
				t.Fatalf("%s: %v", tc.what, err)
			}
			return n
		}
		var came *Chain
		for _, c := range table("in", tc.was, nil).Configs[0].Chains {
			if c.Name == tc.came {
				came = c
			}
		}
		info := &conn.Info{Local: netip.MustParseAddrPort("10.0.0.1:15006"), Original: netip.MustParseAddrPort("10.0.0.1:80"),
			Remote: netip.MustParseAddrPort("10.0.0.2:5555"), ServerName: tc.sni}
		if came.TLS != nil {
			info.TLS = &tls.Peer{Version: tls.TLS13, SNI: tc.sni, Presented: true, ID: w.ID()}
		}
		got := ""
		if c := table("in", tc.now, tc.fallback).Again(came, info); c != nil {
			got = c.Name
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.what, got, tc.want)
		}
		if c := table("another", tc.now, tc.fallback).Again(came, info); c != nil {
			t.Errorf("%s: found in another listener", tc.what)
		}
		if c := table("in", tc.was, nil).Again(came, info); c != came {
			t.Errorf("%s: not found in the listener it came to", tc.what)
		}
	}
}
