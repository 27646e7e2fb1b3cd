package state

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/proxy/listener"
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
			want.StatPrefix, want.Clusters = "x", []tcp.Weighted{{Weight: 1}}
			if d := cmp.Diff(want, got); d != "" || !l.Config.Chains[0].ServerFirst {
				t.Errorf("%s: server first %v, %s", text, l.Config.Chains[0].ServerFirst, d)
			}
		}
	}
}
