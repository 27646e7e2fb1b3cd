package main

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Wrong flags and files are refused with a sentence that names them.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	roots := write("roots.pem", "no certificate")
	one := write("one.yaml", "static_resources: {listeners: [{name: l}]}")
	mesh := func(more ...string) []string {
		return append([]string{"sidecar", "--name", "a-0", "--ip", "10.0.0.1", "--xds", "unix:///x", "--ca-root", roots}, more...)
	}
	t.Setenv("POD_NAME", "")
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", nil, "no command given"},
		{"an unknown command", []string{"walk"}, `unknown command "walk"`},
		{"run without a file", []string{"run"}, "-c is missing"},
		{"a file that is not there", []string{"run", "-c", filepath.Join(dir, "none")}, "no such file"},
		{"a file that is not YAML", []string{"run", "-c", write("a.yaml", "a: [")}, "a.yaml"},
		{"an unknown field", []string{"run", "-c", write("b.yaml", "static_resourcez: {}")}, "static_resourcez"},
		{"nothing to listen on", []string{"run", "-c", write("c.yaml", "static_resources: {}")}, "listeners: is empty"},
		{"dynamic configuration", []string{"run", "-c", write("d.yaml", "dynamic_resources: {ads_config: {}}")}, "dynamic_resources.cds_config: only {ads: {}}"},
		{"an xDS server nobody knows", []string{"run", "-c", write("d2.yaml", "dynamic_resources: {cds_config: {ads: {}}, lds_config: {ads: {}}, ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: xds}}]}}")}, `there is no cluster "xds"`},
		{"static secrets", []string{"run", "-c", write("e.yaml", "static_resources: {secrets: [{name: x}]}")}, "static_resources.secrets"},
		{"statistics for others", []string{"run", "-c", write("s1.yaml", "stats_sinks: [{name: x}]\nstatic_resources: {listeners: [{name: l}]}")}, "stats_sinks: not supported"},
		{"an administration for a few", []string{"run", "-c", write("s2.yaml", "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}, allow_paths: [{exact: /stats}]}\nstatic_resources: {listeners: [{name: l}]}")}, "admin.allow_paths: not supported"},
		{"an administration by a pipe", []string{"run", "-c", write("s3.yaml", "admin: {address: {pipe: {path: /x}}}\nstatic_resources: {listeners: [{name: l}]}")}, "admin.address.pipe: not supported"},
		{"an administration for everybody", []string{"run", "-c", one, "--admin", "0.0.0.0:0"}, "--admin: 0.0.0.0:0 is not a loopback address (0.0.0.0); the admin interface is for this machine only: use 127.0.0.1"},
		{"an administration for all addresses", []string{"run", "-c", one, "--admin", ":0"}, `--admin: ":0" means all addresses`},
		{"an administration for everybody, IPv6", []string{"run", "-c", one, "--admin", "[::]:0"}, "--admin: [::]:0 is not a loopback address"},
		{"an administration for everybody, mapped", []string{"run", "-c", one, "--admin", "[::ffff:0.0.0.0]:0"}, "is not a loopback address (0.0.0.0)"},
		{"an administration without a port", []string{"run", "-c", one, "--admin", "127.0.0.1"}, "--admin: address 127.0.0.1: missing port in address: say 127.0.0.1:15000 or unix:///path"},
		{"an administration nowhere", []string{"run", "-c", one, "--admin", "unix://" + filepath.Join(dir, "none", "socket")}, "--admin: listen unix"},
		{"an administration for everybody in the file", []string{"run", "-c", write("s7.yaml", "admin: {address: {socket_address: {address: 0.0.0.0, port_value: 15000}}}\nstatic_resources: {listeners: [{name: l}]}")},
			"s7.yaml: admin.address.socket_address: 0.0.0.0:15000 is not a loopback address"},
		{"an administration at no port", []string{"run", "-c", write("s8.yaml", "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 80000}}}\nstatic_resources: {listeners: [{name: l}]}")},
			"s8.yaml: admin.address.socket_address: "},
		{"an administration by datagrams", []string{"run", "-c", write("s9.yaml", "admin: {address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 1}}}\nstatic_resources: {listeners: [{name: l}]}")},
			"admin.address.socket_address.protocol: not supported"},
		{"a token for the xDS server", []string{"run", "-c", write("s4.yaml", "dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}, initial_metadata: [{key: a, value: b}]}]}}")}, "dynamic_resources.ads_config.grpc_services[0].initial_metadata: not supported"},
		{"a key of the runtime", []string{"run", "-c", write("s5.yaml", "layered_runtime: {layers: [{name: a, static_layer: {x.y: 1}}]}\nstatic_resources: {listeners: [{name: l}]}")}, "layered_runtime.layers[0].static_layer: x.y is not supported"},
		{"a runtime from elsewhere", []string{"run", "-c", write("s6.yaml", "layered_runtime: {layers: [{name: a, admin_layer: {}}]}\nstatic_resources: {listeners: [{name: l}]}")}, "layered_runtime.layers[0]: only a static_layer"},
		{"a listener without chains", []string{"run", "-c", write("f.yaml", "static_resources: {listeners: [{name: l, address: {socket_address: {address: 127.0.0.1, port_value: 1}}}]}")}, "listener l: has no filter chain"},
		{"a listener without a name", []string{"run", "-c", write("n.yaml", "static_resources: {listeners: [{address: {socket_address: {address: 127.0.0.1, port_value: 1}}}]}")}, "listener static_resources.listeners[0]: has no filter chain"},
		{"an unknown field deep inside", []string{"run", "-c", write("h.yaml", "static_resources:\n  listeners:\n  - name: a\n  - name: b\n    filter_chains: [{filters: []}, {bogus: 1}]\n")}, `h.yaml: static_resources.listeners[1].filter_chains[1].bogus: unknown field "bogus"`},
		{"a wrong type", []string{"run", "-c", write("i.yaml", "static_resources: {clusters: [{name: a, connect_timeout: 5 minutes}]}")}, `i.yaml: static_resources.clusters[0].connect_timeout: invalid google.protobuf.Duration value "5 minutes"`},
		{"an empty file", []string{"run", "-c", write("j.yaml", "")}, "j.yaml: is not a bootstrap"},
		{"a list", []string{"run", "-c", write("k.yaml", "[]")}, "k.yaml: is not a bootstrap"},
		{"two listeners of one name", []string{"run", "-c", write("l.yaml", "static_resources: {listeners: [{name: l}, {name: l}]}")}, `static_resources.listeners[1]: there are two listeners "l"`},
		{"two clusters of one name", []string{"run", "-c", write("m.yaml", "static_resources: {listeners: [{name: l}], clusters: [{name: c}, {name: c}]}")}, `static_resources.clusters[1]: there are two clusters "c"`},
		{"a loud log", []string{"run", "-c", write("g.yaml", "static_resources: {listeners: [{name: l}]}"), "--log-level", "loud"}, "--log-level"},
		{"a pod without a name", []string{"sidecar"}, "POD_NAME is missing"},
		{"an unknown flag of a pod", []string{"proxy", "router", "--bogus"}, "-bogus"},
		{"a sidecar without a name", []string{"sidecar", "--xds", "x"}, "is missing"},
		{"an address that is none", mesh("--ip", "here"), "--ip"},
		{"roots that are none", mesh(), "--ca-root"},
		{"an unknown capture", mesh("--capture", "magic"), "--capture"},
		{"a label without a value", mesh("--labels", "app"), "--labels"},
		{"an inbound that is none", mesh("--inbound", "9080"), "--inbound"},
		{"a further argument", mesh("now"), `unexpected argument "now"`},
	} {
		if err := run(c.args); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", c.name, err, c.want)
		}
	}
}

