package state

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/weirmesh/weir/proxy/listener"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/tcp"
	"github.com/weirmesh/weir/xds/resource"
)

// The PROXY protocol outwards, over plaintext and around TLS, and inwards.
func TestProxyProtocol(t *testing.T) {
	b := newBuilder()
	const outer = `name: %q load_assignment { endpoints { lb_endpoints { endpoint { address { socket_address { address: "10.0.0.1" port_value: 80 } } } } } } transport_socket { name: "p"
		typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport] { `
	if _, _, err := b.Apply(update(t, resource.ClusterType,
		`name: "plain" `+outer[9:]+`transport_socket { name: "raw" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer] {} } } } } }`,
		`name: "tls" `+outer[9:]+`config { version: V2 } transport_socket { name: "tls" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext] { sni: "a" } } } } } }`)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]struct {
		version proxyproto.Version
		tls     bool
	}{"plain": {proxyproto.V1, false}, "tls": {proxyproto.V2, true}} {
		if tr := b.State().ClusterNamed(name).Endpoints[0].Transport.Load(); tr == nil || tr.Proxy != want.version || (tr.TCP != nil) != want.tls {
			t.Errorf("%s: %+v", name, tr)
		}
	}
	if _, _, err := b.Apply(update(t, resource.ListenerType, `name: "gateway" address { socket_address { address: "0.0.0.0" port_value: 8443 } }
		listener_filters { name: "envoy.filters.listener.proxy_protocol" typed_config { [type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol] {
			allow_requests_without_proxy_protocol: true disallowed_versions: V1 } } }
		filter_chains { filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "x" cluster: "plain" } } } }`)); err != nil {
		t.Fatal(err)
	}
	for l := range b.State().Listeners() {
		if d := cmp.Diff(&listener.ProxyHeader{Optional: true, Refused: []proxyproto.Version{proxyproto.V1}}, l.Config.Proxy); d != "" {
			t.Error(d)
		}
	}
}

// The limits of a TCP proxy.
func TestTCPProxy(t *testing.T) {
	for text, want := range map[string]tcp.Config{
		``: {MaxConnectAttempts: 1},
		`idle_timeout {} max_downstream_connection_duration { seconds: 60 } max_connect_attempts { value: 3 }`: {IdleTimeout: -1, MaxDuration: time.Minute, MaxConnectAttempts: 3},
		`idle_timeout { seconds: 5 } max_connect_attempts { value: 3000000 }`:                                  {IdleTimeout: 5 * time.Second, MaxConnectAttempts: 10},
	} {
		b := newBuilder()
		if _, _, err := b.Apply(update(t, resource.ListenerType, `name: "l" address { socket_address { address: "0.0.0.0" port_value: 1 } } filter_chains { filters { name: "tcp"
			typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "x" cluster: "c" `+text+` } } } }`)); err != nil {
			t.Fatal(err)
		}
		for l := range b.State().Listeners() {
			got := *l.Config.Chains[0].Filters.(*tcp.Config)
			got.Chain = nil
			want.StatPrefix, want.Clusters = "x", []tcp.Weighted{{Name: "c", Weight: 1}}
			if d := cmp.Diff(want, got, cmpopts.EquateComparable(observe.Origin{})); d != "" || !l.Config.Chains[0].ServerFirst {
				t.Errorf("%s: server first %v, %s", text, l.Config.Chains[0].ServerFirst, d)
			}
		}
	}
}

// Whose rule chose where a connection goes, its chain says.
func TestTCPRule(t *testing.T) {
	b := newBuilder()
	if _, _, err := b.Apply(update(t, resource.ListenerType, `name: "l" address { socket_address { address: "0.0.0.0" port_value: 1 } } filter_chains {
		metadata { filter_metadata { key: "istio" value { fields { key: "config" value { string_value: "/x" } } } } filter_metadata { key: "weir" value { fields { key: "line" value { number_value: 7 } } } } }
		filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "x" cluster: "c" } } } }`)); err != nil {
		t.Fatal(err)
	}
	for l := range b.State().Listeners() {
		if o := l.Config.Chains[0].Filters.(*tcp.Config).Source.Object(); o != (observe.Object{Config: "/x", Line: 7}) {
			t.Errorf("%+v", o)
		}
	}
}

