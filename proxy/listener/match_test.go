package listener

import (
	"net/netip"
	"strings"
	"testing"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, x := range s {
		out = append(out, netip.MustParsePrefix(x))
	}
	return out
}

func compiled(t *testing.T, chains ...*Chain) *matcher {
	t.Helper()
	m, err := compile(chains)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *matcher) match(c connection) string {
	names, _ := m.forDestination(c.dst)
	if names == nil {
		return "-"
	}
	if ch := names.find(&c); ch != nil {
		return ch.Name
	}
	return "-"
}

func alpn(p ...string) (out [][]byte) {
	for _, x := range p {
		out = append(out, []byte(x))
	}
	return out
}

// The inbound listener of a sidecar as Istio writes it: a permissive HTTP port, a
// strict one, a port without mutual TLS, and the pass-through for all others.
func TestInboundChains(t *testing.T) {
	http := []string{"istio-http/1.0", "istio-http/1.1", "istio-h2"}
	tcp := []string{"istio-peer-exchange", "istio"}
	m := compiled(t,
		&Chain{Name: "9080 mtls http", Match: Match{DestinationPort: 9080, TransportProtocol: TLS, ApplicationProtocols: http}},
		&Chain{Name: "9080 mtls tcp", Match: Match{DestinationPort: 9080, TransportProtocol: TLS, ApplicationProtocols: tcp}},
		&Chain{Name: "9080 plain", Match: Match{DestinationPort: 9080, TransportProtocol: RawBuffer}},
		&Chain{Name: "9080 own tls", Match: Match{DestinationPort: 9080, TransportProtocol: TLS}},
		&Chain{Name: "9443 strict", Match: Match{DestinationPort: 9443, TransportProtocol: TLS, ApplicationProtocols: http}},
		&Chain{Name: "3306 plain", Match: Match{DestinationPort: 3306}},
		&Chain{Name: "blackhole", Match: Match{DestinationPort: 15006}},
		&Chain{Name: "pass mtls", Match: Match{TransportProtocol: TLS, ApplicationProtocols: tcp}},
		&Chain{Name: "pass http", Match: Match{TransportProtocol: RawBuffer, ApplicationProtocols: []string{"http/1.1", "h2c"}}},
		&Chain{Name: "pass", Match: Match{}},
	)
	for _, tc := range []struct {
		port      uint16
		transport string
		alpn      []string
		want      string
	}{
		{9080, TLS, []string{"istio-http/1.1", "istio", "http/1.1"}, "9080 mtls http"},
		{9080, TLS, []string{"istio-peer-exchange", "istio"}, "9080 mtls tcp"},
		{9080, TLS, []string{"istio", "istio-http/1.1"}, "9080 mtls tcp"}, // the client's order decides
		{9080, TLS, []string{"h2", "http/1.1"}, "9080 own tls"},
		{9080, TLS, nil, "9080 own tls"},
		{9080, RawBuffer, []string{"http/1.1"}, "9080 plain"},
		{9080, RawBuffer, nil, "9080 plain"},
		{9443, RawBuffer, nil, "-"}, // strict: nothing less specific takes it
		{9443, TLS, []string{"h2"}, "-"},
		{9443, TLS, []string{"istio-h2"}, "9443 strict"},
		{3306, RawBuffer, nil, "3306 plain"},
		{3306, TLS, nil, "3306 plain"},
		{15006, RawBuffer, nil, "blackhole"},
		{7777, TLS, []string{"istio"}, "pass mtls"},
		{7777, TLS, []string{"h2"}, "-"}, // raw_buffer and "" do not catch what "tls" has an entry for
		{7777, RawBuffer, []string{"http/1.1"}, "pass http"},
		{7777, RawBuffer, nil, "-"},
	} {
		got := m.match(connection{dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), tc.port), transport: tc.transport, alpn: alpn(tc.alpn...)})
		if got != tc.want {
			t.Errorf("port %d, %s, %v: %q, want %q", tc.port, tc.transport, tc.alpn, got, tc.want)
		}
	}
	for port, want := range map[uint16][2]bool{9080: {true, false}, 3306: {false, false}, 9443: {true, false}, 1: {true, true}} {
		_, p := m.forDestination(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
		if got := [2]bool{p.needTLS, p.needHTTP}; got != want {
			t.Errorf("port %d: inspect TLS, HTTP: %v, want %v", port, got, want)
		}
	}
}