// Every type of Envoy's that stands in a typed_config of what the proxy serves can be written in a bootstrap.
func TestTypesInBootstrap(t *testing.T) {
	for _, name := range []string{
		"filters.listener.original_dst.v3.OriginalDst", "filters.listener.tls_inspector.v3.TlsInspector", "filters.listener.http_inspector.v3.HttpInspector",
		"filters.listener.original_src.v3.OriginalSrc", "filters.listener.proxy_protocol.v3.ProxyProtocol",
		"filters.network.http_connection_manager.v3.HttpConnectionManager", "filters.network.tcp_proxy.v3.TcpProxy", "filters.network.sni_cluster.v3.SniCluster",
		"filters.network.connection_limit.v3.ConnectionLimit", "filters.http.router.v3.Router", "filters.http.fault.v3.HTTPFault", "filters.http.grpc_web.v3.GrpcWeb",
		"transport_sockets.raw_buffer.v3.RawBuffer", "transport_sockets.tls.v3.DownstreamTlsContext", "transport_sockets.tls.v3.UpstreamTlsContext",
		"transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport", "upstreams.http.v3.HttpProtocolOptions",
		"access_loggers.file.v3.FileAccessLog", "http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig", "retry.host.previous_hosts.v3.PreviousHostsPredicate",
	} {
		// Wherever it stands, the reader must know it.
		text := "static_resources: {listeners: [{name: l, listener_filters: [{name: f, typed_config: {\"@type\": type.googleapis.com/envoy.extensions." + name + "}}]}]}"
		if _, err := parseBootstrap([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A laptop's gateway listens on loopback only, on the port the user chose.
func TestListenMap(t *testing.T) {
	m, err := parseListenMap("0.0.0.0:8080=127.0.0.1:18080,0.0.0.0=127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]string{
		"0.0.0.0:8080": "127.0.0.1:18080", "0.0.0.0:31400": "127.0.0.1:31400", "10.0.0.1:8080": "10.0.0.1:8080", "[::]:8080": "[::]:8080",
	} {
		if got := m.of(netip.MustParseAddrPort(from)).String(); got != want {
			t.Errorf("%s → %s, want %s", from, got, want)
		}
	}
	for _, bad := range []string{"x", "0.0.0.0:80=x", "0.0.0.0=x", "0.0.0.0"} {
		if _, err := parseListenMap(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// Configuration on demand is for sidecars whose connections are captured, unless it is not wanted.
func TestOnDemandIsAnnounced(t *testing.T) {
	for _, c := range []struct {
		kind string
		args []string
		want bool
	}{
		{"sidecar", nil, true}, {"sidecar", []string{"--capture", "tproxy"}, true}, {"sidecar", []string{"--on-demand=false"}, false},
		{"sidecar", []string{"--capture", "none"}, false}, {"sidecar", []string{"--virtual-net", "127.9"}, false}, {"gateway", nil, false},
	} {
		m, err := parseMesh(c.kind, append([]string{"--name", "a", "--ip", "10.0.0.1", "--xds", "x", "--ca-root", "y"}, c.args...))
		if err != nil {
			t.Fatal(err)
		}
		_, meta, err := m.node(c.kind)
		if err != nil {
			t.Fatal(err)
		}
		if _, said := meta["WEIR"].(map[string]any)["ONDEMAND"]; said != c.want || m.onDemand != c.want {
			t.Errorf("%s %v: said %v, does %v, want %v", c.kind, c.args, said, m.onDemand, c.want)
		}
	}
}

// The admin interface is where its address says, on this machine: a name is looked up, and a Unix socket is its owner's alone.
func TestListenAdmin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "admin.sock")
	for address, network := range map[string]string{"127.0.0.1:0": "tcp", "localhost:0": "tcp", "127.9.9.9:0": "tcp", "unix://" + file: "unix"} {
		l, err := listenAdmin(t.Context(), "--admin", address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		if a, ok := l.Addr().(*net.TCPAddr); l.Addr().Network() != network || ok && !a.IP.IsLoopback() {
			t.Errorf("%s: listens on %v", address, l.Addr())
		}
		if info, err := os.Stat(file); network == "unix" && (err != nil || info.Mode().Perm() != 0o600) {
			t.Errorf("%s: %v, %v", address, info, err)
		}
		l.Close()
	}
}

// A name of which one address is another machine's, or of none, is not this machine.
func TestAdminByAName(t *testing.T) {
	names := map[string][]netip.Addr{
		"here": {netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}, "both": {netip.MustParseAddr("::1"), netip.MustParseAddr("10.0.0.5")}, "mapped": {netip.MustParseAddr("::ffff:10.0.0.5")},
	}
	lookup := func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if a := names[host]; a != nil {
			return a, nil
		}
		return nil, errors.New("no such host")
	}
	for address, want := range map[string]string{
		"here:1": "127.0.0.1:1", "both:1": "both:1 is not a loopback address (10.0.0.5)", "mapped:1": "mapped:1 is not a loopback address (10.0.0.5)", "nobody:1": "no such host",
	} {
		at, err := loopback(t.Context(), lookup, address)
		if got := at.String(); err != nil && !strings.Contains(err.Error(), want) || err == nil && got != want {
			t.Errorf("%s: %s, %v; want %s", address, got, err, want)
		}
	}
}