// What a chain is for is all in its match.
func TestChainMatch(t *testing.T) {
	text := `destination_port { value: 443 } prefix_ranges { address_prefix: "10.0.0.0" prefix_len { value: 8 } } server_names: "*.example.com" transport_protocol: "tls" application_protocols: "h2"
	  direct_source_prefix_ranges { address_prefix: "10.9.0.0" prefix_len { value: 16 } } source_type: SAME_IP_OR_LOOPBACK source_prefix_ranges { address_prefix: "::1" prefix_len { value: 128 } } source_ports: 999`
	want := listener.Match{DestinationPort: 443, DestinationPrefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, ServerNames: []string{"*.example.com"}, TransportProtocol: listener.TLS,
		ApplicationProtocols: []string{"h2"}, DirectSourcePrefixes: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, SourceType: listener.SameHost,
		SourcePrefixes: []netip.Prefix{netip.MustParsePrefix("::1/128")}, SourcePorts: []uint16{999}}
	match := &listenerv3.FilterChainMatch{}
	if err := prototext.Unmarshal([]byte(text), match); err != nil {
		t.Fatal(err)
	}
	if err := check(match, "m"); err != nil {
		t.Fatal(err)
	}
	got, err := decodeChainMatch(match, "m")
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{})); err != nil || d != "" {
		t.Errorf("%v, %s", err, d)
	}
	if got, err := decodeChainMatch(&listenerv3.FilterChainMatch{SourceType: listenerv3.FilterChainMatch_EXTERNAL}, "m"); err != nil || got.SourceType != listener.External {
		t.Errorf("EXTERNAL: %v, %v", got.SourceType, err)
	}
}