func TestServerNames(t *testing.T) {
	m := compiled(t,
		&Chain{Name: "exact", Match: Match{ServerNames: []string{"www.example.com", "Shop.example.com"}}},
		&Chain{Name: "wild", Match: Match{ServerNames: []string{"*.example.com"}}},
		&Chain{Name: "com", Match: Match{ServerNames: []string{"*.com"}}},
		&Chain{Name: "any"},
	)
	for sni, want := range map[string]string{
		"www.example.com": "exact", "shop.example.com": "exact", "a.example.com": "wild", "a.b.example.com": "wild",
		"example.com": "com", "com": "any", "": "any", "example.org": "any", ".example.com": "wild",
	} {
		if got := m.match(connection{dst: netip.MustParseAddrPort("10.0.0.1:443"), sni: sni, transport: TLS}); got != want {
			t.Errorf("%q: %q, want %q", sni, got, want)
		}
	}
}

func TestPrefixesAndSources(t *testing.T) {
	m := compiled(t,
		&Chain{Name: "net", Match: Match{DestinationPrefixes: prefixes("10.0.0.0/8", "192.168.0.0/16")}},
		&Chain{Name: "host", Match: Match{DestinationPrefixes: prefixes("10.1.1.1/32"), SourceType: External}},
		&Chain{Name: "host from itself", Match: Match{DestinationPrefixes: prefixes("10.1.1.1/32"), SourceType: SameHost}},
		&Chain{Name: "v6", Match: Match{DestinationPrefixes: prefixes("2001:db8::/32")}},
		&Chain{Name: "office", Match: Match{SourcePrefixes: prefixes("172.16.0.0/12")}},
		&Chain{Name: "admin", Match: Match{SourcePrefixes: prefixes("172.16.9.0/24"), SourcePorts: []uint16{999}}},
		&Chain{Name: "rest"},
	)
	for _, tc := range []struct{ dst, src, want string }{
		{"10.2.3.4:80", "1.1.1.1:5", "net"},
		{"192.168.1.1:80", "1.1.1.1:5", "net"},
		{"10.1.1.1:80", "1.1.1.1:5", "host"},
		{"10.1.1.1:80", "127.0.0.1:5", "host from itself"},
		{"10.1.1.1:80", "10.1.1.1:5", "host from itself"},
		{"[2001:db8::1]:80", "[::1]:5", "v6"},
		{"8.8.8.8:80", "172.16.1.1:5", "office"},
		{"8.8.8.8:80", "172.16.9.1:999", "admin"},
		{"8.8.8.8:80", "172.16.9.1:5", "-"}, // the longer prefix hides the shorter one
		{"8.8.8.8:80", "1.1.1.1:5", "rest"},
	} {
		src := netip.MustParseAddrPort(tc.src)
		got := m.match(connection{dst: netip.MustParseAddrPort(tc.dst), src: src, direct: src.Addr(), transport: RawBuffer})
		if got != tc.want {
			t.Errorf("%s from %s: %q, want %q", tc.dst, tc.src, got, tc.want)
		}
	}
}

// Who connected comes first, whatever a PROXY header says, then whether that is here, then the source's prefix: the first that
// is said hides the others. A Unix socket is here.
func TestSourceTypes(t *testing.T) {
	m := compiled(t,
		&Chain{Name: "balancer", Match: Match{DirectSourcePrefixes: prefixes("10.9.0.0/16")}},
		&Chain{Name: "balancer, for outside", Match: Match{DirectSourcePrefixes: prefixes("10.9.0.0/16"), SourceType: External}},
		&Chain{Name: "here", Match: Match{SourceType: SameHost}},
		&Chain{Name: "office", Match: Match{SourcePrefixes: prefixes("172.16.0.0/12", "127.0.0.0/8")}},
		&Chain{Name: "outside", Match: Match{SourceType: External, SourcePrefixes: prefixes("172.16.9.0/24")}},
	)
	for _, tc := range []struct{ direct, src, want string }{
		{"10.9.0.1", "192.0.2.1:5", "balancer, for outside"},
		{"10.9.0.1", "127.0.0.1:5", "balancer"},
		{"127.0.0.1", "127.0.0.1:5", "here"},
		{"::1", "[::1]:5", "here"},
		{"10.0.0.1", "10.0.0.1:5", "here"},
		{"", "", "here"},
		{"127.0.0.1", "172.16.9.1:5", "outside"}, // a proxy beside it speaks for somebody else
		{"172.16.1.1", "172.16.1.1:5", "-"},      // being outside hides the chain that does not ask
	} {
		c := connection{dst: netip.MustParseAddrPort("10.0.0.1:80"), transport: RawBuffer}
		if tc.src != "" {
			c.direct, c.src = netip.MustParseAddr(tc.direct), netip.MustParseAddrPort(tc.src)
		}
		if got := m.match(c); got != tc.want {
			t.Errorf("%s for %s: %q, want %q", tc.direct, tc.src, got, tc.want)
		}
	}
}

func TestBadChains(t *testing.T) {
	for name, chains := range map[string][]*Chain{
		"the same connections as": {{Name: "a", Match: Match{ServerNames: []string{"x", "y"}}}, {Name: "b", Match: Match{ServerNames: []string{"y"}}}},
		"has the form":            {{Name: "a", Match: Match{ServerNames: []string{"*"}}}},
		"*.example.com":           {{Name: "a", Match: Match{ServerNames: []string{"a.*.com"}}}},
	} {
		if _, err := compile(chains); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want %q", err, name)
		}
	}
}

// Where a redirected connection belongs.
func TestForDestination(t *testing.T) {
	caught := &Config{Name: "virtualOutbound", Direction: Outbound}
	inbound := &Config{Name: "virtualInbound", Direction: Inbound}
	at := func(name, addr string) *Config {
		return &Config{Name: name, Direction: Outbound, Address: netip.MustParseAddrPort(addr)}
	}
	table, err := NewTable([]*Config{
		caught, inbound, at("http", "0.0.0.0:9080"), at("vip", "10.0.0.7:3306"), at("exact", "10.0.0.8:9080"), at("v6", "[::]:8080"),
	})
	if err == nil {
		t.Fatal("two listeners without an address were accepted")
	}
	caught.Address, inbound.Address = netip.MustParseAddrPort("0.0.0.0:15001"), netip.MustParseAddrPort("0.0.0.0:15006")
	inbound.Direction = Inbound
	table, err = NewTable([]*Config{
		caught, inbound, at("http", "0.0.0.0:9080"), at("vip", "10.0.0.7:3306"), at("exact", "10.0.0.8:9080"), at("v6", "[::]:8080"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		dst    string
		caught *Config
		want   string
	}{
		{"10.0.0.9:9080", caught, "http"},
		{"10.0.0.8:9080", caught, "exact"},
		{"10.0.0.7:3306", caught, "vip"},
		{"10.0.0.9:3306", caught, "virtualOutbound"},
		{"[2001:db8::1]:8080", caught, "v6"},
		{"[2001:db8::1]:9080", caught, "http"},
		{"10.0.0.1:8080", caught, "virtualOutbound"},
		{"10.0.0.1:9080", inbound, "virtualInbound"}, // never into the other direction
	} {
		if got := table.ForDestination(netip.MustParseAddrPort(tc.dst), tc.caught); got.Name != tc.want {
			t.Errorf("%s: %s, want %s", tc.dst, got.Name, tc.want)
		}
	}
}