// Where listeners listen: both families by one wildcard, a Unix socket, and what their
// sockets are set to.
func TestListenerAddresses(t *testing.T) {
	const chain = ` filter_chains { filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "x" cluster: "c" } } } }`
	for text, want := range map[string]string{
		`address { socket_address { address: "0.0.0.0" port_value: 80 } } additional_addresses { address { socket_address { address: "::" port_value: 80 } } }`:                   "0.0.0.0:80 [::]:80",
		`address { socket_address { address: "::" port_value: 80 } }`:                                                                                                             "[::]:80",
		`address { socket_address { address: "::" port_value: 80 ipv4_compat: true } }`:                                                                                           "[::]:80 0.0.0.0:80",
		`address { socket_address { address: "::" port_value: 80 ipv4_compat: true } } additional_addresses { address { socket_address { address: "0.0.0.0" port_value: 80 } } }`: "[::]:80 0.0.0.0:80",
		`address { pipe { path: "/run/x.sock" } }`:                                                                                                             "unix:/run/x.sock",
		`address { pipe { path: "/run/x.sock" } } bind_to_port { value: false }`:                                                                               "listener l.address: a Unix socket that is not bound finds no connections",
		`address { socket_address { address: "10.0.0.1" port_value: 80 } } bind_to_port { value: false }`:                                                      "",
		`address { socket_address { address: "10.0.0.1" port_value: 80 } } transparent { value: true } freebind { value: true } tcp_backlog_size { value: 7 }`: "10.0.0.1:80 transparent freebind backlog 7",
	} {
		b := newBuilder()
		got := ""
		if _, _, err := b.Apply(update(t, resource.ListenerType, `name: "l" `+text+chain)); err != nil {
			got = strings.ReplaceAll(err.Error(), "\u00a0", " ")
		}
		for l := range b.State().Listeners() {
			for _, a := range l.Config.Binds {
				got += " " + a.String()
			}
			if l.Config.Transparent {
				got += " transparent"
			}
			if l.Config.FreeBind {
				got += " freebind"
			}
			if l.Config.Backlog != 0 {
				got += fmt.Sprintf(" backlog %d", l.Config.Backlog)
			}
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// An endpoint with several addresses, and one that is a Unix socket; those who want to
// know the mesh's addresses hear of each, and when it leaves.
func TestEndpointAddresses(t *testing.T) {
	peers := told{}
	b := NewBuilder(Options{Identity: nobody{}, Peers: peers})
	apply := func(typ, text string) error {
		_, _, err := b.Apply(update(t, typ, text))
		return err
	}
	const name = `cluster_name: "a" endpoints { `
	const istio = ` metadata { filter_metadata { key: "envoy.transport_socket_match" value { fields { key: "tlsMode" value { string_value: "istio" } } } } } `
	if err := apply(resource.ClusterType, `name: "a" type: EDS`); err != nil {
		t.Fatal(err)
	}
	dual := `lb_endpoints { endpoint { address { socket_address { address: "10.0.0.1" port_value: 80 } } additional_addresses { address { socket_address { address: "2001:db8::1" port_value: 80 } } } } ` + istio + `}`
	if err := apply(resource.EndpointType, name+dual+` lb_endpoints { endpoint { address { pipe { path: "/run/x.sock" } } } `+istio+`} lb_endpoints { endpoint { address { socket_address { address: "10.0.0.9" port_value: 80 } } } } }`); err != nil {
		t.Fatal(err)
	}
	eps := b.State().ClusterNamed("a").Endpoints
	if len(eps) != 3 || len(eps[0].Also) != 1 || eps[0].Also[0].String() != "[2001:db8::1]:80" || eps[1].Path != "/run/x.sock" {
		t.Errorf("endpoints %+v", eps)
	}
	if d := cmp.Diff(told{"10.0.0.1": 1, "2001:db8::1": 1}, peers); d != "" {
		t.Error(d)
	}
	if err := apply(resource.EndpointType, name+dual+`}`); err != nil {
		t.Fatal(err)
	}
	if now := b.State().ClusterNamed("a").Endpoints; len(now) != 1 || now[0] != eps[0] {
		t.Error("the endpoint did not survive")
	}
	if err := apply(resource.EndpointType, name+`lb_endpoints { endpoint { address { socket_address { address: "10.0.0.1" port_value: 80 } } additional_addresses { address { pipe { path: "x" } } } } } }`); err == nil {
		t.Error("a pipe among the addresses was accepted")
	}
	if err := apply(resource.EndpointType, name+`}`); err != nil {
		t.Fatal(err)
	}
	if len(peers) != 0 {
		t.Errorf("left over: %v", peers)
	}
}

type told map[string]int

func (p told) Add(a netip.Addr) { p[a.String()]++ }
func (p told) Remove(a netip.Addr) {
	if p[a.String()]--; p[a.String()] == 0 {
		delete(p, a.String())
	}
}

func TestLookupFamily(t *testing.T) {
	v4, v6, mapped := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:10.0.0.2")
	for family, want := range map[string]string{
		"":             "[2001:db8::1] [10.0.0.1]",
		"AUTO":         "[2001:db8::1] [10.0.0.1]",
		"V4_PREFERRED": "[10.0.0.1 10.0.0.2] [2001:db8::1]",
		"V4_ONLY":      "[10.0.0.1 10.0.0.2] []",
		"V6_ONLY":      "[2001:db8::1] []",
		"ALL":          "[10.0.0.1 10.0.0.2 2001:db8::1] [2001:db8::1]",
	} {
		b := newBuilder()
		text := `name: "a" type: STRICT_DNS load_assignment { endpoints { lb_endpoints { endpoint { address { socket_address { address: "a.example" port_value: 80 } } } } } }`
		if family != "" {
			text += " dns_lookup_family: " + family
		}
		if _, _, err := b.Apply(update(t, resource.ClusterType, text)); err != nil {
			t.Fatal(err)
		}
		names, _ := b.DNSNames()
		l := names["a"][0].Lookup
		other := v6 // the only one there is
		if strings.HasPrefix(want, "[2001") && family != "V6_ONLY" {
			other = v4
		} else if family == "V6_ONLY" {
			other = v4
		}
		if got := fmt.Sprint(l.Of([]netip.Addr{v4, mapped, v6}), l.Of([]netip.Addr{other})); got != want {
			t.Errorf("%s: %s, want %s", family, got, want)
		}
	}
}

// The filter connection_limit, of a chain.
func TestConnectionLimit(t *testing.T) {
	for text, want := range map[string]string{
		`max_connections { value: 7 } delay { seconds: 1 }`:                                                "7 1s",
		`max_connections { value: 7 } runtime_enabled { default_value { value: false } runtime_key: "x" }`: "0 0s",
		``: "listener l.filter_chains[0].filters[0] limit.max_connections: must be 1 or more",
	} {
		b := newBuilder()
		got := ""
		if _, _, err := b.Apply(update(t, resource.ListenerType, `name: "l" ignore_global_conn_limit: true address { socket_address { address: "0.0.0.0" port_value: 1 } } filter_chains {
			filters { name: "limit" typed_config { [type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit] { stat_prefix: "x" `+text+` } } }
			filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "x" cluster: "c" } } } }`)); err != nil {
			got = strings.ReplaceAll(err.Error(), "\u00a0", " ")
		}
		for l := range b.State().Listeners() {
			c := l.Config.Chains[0]
			got = fmt.Sprint(c.MaxConnections, c.RefuseDelay)
			if !l.Config.IgnoreGroupLimit {
				t.Error("ignore_global_conn_limit was ignored")
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// A proxy that was told to have no identity does without what needs one, where there is
// something beside it; who was not told refuses it, and so does it where nothing is left.
func TestPlaintext(t *testing.T) {
	const (
		tcp    = ` filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "a" } } } }`
		mutual = `transport_socket { name: "tls" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.%sTlsContext] { common_tls_context {
			tls_certificate_sds_secret_configs { name: "default" } validation_context_sds_secret_config { name: "ROOTCA" } } } } } `
		listener = `name: "l" address { socket_address { address: "0.0.0.0" port_value: 15006 } }
			filter_chains { name: "tls" filter_chain_match { transport_protocol: "tls" } ` + mutual + tcp + ` filter_chains { name: "raw" ` + tcp
	)
	inbound := update(t, resource.ListenerType, fmt.Sprintf(listener, "Downstream"))
	outbound := update(t, resource.ClusterType, fmt.Sprintf(`name: "x" transport_socket_matches { name: "tlsMode-istio" `+mutual+`}`, "Upstream"))
	insists := update(t, resource.ClusterType, fmt.Sprintf(`name: "y" `+mutual, "Upstream"))

	b := NewBuilder(Options{Plaintext: true})
	s, _ := apply(t, b, inbound)
	if c := s.listeners["l"].Config.Chains; len(c) != 1 || c[0].Name != "raw" {
		t.Errorf("chains: %v", c)
	}
	apply(t, b, outbound)
	if _, _, err := b.Apply(insists); err == nil {
		t.Error("TLS that a DestinationRule asks for was left out")
	}
	for _, u := range []Update{inbound, outbound} {
		if _, _, err := NewBuilder(Options{}).Apply(u); err == nil || !strings.Contains(err.Error(), "without an identity") {
			t.Errorf("%s: %v", u.TypeURL, err)
		}
	}
}

// A TcpProxy that goes through forward proxies: what they are asked for.
func TestTunnelingConfig(t *testing.T) {
	s, _ := apply(t, newBuilder(), update(t, resource.ListenerType, `name: "l" address { socket_address { address: "127.0.0.1" port_value: 80 } } filter_chains { filters { name: "t" typed_config {
		[type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { cluster: "a" tunneling_config { hostname: "db.example:5432" use_post: true post_path: "/t"
			headers_to_add { header { key: "X-A" value: "1" } append_action: OVERWRITE_IF_EXISTS_OR_ADD } headers_to_add { header { key: "x-b" value: "2" } } } } } } }`))
	c := s.Listener("l").Config.Chains[0].Filters.(*tcp.Config).Tunnel
	if host, _ := c.Host.Literal(); host != "db.example:5432" || !c.Post || c.Path != "/t" || len(c.Headers) != 2 || c.Headers[0].Name != "x-a" || !c.Headers[0].Replaces || c.Headers[1].Replaces {
		t.Errorf("%+v", c)
	}
}
